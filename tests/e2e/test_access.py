"""Access (Art. 15), the main job: a person asks for their data and gets it, from real systems.

The same walk on one process with SQLite, and on four processes with PostgreSQL.
"""

import csv
import json
from pathlib import Path
from typing import Any

import bagit
import pytest

from tests.e2e.conftest import World
from tests.e2e.support import synapse, walk
from tests.e2e.support.grep import found
from tests.e2e.support.planted import EVERYONE, HERO, NAMESAKE, NEIGHBOUR, PREVIOUS, Row, held
from tests.e2e.support.suite import Suite
from tests.e2e.support.walk import Walk


@pytest.fixture(scope="session", params=["suite", "four_processes"], ids=["one-process", "four-processes"])
def walked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Walk:
    """The whole walk, once for each way to run Habeas."""
    suite: Suite = request.getfixturevalue(request.param)
    return walk.walk(suite, tmp_path_factory.mktemp("walk"))


def expected(world: World) -> dict[tuple[str, str], dict[str, Row]]:
    """Everything that the three systems hold on the person."""
    chat = {("chat", entity): rows for entity, rows in world.chat.held[synapse.account(HERO)].items()}
    return held(HERO) | chat | {("cabinet", "letter"): {"brev-1": walk.LETTER}}


def test_the_package_holds_every_planted_record_of_the_person_and_no_other(walked: Walk, world: World) -> None:
    keys = {group: set(rows) for group, rows in walked.opened.records.items()}
    assert keys == {group: set(rows) for group, rows in expected(world).items()}


def test_every_value_of_every_record_is_there_as_the_system_holds_it(walked: Walk, world: World) -> None:
    wanted = expected(world)
    del wanted["customers", "customer"]["1"]["note"]  # withheld
    for group, rows in wanted.items():
        for key, row in rows.items():
            have = walked.opened.records[group][key]
            missing = {name: value for name, value in row.items() if not _same(have.get(name), value)}
            assert not missing, (group, key, missing, have)


def _same(have: Any, planted: Any) -> bool:
    """Whether a value that a database types (a time, a price) is the one that was planted as text or number."""
    if str(have) == str(planted):
        return True
    digits = str(planted).partition(" ")[0]
    return str(have).startswith(digits)


def test_nobody_else_is_in_the_package(walked: Walk, world: World) -> None:
    own = {value.casefold() for value in HERO.values()} | {
        "+4526418753"
    }  # the neighbour's way to write their telephone
    others = [person for person in EVERYONE if person is not HERO]
    strange = {value for other in others for value in other.values() | world.chat.values(other)}
    strange = {value for value in strange if value.casefold() not in own}
    assert {NAMESAKE.email, NEIGHBOUR.name, PREVIOUS.word} <= strange
    assert found(strange, walked.opened.everything) == set()
    assert found(strange, walked.answer.encode()) == set()


def test_doubtful_records_wait_for_a_handler_who_sees_why(walked: Walk) -> None:
    doubtful = {
        (one["fields"].get("name"), one["doubt"])
        for one in walked.records
        if one["entity"] == "customer" and one["doubt"]
    }
    assert doubtful == {(PREVIOUS.name, "name_mismatch"), (NEIGHBOUR.name, "name_mismatch")}
    under = {
        one["doubt"]
        for one in walked.records
        if one["entity"] == "ticket_message" and PREVIOUS.word in one["fields"]["body"]
    }
    assert under == {"name_mismatch"}, "what hangs under a doubtful record is doubtful"
    assert not any(NAMESAKE.word in json.dumps(one, ensure_ascii=False) for one in walked.records)


def test_a_withheld_field_is_named_with_its_reason_and_its_value_is_gone(walked: Walk) -> None:
    assert "talte også med naboen" not in walked.opened.everything.decode("utf-8", "replace")
    rows = list(csv.DictReader(walked.opened.text("meta/redactions.csv").splitlines()))
    assert [(row["system"], row["record"], row["field"], row["reason"]) for row in rows] == [
        ("customers", "1", "note", "habeas:A15-4-third-party")
    ]


def test_the_file_from_the_cabinet_is_there_byte_for_byte(walked: Walk) -> None:
    (stored,) = json.loads(walked.opened.text("meta/files.json"))
    assert stored["name"] == walk.FILE_NAME
    assert (walked.opened.folder / "data" / stored["path"]).read_bytes() == walk.SCAN


def test_the_answer_says_what_article_15_asks_for(walked: Walk) -> None:
    letter = walked.opened.text("letter/answer.da.html")
    for words in (
        "At levere bredbånd til dig",
        "Marskhost ApS",
        "5 år fra regnskabsårets udgang",
        "Datatilsynet",
        HERO.name,
    ):
        assert words in letter, words
    for words in (
        f"Intet net ved {HERO.word}",
        f"{HERO.word} på billede 2.txt",
        "Kundesystemet",
        "Chatten",
        "Arkivskabet",
    ):
        assert words in walked.answer, words
    assert "<script" not in walked.answer


def test_independent_programs_find_the_package_sound(walked: Walk, tmp_path: Path) -> None:
    walked.opened.check(walked.jwks)
    (tmp_path / "jwks.json").write_text(json.dumps(walked.jwks))
    walked.suite.command("verify-package", str(walked.opened.zip), "--key", str(tmp_path / "jwks.json"))


