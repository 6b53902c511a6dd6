"""A register is read as data, checked with line and key, and never repeated in a message."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.intake.register import BrokenRegister, Finding, check, load, plan
from services.intake.register_yaml import MAX_ALIASES, Unreadable, parse
from shared.register import Register
from shared.vocabulary import Right

DEMO = Path("examples/registers/demo.yaml")
TROUBLE = Path("tests/data/register_trouble.yaml")
SECRET = "hemmelig-værdi-4711"

Change = Callable[[dict[str, Any]], None]


@pytest.fixture
def changed(tmp_path: Path) -> Callable[[Change], list[Finding]]:
    """The findings in the demo register after a change."""

    def findings_after(change: Change) -> list[Finding]:
        content = demo()
        change(content)
        return written(tmp_path, json.dumps(content, indent=1))

    return findings_after


def demo() -> dict[str, Any]:
    content: dict[str, Any] = parse(DEMO.read_text("utf-8")).value
    return content


def written(tmp_path: Path, text: str) -> list[Finding]:
    file = tmp_path / "register.yaml"
    file.write_text(text, "utf-8")
    return check(file)


# --- what is in force --------------------------------------------------------------------------------------------------


def test_the_demo_register_is_sound_without_a_warning() -> None:
    assert check(DEMO) == []
    register = load(DEMO).register
    assert register.policy.approval[Right.ACCESS] == "person"
    assert register.policy.approval[Right.PORTABILITY] == "automatic"


def test_a_version_follows_the_content_and_not_the_layout(tmp_path: Path) -> None:
    copy = tmp_path / "copy.yaml"
    copy.write_text(yaml.safe_dump(yaml.safe_load(DEMO.read_text("utf-8"))), "utf-8")
    original = load(DEMO)
    assert load(copy).version == original.version
    assert len(original.version) == 16
    copy.write_text(copy.read_text("utf-8").replace("Polarvej 7", "Polarvej 8"), "utf-8")
    assert load(copy).version != original.version


def test_a_register_survives_its_canonical_json() -> None:
    loaded = load(DEMO)
    assert Register.model_validate_json(loaded.canonical_json) == loaded.register


def test_warnings_do_not_stop_a_register() -> None:
    loaded = load(TROUBLE)
    assert {finding.severity for finding in loaded.warnings} == {"warning"}


# --- what a person must look at ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("organisation.dpo", "DPO"),
        ("policy.approval.not_found", "negative answer"),
        ("policy.approval.erasure", "no effect"),
        ("categories.health", "stronger"),
        ("categories.spare", "nothing refers"),
        ("purposes.service.legal_basis", "differ"),
        ("purposes.service.legal_basis", "interest"),
        ("purposes.service.retention", "anchor"),
        ("purposes.unclear.legal_basis.normalised", "a person must decide"),
        ("purposes.unclear", "controller"),
        ("purposes.law.legal_basis", "law"),
        ("recipients.abroad", "outside the EEA"),
        ("systems.doors", "leads here"),
        ("systems.clinic", "name_fields"),
        ("systems.clinic.entities.patient.yields.email", "opens no further"),
    ],
)
def test_what_is_remarkable_is_a_warning_with_its_line(key: str, words: str) -> None:
    found = [finding for finding in check(TROUBLE) if finding.key == key and words in finding.rule]
    assert len(found) == 1
    last = key.rpartition(".")[2]
    assert f"{last}:" in TROUBLE.read_text("utf-8").splitlines()[found[0].line - 1]


def test_the_trouble_register_gives_no_other_warning() -> None:
    assert len(check(TROUBLE)) == 15


@pytest.mark.parametrize(
    ("stated", "fits"),
    [
        ("Databeskyttelsesforordningens artikel 6, stk. 1, litra f", True),
        ("GDPR Art. 6(1)(f)", True),
        ("6.1f", True),
        ("our legitimate interest", True),
        ("6(1)(b) and 6(1)(f)", True),
        ("6(1)(b)", False),
        ("artikel 6, stk. 1, litra b", False),
        ("6.1b", False),
    ],
)
def test_stated_and_normalised_bases_are_compared(
    changed: Callable[[Change], list[Finding]], stated: str, fits: bool
) -> None:
    def change(content: dict[str, Any]) -> None:
        content["purposes"]["development"]["legal_basis"]["stated"] = stated

    assert (changed(change) == []) is fits


def test_a_form_that_asks_for_nothing_is_a_warning(changed: Callable[[Change], list[Finding]]) -> None:
    def change(content: dict[str, Any]) -> None:
        for kind in content["identifiers"].values():
            kind["ask"] = False

    assert "identifiers" in [finding.key for finding in changed(change)]


# --- what is broken ----------------------------------------------------------------------------------------------------


def put(path: str, value: Any) -> Change:
    """Return the change that sets one key; None takes it away."""

    def change(content: dict[str, Any]) -> None:
        *blocks, last = path.split("/")
        for block in blocks:
            content = content[block]
        if value is None:
            del content[last]
        else:
            content[last] = value

    return change


CUSTOMER = "systems/crm/entities/customer"
CONTRACT = "systems/crm/entities/contract"
TICKET = "systems/tickets/entities/ticket"
CONNECTOR = "systems/tickets/connector"


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (put("organisation/timezone", SECRET), "organisation.timezone"),
        (put("organisation/country", "XX"), "organisation.country"),
        (put("organisation/region", SECRET), "organisation.region"),
        (put("organisation/contact/email", SECRET), "organisation.contact.email"),
        (put("organisation/authority/email", SECRET), "organisation.authority.email"),
        (put("organisation/authority/url", "javascript:alert(1)"), "organisation.authority.url"),
        (put("organisation/privacy_policy", "http://nordlys.example"), "organisation.privacy_policy"),
        (put("organisation/address", "<adresse>"), "organisation.address"),
        (put("organisation/name", ""), "organisation.name"),
        (put("organisation/contact", None), "organisation.contact"),
        (put("organisation/slogan", SECRET), "organisation.slogan"),
        (put("policy/extra_holidays", ["02-30"]), "policy.extra_holidays.0"),
        (put("policy/answer_within_days", 45), "policy.answer_within_days"),
        (put("policy/approval/access", SECRET), "policy.approval.access"),
        (put("identifiers/customer_number/pattern", "^K(\\d{6}$"), "identifiers.customer_number"),
        (put("identifiers/customer_number/kind", SECRET), "identifiers.customer_number.kind"),
        (put("purposes/delivery/recipients", [SECRET]), "purposes.delivery.recipients.0"),
        (put("purposes/delivery/recipients", ["nobody"]), "purposes.delivery.recipients"),
        (put("purposes/delivery/automated", "yes-ish"), "purposes.delivery.automated"),
        (put("purposes/delivery/retention/period", "5 years"), "purposes.delivery.retention.period"),
        (put("systems/crm/processor", "nobody"), "systems.crm.processor"),
        (put("systems/crm/connector/kind", SECRET), "systems.crm.connector"),
        (put("systems/crm/connector/url_secret", "sqlite:///x"), "systems.crm.connector.url_secret"),
        (put("systems/crm/concurrency", 2.5), "systems.crm.concurrency"),
        (put(f"{CUSTOMER}/purposes", ["nothing"]), "systems.crm.entities.customer.purposes"),
        (put(f"{CUSTOMER}/purposes", []), "systems.crm.entities.customer.purposes"),
        (put(f"{CUSTOMER}/fields/note/category", "nothing"), "systems.crm.entities.customer.fields.note.category"),
        (put(f"{CUSTOMER}/fields/note/path", "$.note"), "systems.crm.entities.customer.fields.note.path"),
        (put(f"{CUSTOMER}/name_fields", ["nothing"]), "systems.crm.entities.customer.name_fields"),
        (put(f"{CUSTOMER}/yields", {"nothing": "email"}), "systems.crm.entities.customer.yields.nothing"),
        (put(f"{CUSTOMER}/yields", {"email": "nothing"}), "systems.crm.entities.customer.yields.email"),
        (put(f"{CUSTOMER}/find_by/nothing", "email"), "systems.crm.entities.customer.find_by.nothing"),
        (put(f"{CUSTOMER}/find_by/email", "nothing"), "systems.crm.entities.customer.find_by.email.field"),
        (put(f"{CUSTOMER}/find_by/email", {"path": "/x"}), "systems.crm.entities.customer.find_by.email"),
        (put(f"{CUSTOMER}/find_by/email", {}), "systems.crm.entities.customer.find_by.email"),
        (put(f"{CUSTOMER}/find_by", {}), "systems.crm.entities.customer"),
        (put(f"{CUSTOMER}/key", None), "systems.crm.entities.customer"),
        (put(f"{CUSTOMER}/table", None), "systems.crm.entities.customer"),
        (put(f"{CUSTOMER}/records", "$"), "systems.crm.entities.customer.records"),
        (put(f"{CONTRACT}/via/entity", "nothing"), "systems.crm.entities.contract.via.entity"),
        (put(f"{CONTRACT}/via/entity", "contract"), "systems.crm.entities.contract.via"),
        (put(f"{CONTRACT}/via/parent_field", "nothing"), "systems.crm.entities.contract.via.parent_field"),
        (put(f"{TICKET}/table", "tickets"), "systems.tickets.entities.ticket.table"),
        (put(f"{TICKET}/via", {"entity": "message", "parent_field": "id", "field": "id"}), "systems.tickets.entities.ticket.via"),
        (put(f"{TICKET}/records", "$.["), "systems.tickets.entities.ticket.records"),
        (put(f"{TICKET}/records", "items"), "systems.tickets.entities.ticket.records"),
        (put(f"{TICKET}/key", "nothing"), "systems.tickets.entities.ticket.key"),
        (put(f"{TICKET}/find_by/email/path", None), "systems.tickets.entities.ticket.find_by.email"),
        (put(f"{TICKET}/find_by/email/path", "//evil.example"), "systems.tickets.entities.ticket.find_by.email.path"),
        (put(f"{TICKET}/find_by/email/path", "/a/../b"), "systems.tickets.entities.ticket.find_by.email.path"),
        (put(f"{TICKET}/find_by/email/query", {}), "systems.tickets.entities.ticket.find_by.email"),
        (put(f"{TICKET}/paging", {"kind": "cursor"}), "systems.tickets.entities.ticket.paging"),
        (put(f"{CONNECTOR}/base_url", "https://user:pass@tickets.example"), "systems.tickets.connector.base_url"),
        (put(f"{CONNECTOR}/allow_private", []), "systems.tickets.connector.base_url"),
        (put(f"{CONNECTOR}/allow_private", [SECRET]), "systems.tickets.connector.allow_private.0"),
        (put(f"{CONNECTOR}/headers", {"Authorization": SECRET}), "systems.tickets.connector.headers"),
        (put(f"{CONNECTOR}/auth", {"kind": "bearer"}), "systems.tickets.connector.auth"),
        (put(f"{CONNECTOR}/auth", {"kind": "basic", "secret": "s"}), "systems.tickets.connector.auth"),
        (put(f"{CONNECTOR}/auth", {"kind": "header", "secret": "s"}), "systems.tickets.connector.auth"),
        (put(f"{CONNECTOR}/auth", {"kind": "oauth2_client_credentials", "secret": "s", "username": "u"}), "systems.tickets.connector.auth"),
        (put("systems/archive/connector/instructions/en", None), "systems.archive.connector.instructions.en"),
        (put("habeas", 2), "habeas"),
        (put("systems", {}), "systems"),
    ],
)  # fmt: skip
def test_every_broken_rule_is_named_with_its_key_and_without_its_value(
    changed: Callable[[Change], list[Finding]], change: Change, key: str
) -> None:
    found = changed(change)
    assert key in [finding.key for finding in found if finding.severity == "error"]
    assert all(finding.line > 0 for finding in found)
    assert not any(SECRET in finding.rule + finding.key for finding in found)


def test_entities_that_go_round_in_a_circle_are_refused(changed: Callable[[Change], list[Finding]]) -> None:
    def change(content: dict[str, Any]) -> None:
        content["systems"]["crm"]["entities"]["customer"]["via"] = {
            "entity": "contract",
            "parent_field": "id",
            "field": "id",
        }

    keys = [finding.key for finding in changed(change) if finding.severity == "error"]
    assert keys == ["systems.crm.entities.customer.via", "systems.crm.entities.contract.via"]


def test_an_error_names_file_line_key_and_rule(tmp_path: Path) -> None:
    text = DEMO.read_text("utf-8").replace("  timezone: Europe/Copenhagen", f"  timezone: {SECRET}")
    (found,) = written(tmp_path, text)
    line = next(n for n, line in enumerate(text.splitlines(), 1) if SECRET in line)
    assert found.at("demo.yaml").startswith(f"demo.yaml:{line}: organisation.timezone: a time zone must be")


def test_a_broken_register_is_a_problem_that_lists_its_errors(tmp_path: Path) -> None:
    file = tmp_path / "register.yaml"
    file.write_text("habeas: 1\n", "utf-8")
    with pytest.raises(BrokenRegister) as raised:
        load(file)
    document = raised.value.document()
    assert document["status"] == 422
    assert {"pointer": "organisation", "detail": "line 1: is missing"} in document["errors"]
    assert str(tmp_path) not in json.dumps(document)


def test_a_file_that_is_not_there_is_a_finding() -> None:
    assert check(Path("nowhere.yaml"))[0].rule == "the file cannot be read (FileNotFoundError)"


def test_a_file_over_two_megabytes_is_not_read(tmp_path: Path) -> None:
    assert written(tmp_path, "# " + "x" * 2_000_000)[0].rule == "the file must have at most 2 MB"


def test_a_file_in_another_encoding_is_named_by_line(tmp_path: Path) -> None:
    file = tmp_path / "register.yaml"
    file.write_bytes("habeas: 1\nnavn: Sønderjylland\n".encode("latin-1"))
    assert [(finding.line, finding.rule) for finding in check(file)] == [(2, "the file must be UTF-8 text")]


# --- hostile and careless YAML -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\nb: 2\na: 3\n", 3),
        ("a:\n  b: 1\n  'b': 2\n", 3),
        ("a: !!python/object/apply:os.system [true]\n", 1),
        ("a: 1\nb: !include other.yaml\n", 2),
        ("a: 1\n---\nb: 2\n", 2),
        ("a: [1, 2\nb: 3\n", 2),
        ("a: *nowhere\n", 1),
        ("a: &a [*a]\n", 1),
        ("? [a, b]\n: c\n", 1),
        ("1: c\n", 1),
        ("", 1),
        ("# nothing\n", 1),
        ("a: \x07\n", 1),
        ("[" * 1_000_000, 1),
        ("a: &a 1\n" + "".join(f"b{n}: *a\n" for n in range(MAX_ALIASES + 1)), MAX_ALIASES + 2),
        ("".join(f"k{n}: v\n" for n in range(60_000)), 50_000),
    ],
)
def test_yaml_that_no_register_needs_is_refused_by_line(text: str, line: int) -> None:
    with pytest.raises(Unreadable) as raised:
        parse(text)
    assert raised.value.finding.line == line


def test_a_billion_laughs_stay_small() -> None:
    bomb = "a0: &a0 [lol, lol]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 5)}]\n" for n in range(1, 20))
    with pytest.raises(Unreadable):
        parse(bomb)


@pytest.mark.parametrize("value", ["2026-01-01", "NO", "yes", "0755", "12:30:45", "1_000", "0x10", "<<", "=", ".inf"])
def test_what_yaml_guesses_at_stays_text(value: str) -> None:
    assert parse(f"a: {value}\n").value == {"a": value}


def test_numbers_and_truth_are_read() -> None:
    assert parse("a: 12\nb: -1.5\nc: true\nd: false\ne:\nf: ~\ng: null\nh: ''\n").value == {
        "a": 12, "b": -1.5, "c": True, "d": False, "e": None, "f": None, "g": None, "h": "",
    }  # fmt: skip


def test_an_alias_repeats_what_it_names() -> None:
    assert parse("a: &x {b: 1}\nc: *x\n").value == {"a": {"b": 1}, "c": {"b": 1}}


def test_the_message_of_a_broken_file_repeats_nothing_of_it() -> None:
    for text in (f"a: *{SECRET}", f'a: "{SECRET}', f"{SECRET}: 1\n{SECRET}: 2", f"a: %{SECRET}", f"a: [{SECRET}\nb: 1"):
        with pytest.raises(Unreadable) as raised:
            parse(text)
        finding = raised.value.finding
        assert SECRET not in finding.rule + finding.key


def test_a_sentence_cut_in_two_is_not_shown_as_a_key(tmp_path: Path) -> None:
    text = DEMO.read_text("utf-8").replace("{da: E-mailadresse, en", "{da: Ring til, Jens Jensen 12345678, en")
    found = written(tmp_path, text)
    assert found[0].key == "identifiers.email.label.(key)"
    assert not any("Jensen" in finding.key + finding.rule for finding in found)


# --- where will be looked ----------------------------------------------------------------------------------------------


def rounds(kinds: list[str], path: Path = DEMO) -> list[dict[str, set[str]]]:
    return [{name: set(types) for name, types in each.items()} for each in plan(load(path).register, kinds)]


def test_what_the_controller_assigned_leads_from_one_system_to_the_next() -> None:
    assert rounds(["email"]) == [
        {"crm": {"email"}, "tickets": {"email"}},
        {"invoices": {"customer_number"}, "archive": {"customer_number"}},
    ]


def test_a_person_who_gives_everything_needs_one_round() -> None:
    (only,) = rounds(["email", "phone", "customer_number"])
    assert set(only) == {"crm", "tickets", "invoices", "archive"}


def test_without_a_known_identifier_nothing_is_searched() -> None:
    assert rounds([]) == []
    assert rounds(["shoe_size"]) == []


def test_what_the_person_could_have_chosen_leads_nowhere() -> None:
    assert rounds(["badge"], TROUBLE) == [{"doors": {"badge"}}]
    assert rounds(["email"], TROUBLE) == [{"clinic": {"email"}}]


def test_a_drawer_that_is_searched_by_name_is_searched_at_once(tmp_path: Path) -> None:
    content = demo()
    content["systems"]["archive"]["entities"]["document"]["find_by"] = {}
    file = tmp_path / "register.yaml"
    file.write_text(json.dumps(content), "utf-8")
    first = rounds(["phone"], file)[0]
    assert first["archive"] == set()
    assert rounds([], file) == []


def test_entities_reached_through_others_yield_too(tmp_path: Path) -> None:
    content = demo()
    customer, contract = (content["systems"]["crm"]["entities"][name] for name in ("customer", "contract"))
    del customer["yields"]
    contract["yields"] = {"customer_number": "customer_id"}
    file = tmp_path / "register.yaml"
    file.write_text(json.dumps(content), "utf-8")
    assert set(rounds(["email"], file)[1]) == {"invoices", "archive"}
