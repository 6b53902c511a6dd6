"""What is looked at while records stream past, and what is kept of it."""

import msgspec
import pytest

from services.exporter.binding import Binder, RecordDigests, file_digest
from services.exporter.parts import (
    DOUBTFUL,
    HAS_FILES,
    MAX_BINDINGS,
    MAX_LINE,
    TO_OPEN,
    BadLine,
    Inspector,
    LineTooLong,
    NotInRegister,
    OtherSystem,
    TooScattered,
    count_unbound,
    decode,
    lines,
    read_index,
    sum_up,
)
from shared.identifiers import digest
from shared.messages import Record
from shared.problems import Problem
from shared.register import Register
from tests.contract.exporter_house import EMAIL, NUMBER, REGISTER, customer, letter, message, ndjson, record

KEY = b"k" * 32
REGISTER_V1 = Register.model_validate(REGISTER)
PROOFS = frozenset({digest(KEY, "email", EMAIL)})


def inspector() -> Inspector:
    return Inspector(REGISTER_V1, Binder(KEY, (), REGISTER_V1), KEY)


def inspect(data: bytes, size: int = 1 << 20) -> tuple[Inspector, bytes]:
    one = inspector()
    for start in range(0, len(data), size):
        one.feed(data[start : start + size])
    return one, one.finish()


def refused(data: bytes) -> Problem:
    with pytest.raises(Problem) as told:
        inspect(data)
    assert EMAIL not in str(told.value.document())
    return told.value


# --- inspecting ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 64, 1 << 20])
def test_facts_do_not_depend_on_how_the_stream_was_cut(size: int) -> None:
    data = ndjson([customer("1"), customer("2", doubt="ambiguous"), customer("3", files=("cv.pdf",))])
    one, index = inspect(data, size)
    found = one.found()
    assert (found.system, found.records, found.files) == ("crm", 3, [file_digest(KEY, "cv.pdf")])
    (facts,) = found.facts
    assert (facts["entity"], facts["records"], facts["doubtful"], facts["to_open"]) == ("customer", 3, 1, 1)
    assert [flags for _, _, flags, _ in read_index(index)] == [0, DOUBTFUL, TO_OPEN | HAS_FILES]
    assert next(read_index(index))[0] == RecordDigests(KEY, "crm", "customer").of("1")


def test_a_last_line_needs_no_newline_and_an_empty_part_is_none() -> None:
    one, index = inspect(ndjson([customer()]).rstrip(b"\n"))
    assert one.found().records == 1
    assert len(list(read_index(index))) == 1
    assert inspect(b"")[0].found().records == 0


def test_free_text_is_to_be_opened_unless_it_is_empty() -> None:
    _, index = inspect(ndjson([message("1"), message("2", body=""), message("3", body=None)]))
    assert [bool(flags & TO_OPEN) for _, _, flags, _ in read_index(index)] == [True, False, False]


def test_entities_of_one_system_share_a_part() -> None:
    order = record("crm", "order", "9", fields={"id": "9"}, bound={"email": EMAIL}, evidence="join")
    one, index = inspect(ndjson([customer(), order, customer("2")]))
    assert [facts["entity"] for facts in one.found().facts] == ["customer", "order"]
    assert [entity for _, entity, _, _ in read_index(index)] == [0, 1, 0]


@pytest.mark.parametrize(
    "line",
    [
        b"not json",
        b"{}",
        b"[]",
        b"null",
        b'{"system":"crm"}',
        b'{"system":"crm","entity":"customer","key":1,"bound":{},"evidence":"field","fields":{}}',
        b'{"system":"crm","entity":"customer","key":"1","bound":{},"evidence":"guess","fields":{}}',
        b'{"system":"crm","entity":"customer","key":"1","bound":{},"evidence":"field","fields":{},"secret":"x"}',
        b'{"system":"crm","entity":"customer","key":"\xff","bound":{},"evidence":"field","fields":{}}',
        b'{"system":"crm","entity":"customer","key":"1","bound":{},"evidence":"field","fields":{"id":'
        + b"[" * 50_000 + b"]" * 50_000 + b"}}",
    ],
)  # fmt: skip
def test_a_line_that_is_no_record_is_named_by_its_number(line: bytes) -> None:
    problem = refused(ndjson([customer("1"), customer("2")]) + line + b"\n" + ndjson([customer("3")]))
    assert isinstance(problem, BadLine)
    assert problem.extra == {"line": 3}


@pytest.mark.parametrize("blank", [b"\n", b"  \n", b"\r\n"])
def test_a_blank_line_is_refused_because_records_are_known_by_their_line(blank: bytes) -> None:
    assert isinstance(refused(ndjson([customer()]) + blank + ndjson([customer("2")])), BadLine)
    assert isinstance(refused(blank), BadLine)


def test_a_bad_line_after_a_million_bytes_still_has_its_number() -> None:
    many = ndjson([customer(str(number)) for number in range(8000)])
    assert refused(many + b"{}\n").extra == {"line": 8001}


