"""An e-mail address under which a system still holds its previous owner opens nothing of theirs."""

import json
from pathlib import Path

from tests.e2e.conftest import World
from tests.e2e.support import synapse
from tests.e2e.support.actors import Person
from tests.e2e.support.grep import found
from tests.e2e.support.package import Package
from tests.e2e.support.planted import ORLA, VIBEKE, held
from tests.e2e.support.suite import Suite
from tests.e2e.support.walk import staff


def test_the_previous_owners_rooms_and_uploads_are_never_even_fetched(
    suite: Suite, world: World, tmp_path: Path
) -> None:
    anna = staff(suite)["anna"]
    person = Person(suite, "fjordnet", VIBEKE.name, VIBEKE.email)
    person.ask("access")
    person.prove()
    case = anna.waiting(person.reference, "task")["id"]
    anna.complete(anna.task(case, "cabinet")["id"], "nothing")
    anna.waiting(person.reference, "approval")

    records = anna.records(case)
    chat = {one["entity"]: one for one in records if one["system"] == "chat"}
    assert set(chat) == {"address", "account"}, "a doubtful account leads no further"
    assert chat["account"]["doubt"] == "name_mismatch"
    assert (
        found(world.chat.values(ORLA) - {synapse.account(ORLA)}, json.dumps(records, ensure_ascii=False).encode())
        == set()
    )

    anna.mark(case, "withhold", [chat["address"]["id"]], reason="habeas:not-the-person")
    anna.mark(case, "open", [one["id"] for one in records if one["to_open"] and one["system"] == "customers"])
    anna.approve(case)
    person.answered()
    content = suite.call("GET", person.path("/package"), token=person.unlock()).content
    package = Package(content, tmp_path)
    assert {group: set(rows) for group, rows in package.records.items()} == {
        group: set(rows) for group, rows in held(VIBEKE).items()
    }
    assert found(ORLA.values() | world.chat.values(ORLA), package.everything) == set(), "not even as what is left out"
