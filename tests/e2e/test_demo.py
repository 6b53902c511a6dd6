"""The demo, as `make up` starts it: one command, and a newcomer walks from a request to a signed package."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from habeas.demo import ACCOUNTS
from habeas.demo_data import HERO
from tests.e2e.support.actors import Handler, Person
from tests.e2e.support.mail import CODE
from tests.e2e.support.package import Package
from tests.e2e.support.processes import Program, free_port, until
from tests.e2e.support.suite import HABEAS, Suite, is_ready


@dataclass
class ShownLetters:
    """The demo's page of letters, as the actors ask their mailboxes."""

    suite: Suite | None = None

    @property
    def boxes(self) -> "ShownLetters":
        return self

    def letters(self) -> list[dict[str, Any]]:
        assert self.suite is not None
        found: list[dict[str, Any]] = self.suite.call("GET", "/demo/letters.json").json()
        return found

    def code(self, address: str, reference: str) -> str:
        def found() -> str | None:
            mine = [one for one in self.letters() if one["to"] == address and reference in one["subject"]]
            codes = [match for one in mine for match in CODE.finditer(one["text"].replace(reference, ""))]
            return "".join(codes[0].groups()) if codes else None

        return until(found, why="the code was not shown")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """`habeas demo` in an empty folder."""
    folder, port, letters = tmp_path_factory.mktemp("demo"), free_port(), ShownLetters()
    url = f"sqlite+aiosqlite:///{folder / 'habeas.sqlite'}"
    suite = Suite(folder, letters, {"HABEAS_DATABASE_URL": url}, f"http://127.0.0.1:{port}")  # type: ignore[arg-type]
    letters.suite = suite
    command = ["demo", "--port", str(port), "--folder", str(folder)]
    suite.programs.append(Program("demo", [HABEAS, *command], folder, {}))
    try:
        until(lambda: is_ready(suite), seconds=60, why="the demo did not start")
        yield suite
    finally:
        suite.stop()


def test_a_newcomer_walks_from_a_request_to_a_signed_package(demo: Suite, tmp_path: Path) -> None:
    told = demo.programs[0].said()
    for words in (demo.url, "/demo/letters", HERO.email, "anna", ACCOUNTS[0].password):
        assert words in told, "the terminal says where to click and how to sign in"
    person = Person(demo, "nordlys", HERO.name, HERO.email)
    person.ask("access")
    person.prove()
    signed_in = demo.call("POST", "/v1/nordlys/token", json={"username": "anna", "password": ACCOUNTS[0].password})
    anna = Handler(demo, "nordlys", signed_in.json()["access_token"])
    case = anna.waiting(person.reference, "task")["id"]
    anna.complete(anna.task(case, "archive")["id"], "nothing")
    anna.waiting(person.reference, "approval")
    anna.mark(case, "open", [one["id"] for one in anna.records(case) if one["to_open"]])
    anna.approve(case)
    person.answered()
    package = Package(demo.call("GET", person.path("/package"), token=person.unlock()).content, tmp_path)
    assert {row["name"] for row in package.records["crm", "customer"].values()} == {HERO.name}
    assert len(package.records["tickets", "ticket"]) == 2
    assert package.records["invoices", "invoice_line"]
    jwks = demo.call("GET", "/.well-known/habeas-jwks.json?organisation=nordlys").json()
    package.check(jwks)
    (tmp_path / "jwks.json").write_text(json.dumps(jwks))
    demo.command("verify-package", str(package.zip), "--key", str(tmp_path / "jwks.json"))
    assert demo.leaks({HERO.phone, HERO.customer_number, "Havnegade 12"}) == {}


def test_letters_are_shown_to_this_machine_alone_and_by_the_demo_alone(demo: Suite, suite: Suite) -> None:
    assert isinstance(demo.call("GET", "/demo/letters.json").json(), list)
    demo.call("GET", "/demo/letters.json", headers={"host": "nordlys.example"}, expect=(400, 421))
    for path in ("/demo/letters", "/demo/letters.json"):
        suite.call("GET", path, expect=404)


def test_a_demos_database_is_never_used_for_real(demo: Suite, suite: Suite, tmp_path: Path) -> None:
    database = demo.environment["HABEAS_DATABASE_URL"]
    told = suite.command("up", expect=2, HABEAS_DATABASE_URL=database)
    assert "is a demo database" in told and "Traceback" not in told
    real = tmp_path / "real"
    real.mkdir()
    (real / "habeas.sqlite").write_bytes((suite.folder / "habeas.sqlite").read_bytes())
    told = suite.command("demo", "--folder", str(real), "--port", "1", expect=2)
    assert "is not a demo database" in told
