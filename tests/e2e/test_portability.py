"""Portability (Art. 20): what the person provided, or made by using the service, under consent or contract. No more."""

from pathlib import Path

import pytest

from tests.e2e.conftest import World
from tests.e2e.support import synapse
from tests.e2e.support.actors import Person
from tests.e2e.support.package import Package
from tests.e2e.support.planted import PORTER
from tests.e2e.support.suite import Suite
from tests.e2e.support.walk import staff

PORTABLE = {
    ("customers", "customer"): {"name", "email", "phone", "cpr", "address", "created_at"},
    ("customers", "subscription"): {"product", "started_on", "price"},
    ("customers", "ticket"): {"opened_at", "subject"},
    ("customers", "ticket_message"): {"sent_at", "body"},
    ("chat", "account"): {"displayname", "addresses", "creation_ts"},
    ("chat", "room"): {"id"},
    ("chat", "upload"): {"upload_name", "media_type", "media_length", "created_ts"},
}
"""Not the invoices (a legal obligation), not ids and scores (derived), not the paper (not by automated means)."""


@pytest.fixture(scope="module")
def moved(suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> Package:
    """A portability request from beginning to end, in English."""
    anna = staff(suite)["anna"]
    person = Person(suite, "fjordnet", PORTER.name, PORTER.email, language="en")
    person.ask("portability")
    person.prove()
    case = anna.waiting(person.reference, "task")["id"]
    letter = {"customer_no": PORTER.customer_no, "title": f"Om {PORTER.word}", "description": f"Om {PORTER.word}"}
    record = {"entity": "letter", "key": "1", "fields": letter}
    anna.complete(anna.task(case, "cabinet")["id"], "found", records=[record])
    anna.waiting(person.reference, "approval")
    anna.mark(case, "open", [one["id"] for one in anna.records(case) if one["to_open"]])
    anna.approve(case)
    assert person.answered()["headline"] == "Your answer is ready"
    content = suite.call("GET", person.path("/package"), token=person.unlock()).content
    return Package(content, tmp_path_factory.mktemp("portability"))


def test_only_provided_and_observed_fields_under_consent_or_contract_are_handed_over(moved: Package) -> None:
    fields = {group: {name for row in rows.values() for name in row} for group, rows in moved.records.items()}
    assert fields == PORTABLE


def test_all_of_what_is_portable_is_there(moved: Package, world: World) -> None:
    chat = world.chat.held[synapse.account(PORTER)]
    counts = {group: len(rows) for group, rows in moved.records.items()}
    assert counts == {
        ("customers", "customer"): 1, ("customers", "subscription"): 2, ("customers", "ticket"): 1,
        ("customers", "ticket_message"): 2, ("chat", "account"): 1, ("chat", "room"): 2, ("chat", "upload"): 3,
    }  # fmt: skip
    assert set(moved.records["chat", "upload"]) == set(chat["upload"])
    assert moved.records["customers", "customer"]["5"]["cpr"] == PORTER.cpr


def test_nothing_else_of_the_person_slipped_in(moved: Package) -> None:
    for other in (
        b"F-" + PORTER.word.encode(),
        b"Montering ved",
        PORTER.customer_no.encode(),
        b"talte ogs",
        b'"credit_score":',
    ):
        assert other not in moved.everything, other


def test_the_letter_is_no_answer_to_an_access_request(moved: Package) -> None:
    letter = moved.text("letter/answer.en.html")
    assert "Answer to your request for data portability" in letter
    for words in ("Marskhost", "Running our servers", "5 years after", "To send invoices"):
        assert words not in letter, words


def test_the_package_is_machine_readable_and_sound(moved: Package, suite: Suite, tmp_path: Path) -> None:
    moved.check(suite.call("GET", "/.well-known/habeas-jwks.json?organisation=fjordnet").json())
    keys = tmp_path / "jwks.json"
    keys.write_text(suite.call("GET", "/.well-known/habeas-jwks.json?organisation=fjordnet").text)
    suite.command("verify-package", str(moved.zip), "--key", str(keys))