def test_a_record_longer_than_a_line_may_be_is_refused_whether_or_not_it_ends() -> None:
    long = ndjson([message(body="æ" * MAX_LINE)])
    assert isinstance(refused(long), LineTooLong)
    assert isinstance(refused(long[: MAX_LINE + 10]), LineTooLong)
    fits = ndjson([message(body="x" * (MAX_LINE - 400))])
    assert inspect(fits)[0].found().records == 1


@pytest.mark.parametrize(
    "wrong",
    [
        record("payroll", "salary", "1"),
        record("crm", "salary", "1"),
        record("crm", "customer", "1", fields={"cpr": "0102031234"}),
    ],
)
def test_what_the_register_does_not_know_is_refused(wrong: Record) -> None:
    assert isinstance(refused(ndjson([wrong])), NotInRegister)


def test_a_part_holds_records_of_one_system() -> None:
    assert isinstance(refused(ndjson([customer(), message()])), OtherSystem)


def test_thousands_of_identifiers_are_not_one_person() -> None:
    many = [
        record("crm", "order", str(n), bound={"customer_number": f"K{n}"}, evidence="join")
        for n in range(MAX_BINDINGS + 1)
    ]
    assert inspect(ndjson(many[:-1]))[0].found().records == MAX_BINDINGS
    assert isinstance(refused(ndjson(many)), TooScattered)


# --- binding -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "bound"),
    [
        (customer(), True),
        (customer(bound={"email": "another@example.dk"}), False),
        (customer(bound={}), False),
        (customer(bound={"customer_number": NUMBER}), False),
        (customer(bound={"customer_number": NUMBER, "email": EMAIL}), True),
        (customer(fields={"id": "1", "email": "another@example.dk"}), False),
        (customer(fields={"id": "1", "email": "not an address"}), False),
        (customer(fields={"id": "1", "email": None}), False),
        (customer(fields={"id": "1"}), True),
        (customer(fields={"id": "1", "email": "another@example.dk"}, evidence="join"), True),
        (message(), True),
        (letter(), False),
    ],
)
def test_a_record_is_bound_by_a_proven_identifier_that_truly_stands_in_it(one: Record, bound: bool) -> None:
    assert Binder(KEY, PROOFS, REGISTER_V1).is_bound(one) is bound


def test_a_discovered_identifier_binds_once_it_is_proven() -> None:
    proofs = PROOFS | {digest(KEY, "customer_number", NUMBER)}
    assert Binder(KEY, proofs, REGISTER_V1).is_bound(letter())


def test_another_orders_key_binds_nothing() -> None:
    assert not Binder(b"x" * 32, PROOFS, REGISTER_V1).is_bound(customer())


def test_the_binder_forgets_rather_than_grow_without_end() -> None:
    binder = Binder(KEY, PROOFS, REGISTER_V1)
    for n in range(25_000):
        binder.is_bound(record("archive", "letter", "1", fields={"number": n}, bound={"customer_number": str(n)}))
    assert len(binder._digests) <= 20_000
    assert len(binder._normal) <= 20_000
    assert binder.is_bound(customer())


def test_unbound_records_are_counted_from_the_facts_alone() -> None:
    one, _ = inspect(ndjson([customer("1"), customer("2", bound={"email": "a@b.dk"}), customer("3", bound={})]))
    facts = one.found().facts
    assert count_unbound(facts, PROOFS) == {"customer": 2}
    assert count_unbound(facts, frozenset()) == {"customer": 3}


def test_marks_and_files_are_known_by_digests_that_need_the_key() -> None:
    here = RecordDigests(KEY, "crm", "customer")
    assert here.of("1") == here.of("1") != here.of("2")
    assert here.of("1") != RecordDigests(b"x" * 32, "crm", "customer").of("1")
    assert here.of("1") != RecordDigests(KEY, "crm", "order").of("1")
    assert file_digest(KEY, "cv.pdf") != file_digest(b"x" * 32, "cv.pdf")


# --- small things --------------------------------------------------------------------------------------------------


def test_facts_of_parts_add_up() -> None:
    one, _ = inspect(ndjson([customer("1"), customer("2", doubt="name_mismatch")]))
    two, _ = inspect(ndjson([customer("3")]))
    (total,) = sum_up([one.found().facts, two.found().facts])
    assert (total.entity, total.records, total.doubtful, total.to_open) == ("customer", 3, 1, 0)


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_lines_come_back_as_they_were(size: int) -> None:
    data = ndjson([customer("1"), message("2")])
    chunks = [data[start : start + size] for start in range(0, len(data), size)]
    assert b"".join(line + b"\n" for line in lines(chunks)) == data
    assert list(lines([data.rstrip(b"\n")])) == data.splitlines()
    assert decode(next(lines(chunks))) == customer("1")


def test_a_record_survives_its_line() -> None:
    assert decode(msgspec.json.encode(customer(files=("a", "b"), doubt="ambiguous"))) == customer(
        files=("a", "b"), doubt="ambiguous"
    )
