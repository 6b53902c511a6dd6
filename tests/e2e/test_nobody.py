"""An address that nobody holds: a negative answer that says no more than what was searched, and a way to offer more."""

from pathlib import Path

from tests.e2e.support.actors import Person
from tests.e2e.support.package import Package
from tests.e2e.support.planted import ERASER, held
from tests.e2e.support.suite import Suite
from tests.e2e.support.walk import staff


def test_nobody_ends_in_a_negative_answer_limited_to_what_was_searched(suite: Suite, tmp_path: Path) -> None:
    anna = staff(suite)["anna"]
    person = Person(suite, "fjordnet", "Ukendt Ubekendtsen", "ubekendt@intetsteds.example")
    known = Person(suite, "fjordnet", ERASER.name, ERASER.email).ask("access")
    told = person.ask("access")
    assert set(told) == set(known), "before proof, known and unknown look the same"
    assert (told["next_step"], told["due"]) == (known["next_step"], known["due"])
    person.prove()
    case = anna.waiting(person.reference, "approval")["id"]
    anna.approve(case)

    assert person.answered()["headline"] == "Vi har ikke fundet oplysninger om dig"
    letter = suite.mail.boxes.wait(person.email, "Svar på din anmodning").text
    searched = letter.partition("Vi søgte her:")[2].partition("Her kunne vi ikke søge")[0]
    assert "Kundesystemet" in searched and "Chatten" in searched
    assert "Arkivskabet" not in searched, "nobody looked there: no number led to it"
    assert "E-mailadresse" in letter
    content = suite.call("GET", person.path("/package"), token=person.unlock()).content
    package = Package(content, tmp_path)
    assert package.records == {}
    answer = package.text("letter/answer.da.html")
    assert "Vi har ikke fundet oplysninger om dig der, hvor vi har søgt." in answer
    assert "Vi havde ingen bekræftet oplysning fra dig, som systemet kan søges med." in answer
    package.check(suite.call("GET", "/.well-known/habeas-jwks.json?organisation=fjordnet").json())


def test_the_person_offers_more_while_the_case_is_open_and_a_handler_who_checks_it_searches_again(suite: Suite) -> None:
    people = staff(suite)
    person = Person(suite, "fjordnet", ERASER.name, "sidsel.ny@ravnsborgen.example")
    person.ask("access")
    person.prove()
    case = people["anna"].waiting(person.reference, "approval")["id"]
    number = {"type": "customer_no", "value": ERASER.customer_no}
    person.request("POST", "/identifiers", json={"identifiers": [number]}, expect=202)
    offered = people["anna"].call("GET", f"/cases/{case}")["identifiers"]
    assert {one["type"]: one["assurance"] for one in offered}["customer_no"] == "claimed"
    people["bent"].call(
        "POST", f"/cases/{case}/confirm-identity", json={"method": "document_seen", "identifiers": [number]}
    )
    task = people["anna"].task(case, "cabinet")
    people["anna"].complete(task["id"], "nothing")
    people["anna"].waiting(person.reference, "approval")
    found = {(one["system"], one["entity"]) for one in people["anna"].records(case)}
    assert ("customers", "ticket_message") in found
    people["bent"].approve(case, expect=403)


def test_what_the_person_offers_after_a_negative_answer_is_searched_and_answered(suite: Suite, tmp_path: Path) -> None:
    """The letter and the status page both invite it."""
    people = staff(suite)
    anna, bent = people["anna"], people["bent"]
    person = Person(suite, "fjordnet", ERASER.name, "sidsel.igen@ravnsborgen.example")
    person.ask("access")
    person.prove()
    case = anna.waiting(person.reference, "approval")["id"]
    anna.approve(case)
    assert "Du kan oplyse mere" in " ".join(person.answered()["paragraphs"])

    number = {"type": "customer_no", "value": ERASER.customer_no}
    person.request("POST", "/identifiers", json={"identifiers": [number]}, expect=202)
    assert person.status()["headline"] == "Vi har modtaget din anmodning"
    assert anna.case(person.reference)["state"] == "in_progress"
    bent.call("POST", f"/cases/{case}/confirm-identity", json={"method": "callback", "identifiers": [number]})
    anna.complete(anna.task(case, "cabinet")["id"], "nothing")
    anna.waiting(person.reference, "approval")
    anna.mark(case, "open", [one["id"] for one in anna.records(case) if one["to_open"]])
    anna.approve(case)
    assert person.answered()["headline"] == "Dit svar er klar"
    package = Package(suite.call("GET", person.path("/package"), token=person.unlock()).content, tmp_path)
    assert {group: set(rows) for group, rows in package.records.items()} == {
        group: set(rows) for group, rows in held(ERASER).items()
    }
