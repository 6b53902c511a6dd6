"""Does every problem have one shape, and say what the rule is and nothing else?"""

import inspect
import json

import pytest

from shared import problems
from shared.problems import Conflict, Invalid, NotFound, Problem, TooMany

KINDS = [kind for _, kind in inspect.getmembers(problems, inspect.isclass) if issubclass(kind, Problem)]


class CaseAlreadyClosed(Conflict):
    """The case was closed
    already."""

    code = "case-closed"


def test_the_docstring_is_what_the_caller_reads() -> None:
    assert CaseAlreadyClosed().document() == {
        "type": "urn:habeas:problem:case-closed",
        "title": "Conflict",
        "status": 409,
        "detail": "The case was closed already.",
    }


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_complete(kind: type[Problem]) -> None:
    document = kind().document()
    assert list(document) == ["type", "title", "status", "detail"]
    assert document["detail"]
    assert document["status"] in range(400, 504)
    assert json.loads(json.dumps(document)) == document


def test_each_status_and_each_code_stands_once() -> None:
    own = [kind for kind in KINDS if kind is not Problem]
    assert len({kind.status for kind in own}) == len(own)
    assert len({kind.code for kind in KINDS}) == len(KINDS)


def test_the_text_of_the_error_is_its_code_so_that_a_log_can_hold_it() -> None:
    assert str(NotFound("a detail for the caller")) == "not-found"
    assert str(Conflict(code="wrong-state")) == "wrong-state"


def test_one_use_may_have_its_own_detail_code_errors_and_counts() -> None:
    problem = Invalid("look again", code="needs-opening", errors=({"pointer": "/x", "detail": "is needed"},), records=3)
    assert problem.document() == {
        "type": "urn:habeas:problem:needs-opening",
        "title": "Invalid request",
        "status": 422,
        "detail": "look again",
        "records": 3,
        "errors": [{"pointer": "/x", "detail": "is needed"}],
    }


def test_when_to_try_again_is_a_header_and_not_in_the_body() -> None:
    problem = TooMany(retry_after=7)
    assert problem.retry_after == 7
    assert "retry_after" not in problem.document()
