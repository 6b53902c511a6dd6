"""A system that is down is tried again, becomes a person's task, and is named in the answer; never silent."""

from pathlib import Path

from tests.e2e.support.actors import Handler, Person
from tests.e2e.support.package import Package
from tests.e2e.support.planted import PORTER
from tests.e2e.support.suite import Suite


def test_a_system_that_is_down_becomes_a_persons_task_and_the_answer_names_it(suite: Suite, tmp_path: Path) -> None:
    handler = Handler(suite, "kystnet", suite.handler("kystnet", "karla", "handler"))
    person = Person(suite, "kystnet", PORTER.name, PORTER.email)
    person.ask("access")
    person.prove()
    case = handler.waiting(person.reference, "task")["id"]

    newsletter, orders = handler.task(case, "newsletter"), handler.task(case, "orders")
    assert (newsletter["code"], orders["code"]) == ("unreachable", "unreachable")
    assert "kunne ikke gennemsøges automatisk" in newsletter["instructions"]["da"]
    assert newsletter["attempt"] > 2, "it was tried again before"
    assert "awaits" not in person.status()["state"]
    handler.approve(case, expect=409)
    row = {"entity": "subscriber", "key": "7", "fields": {"email": PORTER.email}}
    handler.complete(newsletter["id"], "found", records=[row])
    handler.complete(orders["id"], "not_searched", note_code="system-broken")
    handler.waiting(person.reference, "approval")
    handler.approve(case)

    told = person.answered()
    assert (told["state"], told["outcome"]) == ("partly_fulfilled", "partly_granted")
    assert "kunne ikke søges" in " ".join(told["paragraphs"])
    content = suite.call("GET", person.path("/package"), token=person.unlock()).content
    package = Package(content, tmp_path)
    assert set(package.records) == {("customers", "customer"), ("newsletter", "subscriber")}
    letter = package.text("letter/answer.da.html")
    assert "Vi har ikke søgt overalt." in letter
    assert "Ordresystemet" in letter.partition("Vi har ikke søgt overalt.")[2].partition("</p>")[0]
    assert "system-broken" in package.text("meta/searched.csv")


def test_an_administrator_is_told_which_system_cannot_be_reached(suite: Suite) -> None:
    admin = Handler(suite, "kystnet", suite.handler("kystnet", "chef", "administrator"))
    down = admin.call("POST", "/systems/newsletter/check", json={})
    well = admin.call("POST", "/systems/customers/check", json={})
    assert (down["reachable"], down["code"]) == (False, "unreachable")
    assert well["reachable"] is True
