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


def test_what_was_not_done_everywhere_is_granted_in_part_with_facts_provision_and_the_way_to_complain(
    suite: Suite,
) -> None:
    anna = staff(suite)["anna"]
    person = Person(suite, "fjordnet", ERASER.name, "sidsel2@ravnsborgen.example", language="en")
    person.ask("erasure", message=f"Slet alt om {ERASER.word}, tak.")
    person.prove()
    case = anna.waiting(person.reference, "task")["id"]
    for system in ("chat", "cabinet"):
        anna.complete(anna.task(case, system)["id"], "done")
    anna.complete(anna.task(case, "customers")["id"], "not_searched", note_code="retained-by-law")
    anna.waiting(person.reference, "approval")
    close = f"/cases/{case}/close"
    anna.call("POST", close, json={"outcome": "granted"}, expect=409)  # one system was given up
    anna.call("POST", close, json={"outcome": "partly_granted"}, expect=422)  # without facts and provision
    anna.call("POST", close, json={
        "outcome": "partly_granted", "provision": "Article 17(3)(b)", "refused": "We keep your invoice from 2024.",
        "words": "The Bookkeeping Act demands that it is kept for five years.", "done": "We erased your chat account.",
    })  # fmt: skip
    assert person.status()["state"] == "partly_fulfilled"
    letter = " ".join(suite.mail.boxes.wait(person.email, "invoice from 2024").text.split())
    for said in ("Article 17(3)(b)", "kept for five years", "We erased your chat account.", "Datatilsynet"):
        assert said in letter, said