def test_a_package_tampered_with_is_seen_by_each_program(walked: Walk, tmp_path: Path) -> None:
    (tmp_path / "jwks.json").write_text(json.dumps(walked.jwks))
    key = str(tmp_path / "jwks.json")
    table = "data/records/customers.customer.csv"
    careless = walked.opened.changed(table, b"Klitrosev", b"Klitrosen", tmp_path / "careless")
    with pytest.raises(bagit.BagValidationError):
        careless.check(walked.jwks)
    told = walked.suite.command("verify-package", str(careless.zip), "--key", key, expect=1)
    assert "customers.customer.csv" in told and "Traceback" not in told
    careful = walked.opened.changed(table, b"Klitrosev", b"Klitrosen", tmp_path / "careful", resum=True)
    bagit.Bag(str(careful.folder)).validate(
        processes=1
    )  # whoever changes a file can write new sums; only the key tells
    told = walked.suite.command("verify-package", str(careful.zip), "--key", key, expect=1)
    assert "ignature" in told and "Traceback" not in told


def test_a_cell_that_a_spreadsheet_would_run_is_neutralised_and_stands_verbatim_beside(walked: Walk) -> None:
    table = walked.opened.text("records/customers.invoice_line.csv")
    assert f"'=Montering ved {HERO.word}" in table
    assert {row["description"] for row in walked.opened.records["customers", "invoice_line"].values()} == {
        f"=Montering ved {HERO.word}"
    }


def test_the_person_reads_where_it_stands_in_plain_words(walked: Walk) -> None:
    assert set(walked.before_proof) == {"reference", "received_on", "due", "next_step", "language"}
    proven, ready, collected = (walked.states[name] for name in ("proven", "ready", "collected"))
    assert proven["headline"] == "Vi har modtaget din anmodning"
    assert proven["paragraphs"][0].startswith("Du får svar senest ")
    assert proven["paragraphs"][-1] == "Du skal ikke gøre mere nu."
    assert ready["headline"] == "Dit svar er klar"
    assert ready["package"]["ready"]
    assert collected["headline"] == "Du har hentet dit svar"
    assert collected["state"] == "partly_fulfilled", "a field was withheld"
    assert walked.person.status("en")["headline"] == "You have collected your answer"


def test_a_package_is_handed_over_once(walked: Walk) -> None:
    for tail in ("/package", "/answer?lang=da"):
        answer = walked.suite.call("GET", walked.person.path(tail), token=walked.collector, expect=(401, 410))
        assert answer.headers["content-type"] == "application/problem+json"


def test_the_cabinet_is_searched_by_the_number_that_another_system_knew(walked: Walk) -> None:
    sought = walked.cabinet["search_for"]
    assert sought["name"] == HERO.name
    assert {one["type"]: one["value"] for one in sought["identifiers"]}["customer_no"] == HERO.customer_no


def test_webhooks_are_verified_complete_and_hold_ids_only(walked: Walk) -> None:
    seen = walked.deliveries()
    assert all(one["verified"] for one in seen)
    events = [json.loads(one["body"]) for one in seen]
    numbers = [event["seq"] for event in events]
    assert numbers == sorted(set(numbers)), "in order, each once"
    kinds = [event["type"] for event in events if event["subject"] == walked.case]
    wanted = [
        "received",
        "verify",
        "plan",
        "confirm-identity",
        "plan",
        "decide",
        "approve",
        "return",
        "approve",
        "release",
        "collect",
    ]
    assert kinds == [f"habeas.case.{kind}.v1" for kind in wanted]


def test_the_ledger_is_whole_and_tells_who_looked_and_who_approved(walked: Walk) -> None:
    dorte = walk.staff(walked.suite)["dorte"]
    assert dorte.call("GET", "/audit/verify")["whole"]
    entries = dorte.call("GET", f"/audit?case={walked.case}&limit=200")["entries"]
    kinds = {entry["kind"] for entry in entries}
    assert {"case.approve", "package.records_read", "task.read", "package.sealed", "case.collect"} <= kinds
    confirmed = next(entry["actor"] for entry in entries if entry["kind"] == "case.confirm-identity")
    approved = {entry["actor"] for entry in entries if entry["kind"] == "case.approve"}
    assert approved and confirmed not in approved


def test_no_planted_value_is_left_anywhere(walked: Walk) -> None:
    """Database, engine tables, vault, logs, error bodies and webhook bodies; ids, counts and times are all they hold."""
    code = walked.suite.mail.boxes.code(HERO.email, walked.person.reference)
    typed = {code, walked.person.collection_code, walked.person.token or "", walked.collector, walk.FILE_NAME}
    bodies = [(f"webhook {number}", json.dumps(one).encode()) for number, one in enumerate(walked.deliveries())]
    assert walked.suite.leaks(typed, bodies) == {}


def test_the_search_for_planted_values_looks_everywhere(walked: Walk) -> None:
    """What found nothing is itself tested: every kind of place is there, and holds what it should."""
    places = {name: found({walked.case}, hay) for name, hay in walked.suite.traces()}
    for part in ("case", "ledger", "workflow_status", "locator_task", "exporter_package"):
        assert any(part in name for name in places), part
    assert [name for name, hits in places.items() if "ledger" in name and hits]
    assert any(name.startswith("vault") for name in places)
    assert {name for name in places if name.startswith("log of")} == {
        f"log of {one.name}" for one in walked.suite.programs
    }
    assert any(name.startswith("error body") for name in places)
    assert found({HERO.name, HERO.email}, walked.opened.everything) == {HERO.name, HERO.email}


def test_letters_came_in_the_persons_language_and_over_tls(walked: Walk) -> None:
    mine = [one for one in walked.suite.mail.boxes.to(HERO.email) if walked.person.reference in one.subject]
    subjects = " · ".join(one.subject for one in mine)
    assert "Vi har modtaget din anmodning" in subjects
    assert "kode" in subjects
    assert walked.person.collection_code not in "".join(one.text + one.html for one in mine)
