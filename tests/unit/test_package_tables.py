"""Cells, names, and what of a record a right hands over."""

import csv
import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.exporter.bundle import names
from services.exporter.bundle.tables import NUMBER, csv_chunks, csv_row, neutral
from services.exporter.contents import Sampler, not_portable, portable_fields
from tests.support.packages import CONTRACT, CUSTOMER, INVOICE, REGISTER, changed, line


def read(text: str, delimiter: str = ",") -> list[str]:
    return next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))


@pytest.mark.parametrize(
    "value",
    [
        "=1+1",
        "+cmd|' /C calc'!A0",
        "-2+3",
        "@SUM(A1)",
        "\t=1",
        "\r=1",
        "\n=1",
        " =1+1",
        '"=1+1',
        "'=1+1",
        ' " =1+1',
        "\u00a0=1+1",
        "\u200b=1+1",
        "\ufeff=1+1",
        "＝1+1",
        "－1+1",
        "-5;-6",
        "+45 12 34 56 78",
        "- a list",
    ],
)
def test_a_cell_that_a_spreadsheet_would_run_begins_with_an_apostrophe(value: str) -> None:
    shown = read(csv_row([value, "x"]))[0]
    assert shown.startswith("'")
    assert shown[1:].replace(";'", ";").replace("\n'", "\n").replace("\t'", "\t") == value.replace("\r", "\n")


@pytest.mark.parametrize(
    "value", ["-5", "+5", "-5,25", "-5.25", "+4512345678", "0", "2026-01-02", "a=b", "a-b", "a@b.dk"]
)
def test_plain_numbers_and_harmless_text_stay(value: str) -> None:
    assert read(csv_row([value]))[0] == value


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("x;=1+1;y", "x;'=1+1;y"),
        ("x; =1+1", "x;' =1+1"),
        ("x\t=1", "x\t'=1"),
        ("x\r\n=1", "x\n'=1"),
        ('x;"=1"', 'x;\'"=1"'),
        ("a;b", "a;b"),
    ],
)
def test_text_is_neutral_where_a_spreadsheet_with_other_settings_splits_it(value: str, shown: str) -> None:
    assert neutral(value) == shown


def test_values_that_are_no_text_have_one_form() -> None:
    row = [None, True, False, 5, -5, 2.5, [1, "a;=1"], {"a": "=1"}, ""]
    cells = read(csv_row(row))
    assert cells[:6] == ["", "true", "false", "5", "-5", "2.5"]
    assert cells[6] == '[1,"a;\'=1"]'
    assert json.loads(cells[7]) == {"a": "=1"}
    assert cells[8] == ""


def test_control_characters_are_shown_as_replaced() -> None:
    assert read(csv_row(["a\x00b\x1b[31m\x85c"]))[0] == "a\ufffdb\ufffd[31m\ufffdc"


TEXT = st.text(st.characters(codec="utf-8"), max_size=40) | st.text("=+-@;,\t\r\n'\" 1a", max_size=12)


@given(st.lists(TEXT, min_size=1, max_size=6))
def test_any_text_is_one_row_that_reads_back_as_its_neutral_form(values: list[str]) -> None:
    assert read(csv_row(["k", *values])) == ["k", *map(neutral, values)]


@given(TEXT, st.sampled_from([";", "\t", ","]))
def test_no_cell_begins_with_a_formula_whatever_separator_is_assumed(value: str, separator: str) -> None:
    text = csv_row(["key", value])
    for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator):
        for cell in row:
            bare = cell.lstrip(" \"'")
            run = bare.startswith(("=", "+", "-", "@")) and not NUMBER.fullmatch(bare)
            assert not run or "'" in cell[: len(cell) - len(bare)]


def test_a_table_has_a_header_crlf_and_comes_in_pieces() -> None:
    chunks = list(csv_chunks(["_key", "a"], ([str(n), "x" * 1000] for n in range(1000))))
    assert len(chunks) > 2
    text = b"".join(chunks).decode()
    assert text.startswith("_key,a\r\n0,x")
    assert text.endswith("x\r\n")
    assert text.count("\r\n") == 1001


@pytest.mark.parametrize(
    ("name", "extension"),
    [
        ("CV.PDF", "pdf"),
        ("../../etc/passwd", "bin"),
        ("a.html", "bin"),
        ("a.svg", "bin"),
        ("virus.pdf.exe", "bin"),
        ("a.pdf\x00.exe", "bin"),
        ("CON", "bin"),
        ("", "bin"),
        ("a.pdf ", "bin"),
        ("a.pdf\n", "bin"),
        ("ａ.ｐｄｆ", "bin"),
    ],
)
def test_a_files_original_name_gives_at_most_a_harmless_extension(name: str, extension: str) -> None:
    assert names.extension(name) == extension


def test_a_long_name_is_cut_and_stays_unique() -> None:
    first, second = names.stem("a" * 63, "b" * 63), names.stem("a" * 63, "b" * 62 + "c")
    assert len(first) == len(second) == names.STEM
    assert first != second
    assert len(f"data/schemas/{first}.schema.json") < 120


@pytest.mark.parametrize(
    "path", ["../a", "a/../b", "/a", "a//b", "a\\b", "C:a", "a/", "", ".a", "a/.b", "A", "ø", "a b", "a\n"]
)
def test_a_path_that_is_not_plain_is_not_safe(path: str) -> None:
    assert not names.is_safe(path)


def test_portability_covers_what_was_provided_or_observed_under_consent_or_contract() -> None:
    assert set(portable_fields(REGISTER, *CUSTOMER)) == {
        "name",
        "email",
        "phone",
        "address",
        "created_at",
        "newsletter",
    }
    assert not_portable(REGISTER, *CUSTOMER)["note"] == "habeas:A20-not-provided"
    assert portable_fields(REGISTER, *CONTRACT) == ("product", "started_on", "ended_on", "monthly_price")


def test_portability_leaves_out_what_is_kept_by_law() -> None:
    assert portable_fields(REGISTER, *INVOICE) == ()
    assert not_portable(REGISTER, *INVOICE)["amount"] == "habeas:A20-basis"


def test_portability_leaves_out_what_is_not_automated() -> None:
    def not_automated(document: dict[str, Any]) -> None:
        for purpose in document["purposes"].values():
            purpose["automated"] = False

    register = changed(not_automated)
    assert portable_fields(register, *CUSTOMER) == ()
    assert not_portable(register, *CUSTOMER)["email"] == "habeas:A20-not-automated"


def test_a_sample_ends_at_two_hundred_records() -> None:
    sampler = Sampler()
    sample = sampler.of(CUSTOMER)
    for number in range(300):
        sample.add(line(CUSTOMER, str(number), {"id": number}))
    assert len(list(sampler.records(*CUSTOMER))) == 200
    assert sample.full


def test_all_samples_together_stay_within_their_memory() -> None:
    sampler = Sampler()
    for number in range(30):
        sample = sampler.of(("s", str(number)))
        for key in range(20):
            sample.add(line(CUSTOMER, str(key), {"note": "x" * 100_000}))
    kept = sum(len(found.raw) for number in range(30) for found in sampler.records("s", str(number)))
    assert 7_000_000 < kept <= 8 << 20
