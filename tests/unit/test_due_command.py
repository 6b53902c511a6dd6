"""`habeas due` and `habeas check-register`, as a person at a terminal and as a program would use them."""

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from habeas.commands.check_register import check_register
from habeas.commands.due import due, due_report

app = typer.Typer()
app.command()(due)
app.command("check-register")(check_register)

VECTORS: list[dict[str, Any]] = json.loads(Path("tests/data/deadline_vectors.json").read_text("utf-8"))["vectors"]
RECEIVED = "2026-03-05T10:00+01:00"
DENMARK = ["--country", "DK", "--tz", "Europe/Copenhagen"]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})


def flat(result: Result) -> str:
    return " ".join(result.output.replace("│", " ").split())


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["id"] for vector in VECTORS])
def test_the_command_prints_what_the_oracle_says(vector: dict[str, Any]) -> None:
    events = [part for event in vector["events"] for part in ("--event", f"{event['type']}@{event['at']}")]
    place = ["--country", vector["country"], "--tz", vector["timezone"]]
    result = run("due", vector["received_at"], *place, *events, "--json")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert {key: found[key] for key in ("nominal_due", "effective_due", "suspended_days", "rolled_over")} == {
        key: vector[key] for key in ("nominal_due", "effective_due", "suspended_days", "rolled_over")
    }
    assert (found["due"], found["extended_due"]) == (vector["expected_due"], vector["expected_extended_due"])


def test_a_person_reads_the_date_and_why() -> None:
    text = flat(run("due", RECEIVED, *DENMARK))
    assert "Answer by: Tuesday 7 April 2026" in text
    assert "not 2026-04-05 Easter Sunday" in text
    assert "Extended to: Friday 5 June 2026" in text
    assert "Plan for: Sunday 5 April 2026" in text


def test_a_person_reads_that_the_clock_stands_still() -> None:
    text = flat(run("due", RECEIVED, *DENMARK, "--event", "suspend@2026-03-06T09:00+01:00"))
    assert "the clock stands still until the open question is answered" in text
    assert "if it were answered today" in text


def test_a_person_reads_that_an_extension_holds_or_does_not() -> None:
    pause = ["--event", "suspend@2026-03-06T09:00+01:00", "--event", "resume@2026-03-10T09:00+01:00"]
    in_time = flat(run("due", RECEIVED, *DENMARK, *pause, "--event", "extend@2026-03-20T09:00+01:00"))
    assert "Answer by: Tuesday 9 June 2026 (extended)" in in_time
    assert "stood still for 4 days" in in_time
    late = flat(run("due", RECEIVED, *DENMARK, "--event", "extend@2026-05-20T09:00+01:00"))
    assert "Answer by: Tuesday 7 April 2026" in late
    assert "told too late" in late


def test_a_holiday_of_the_organisation_moves_the_date() -> None:
    result = run("due", "2026-05-05T10:00+02:00", *DENMARK, "--extra-holiday", "06-05", "--json")
    assert json.loads(result.stdout)["due"] == "2026-06-08"


def test_a_region_has_its_own_holidays() -> None:
    place = ["--country", "DE", "--tz", "Europe/Berlin", "--region", "TH"]
    assert json.loads(run("due", "2025-09-30T10:00+02:00", *place, "--json").stdout)["due"] == "2025-10-30"
    assert json.loads(run("due", "2025-10-01T00:30+02:00", *place, "--json").stdout)["due"] == "2025-11-03"


@pytest.mark.parametrize(
    ("arguments", "option", "rule"),
    [
        (["yesterday", *DENMARK], "RECEIVED_AT", "must be written as"),
        (["2026-03-05T10:00", *DENMARK], "RECEIVED_AT", "offset"),
        (["1850-03-05T10:00+01:00", *DENMARK], "RECEIVED_AT", "years"),
        ([RECEIVED, "--country", "Denmark", "--tz", "Europe/Copenhagen"], "--country", "two capital letters"),
        ([RECEIVED, "--country", "DK", "--tz", "Copenhagen"], "--tz", "IANA"),
        ([RECEIVED, *DENMARK, "--region", "Jylland"], "--region", "region of that country"),
        ([RECEIVED, *DENMARK, "--event", "pause@2026-03-06T09:00+01:00"], "--event", "suspend@TIME"),
        ([RECEIVED, *DENMARK, "--event", "suspend@2026-03-06T09:00"], "--event", "offset"),
        ([RECEIVED, *DENMARK, "--event", "resume@2026-03-06T09:00+01:00"], "--event", "earlier suspend"),
        ([RECEIVED, *DENMARK, "--event", "suspend@2026-03-01T09:00+01:00"], "--event", "before the day of receipt"),
        ([RECEIVED, *DENMARK, "--extra-holiday", "5 June"], "--extra-holiday", "MM-DD"),
    ],
)
def test_bad_input_is_answered_with_the_option_and_the_rule(arguments: list[str], option: str, rule: str) -> None:
    result = run("due", *arguments)
    assert result.exit_code == 2
    assert option in flat(result)
    assert rule in flat(result)
    assert "Traceback" not in result.output


def test_a_program_may_call_it_without_a_terminal() -> None:
    found = due_report(RECEIVED, "DK", "Europe/Copenhagen", ["suspend@2026-03-06T09:00+01:00"])
    assert found["nominal_due"] == "2026-04-05"
    assert [found[key] for key in ("due", "extended_due", "effective_due", "suspended_days")] == [None] * 4


def test_a_sound_register_is_told_with_its_roads() -> None:
    result = run("check-register", "examples/registers/demo.yaml")
    assert result.exit_code == 0
    assert "The register of Nordlys IT ApS is sound: 0 warnings, version " in result.output
    assert "E-mail address: crm, tickets → archive, invoices" in flat(result)


def test_warnings_are_printed_and_do_not_fail() -> None:
    result = run("check-register", "tests/data/register_trouble.yaml")
    assert result.exit_code == 0
    assert "register_trouble.yaml:11: warning: organisation.dpo:" in result.output
    assert "15 warnings" in result.output


def test_a_broken_register_fails_and_names_line_and_key(tmp_path: Path) -> None:
    file = tmp_path / "register.yaml"
    file.write_text(Path("examples/registers/demo.yaml").read_text("utf-8").replace("[hosting]", "[hostage]"), "utf-8")
    result = run("check-register", str(file))
    assert result.exit_code == 1
    assert "purposes.delivery.recipients: no recipient has the name that stands here" in result.output
    assert "hostage" not in result.output
    assert "it cannot be used" in result.output


def test_a_program_reads_findings_as_json(tmp_path: Path) -> None:
    file = tmp_path / "register.yaml"
    file.write_text("habeas: 1\nhabeas: 1\n", "utf-8")
    result = run("check-register", str(file), "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {
        "errors": 1,
        "findings": [{"line": 2, "key": "habeas", "rule": "the key stands here twice", "severity": "error"}],
    }
