"""A right that people carry out: an erasure request is proven, becomes a task in every system, and is closed."""

from tests.e2e.support.actors import Person
from tests.e2e.support.planted import ERASER
from tests.e2e.support.suite import Suite
from tests.e2e.support.walk import staff


def test_an_erasure_request_becomes_a_persons_task_in_every_system_and_ends_with_a_letter(suite: Suite) -> None:
    anna = staff(suite)["anna"]
    person = Person(suite, "fjordnet", ERASER.name, ERASER.email)
    person.ask("erasure", message=f"Slet alt om {ERASER.word}, tak.")
    assert anna.case(person.reference)["outstanding"] == ["identity"]
    person.prove()
    case = anna.waiting(person.reference, "task")["id"]

    tasks = {system: anna.task(case, system) for system in ("customers", "chat", "cabinet")}
    for task in tasks.values():
        assert (task["verb"], task["right"]) == ("person", "erasure")
        assert task["search_for"]["name"] == ERASER.name
        assert "Slet de oplysninger" in task["instructions"]["da"]
    anna.call("POST", f"/cases/{case}/close", json={"outcome": "granted"}, expect=409)
    anna.complete(tasks["customers"]["id"], "done")
    anna.complete(tasks["chat"]["id"], "nothing")
    anna.call("POST", f"/tasks/{tasks['chat']['id']}/complete", json={"outcome": "found", "records": [
        {"entity": "account", "key": "1", "fields": {"name": "x"}}]}, expect=(409, 422))  # fmt: skip
    anna.complete(tasks["cabinet"]["id"], "done")
    anna.waiting(person.reference, "approval")
    anna.approve(case, expect=409)  # nothing to seal: it is closed with its outcome
    anna.call("POST", f"/cases/{case}/close", json={"outcome": "granted"})

    told = person.status()
    assert (told["state"], told["outcome"], told["package"]) == ("fulfilled", "granted", None)
    assert told["headline"] == "Din anmodning er afsluttet"
    letter = suite.mail.boxes.wait(person.email, "Svar på din anmodning")
    assert person.reference in letter.subject
    assert "sletning af dine personoplysninger" in letter.text


def test_what_is_refused_in_part_is_told_with_its_facts_its_provision_and_the_way_to_complain(suite: Suite) -> None:
    anna = staff(suite)["anna"]
    person = Person(suite, "fjordnet", ERASER.name, "sidsel2@ravnsborgen.example", language="en")
    person.ask("rectification", message=f"Mit navn staves anderledes, siger {ERASER.word}.")
    person.prove()
    case = anna.waiting(person.reference, "task")["id"]
    for system in ("customers", "chat", "cabinet"):
        anna.complete(anna.task(case, system)["id"], "done")
    anna.waiting(person.reference, "approval")
    incomplete = {"outcome": "partly_granted"}
    anna.call("POST", f"/cases/{case}/close", json=incomplete, expect=422)
    words = "We corrected your name but not the invoice from 2024, which must stay as it was sent."
    whole = {**incomplete, "words": words, "provision": "Article 17(3)(b)"}
    anna.call("POST", f"/cases/{case}/close", json=whole)
    assert person.status()["state"] == "partly_fulfilled"
    letter = suite.mail.boxes.wait(person.email, "invoice from 2024")
    for said in ("Article 17(3)(b)", "Datatilsynet"):
        assert said in letter.text
