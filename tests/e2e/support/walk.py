"""One access request from beginning to end, over HTTP, with everybody who takes part in it."""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.e2e.support import receiver
from tests.e2e.support.actors import Handler, Person
from tests.e2e.support.package import Package
from tests.e2e.support.planted import HERO
from tests.e2e.support.processes import Program, until
from tests.e2e.support.suite import PASSWORD, Suite

SCAN = b"%PDF-1.4 skannet brev om hoftebrud " + bytes(range(256)) * 4000
"""Larger than one chunk of anything, and no text."""
LETTER = {
    "customer_no": HERO.customer_no,
    "title": "Brev om hoftebrud",
    "description": "Hoftebrud nævnes i en klage over Bodil.",
}
FILE_NAME = "Klage over hoftebrud æøå.pdf"


@dataclass
class Walk:
    """What a walk leaves for the tests to look at."""

    suite: Suite
    person: Person
    case: str = ""
    told: dict[str, Any] = field(default_factory=dict)
    before_proof: dict[str, Any] = field(default_factory=dict)
    states: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Moment → what the person's status page knows."""
    cabinet: dict[str, Any] = field(default_factory=dict)
    """The manual task as its handler sees it."""
    records: list[dict[str, Any]] = field(default_factory=list)
    """What the reviewing handler sees."""
    answer: str = ""
    content: bytes = b""
    collector: str = ""
    webhooks: Path = Path()
    jwks: dict[str, Any] = field(default_factory=dict)
    package: Package | None = None

    def deliveries(self) -> list[dict[str, Any]]:
        lines = (self.webhooks / "deliveries.ndjson").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    @property
    def opened(self) -> Package:
        assert self.package is not None
        return self.package


def staff(suite: Suite) -> dict[str, Handler]:
    """Return the organisation's people: the operator makes the administrator, who makes the others."""
    administrator = Handler(suite, "fjordnet", suite.handler("fjordnet", "admin", "administrator"))
    people = {"admin": administrator}
    for username, role in (("anna", "handler"), ("bent", "handler"), ("dorte", "auditor")):
        if ("fjordnet", username) not in suite.tokens:
            body = {"username": username, "password": PASSWORD, "roles": [role]}
            administrator.call("POST", "/accounts", json=body)
        people[username] = Handler(suite, "fjordnet", suite.sign_in("fjordnet", username))
    return people


def walk(suite: Suite, folder: Path) -> Walk:
    """Ask, prove, search, review, approve, collect."""
    people = staff(suite)
    receiving = listen(suite, people["admin"], folder / "webhooks")
    try:
        return _walked(suite, people, folder)
    finally:
        receiving.stop()


def listen(suite: Suite, administrator: Handler, folder: Path) -> Program:
    """Start a receiver of webhooks and add it as an endpoint."""
    folder.mkdir()
    program = Program("receiver", [sys.executable, receiver.__file__, folder], folder, {})
    port = until(lambda: program.said().strip(), why="the receiver of webhooks did not start")
    added = administrator.call("POST", "/webhooks", json={"url": f"http://127.0.0.1:{port}/"})
    (folder / "secret").write_text(added["secret"])
    suite.planted.add(added["secret"].removeprefix("whsec_"))
    return program


def _walked(suite: Suite, people: dict[str, Handler], folder: Path) -> Walk:
    anna, bent = people["anna"], people["bent"]
    person = Person(suite, "fjordnet", HERO.name, HERO.email)
    walk = Walk(suite, person, webhooks=folder / "webhooks")
    walk.told = person.ask(
        "access", identifiers=[{"type": "phone", "value": HERO.phone}], message="Jeg brækkede hoften (hoftebrud)."
    )
    walk.before_proof = person.status()
    person.prove()
    walk.states["proven"] = person.status()
    walk.case = anna.waiting(person.reference, "task")["id"]
    confirm_phone(bent, walk.case)
    search_cabinet(walk, anna)
    review(walk, anna, bent)
    walk.states["ready"] = person.answered()
    collect(walk, folder)
    walk.states["collected"] = until(lambda: _collected(person), why="the collection was not noted")
    until(lambda: any("case.collect." in line["body"] for line in walk.deliveries()), why="no webhook told of the end")
    return walk


def confirm_phone(handler: Handler, case: str) -> None:
    """Another handler calls the person back: from now on their telephone number is proven too."""
    body = {"method": "callback", "identifiers": [{"type": "phone", "value": HERO.phone}]}
    handler.call("POST", f"/cases/{case}/confirm-identity", json=body)


def search_cabinet(walk: Walk, handler: Handler) -> None:
    """The manual system: one letter with its scan."""
    walk.cabinet = handler.task(walk.case, "cabinet")
    handler.attach(walk.cabinet["id"], 1, FILE_NAME, SCAN)
    record = {"entity": "letter", "key": "brev-1", "fields": LETTER, "files": [FILE_NAME]}
    handler.complete(walk.cabinet["id"], "found", records=[record])


def review(walk: Walk, anna: Handler, bent: Handler) -> None:
    """Leave what is doubtful, withhold what is another's, open what names others, and have the right person approve."""
    anna.waiting(walk.person.reference, "approval")
    walk.records = anna.records(walk.case)
    customer = next(one for one in walk.records if one["entity"] == "customer" and not one["doubt"])
    anna.mark(walk.case, "withhold", [customer["id"]], field="note", reason="habeas:A15-4-third-party")
    bent.approve(walk.case, expect=403)
    anna.approve(walk.case)  # before anything was opened: it comes back
    anna.waiting(walk.person.reference, "approval")
    anna.mark(walk.case, "open", [one["id"] for one in walk.records if one["to_open"] and not one["doubt"]])
    anna.approve(walk.case)


def collect(walk: Walk, folder: Path) -> None:
    """Give the second proof, read the answer, take the package."""
    person, call = walk.person, walk.suite.call
    person.request("POST", "/collection", json={"collection_code": "2345-6789-ABCD"}, expect=422)
    call("GET", person.path("/package"), token=person.token, expect=403)
    walk.collector = person.unlock()
    walk.answer = call("GET", person.path("/answer?lang=da"), token=walk.collector).text
    walk.content = call("GET", person.path("/package"), token=walk.collector).content
    walk.jwks = call("GET", "/.well-known/habeas-jwks.json?organisation=fjordnet").json()
    (folder / "package").mkdir()
    walk.package = Package(walk.content, folder / "package")


def _collected(person: Person) -> dict[str, Any] | None:
    told = person.status()
    return told if told["package"] and told["package"]["collected_at"] else None
