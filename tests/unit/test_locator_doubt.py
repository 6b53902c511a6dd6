"""Is a record really the person's? Names, shared and recycled addresses, and what hangs under them."""

from typing import Any

import pytest

from services.locator.connectors.base import Ancestor, Found
from services.locator.doubt import Judge, folded_name, names_fit, yielded
from shared.messages import Record
from shared.register import System
from tests.support.registers import entity, register, sql

SYSTEM: System = register(
    {
        "crm": sql(
            {
                "customer": entity(
                    ["id", "name", "number"],
                    key="id",
                    name_fields=["name"],
                    find_by={"email": "id"},
                    yields={"customer_number": "number"},
                ),
                "order": entity(["id"], key="id", via={"entity": "customer", "parent_field": "id", "field": "id"}),
                "ticket": entity(["id", "name"], key="id", name_fields=["name"], find_by={"email": "id"}),
            }
        )
    }
).systems["crm"]


def found(key: str, name: str | None, *, entity: str = "customer", bound: dict[str, str] | None = None) -> Found:
    fields: dict[str, Any] = {"id": key, "name": name, "number": f"K{key}"}
    return Found(Record("crm", entity, key, bound or {"email": "a@x.dk"}, "field", fields))


def judged(*records: Found, name: str = "Søren Østergård") -> dict[str, str | None]:
    judge = Judge(name, SYSTEM)
    decided = [record for one in records for record in judge.take(one)] + list(judge.end())
    assert len(decided) == len(records), "nothing is dropped"
    return {f"{record.entity}:{record.key}": record.doubt for record in decided}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Søren Østergård", "Oestergaard, Soeren"),
        ("Søren Østergård", "SOREN OSTERGARD"),
        ("Søren Østergård", "Søren Bo Østergård"),
        ("Åse Kjær", "Aase  Kjaer"),
        ("André Müller", "Andre Mueller"),
        ("Anne-Marie Bæk", "Anne Marie Baek"),
    ],
)
def test_ways_to_write_one_name_fit(one: str, other: str) -> None:
    assert names_fit(folded_name(one), folded_name(other))
    assert names_fit(folded_name(other), folded_name(one))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Søren Østergård", "Søren"),
        ("Søren Østergård", "Mette Østergård"),
        ("Jens Hansen", "Jens Jensen"),
        ("Bo Bo", "Bo Lund"),
    ],
)
def test_another_name_does_not_fit(one: str, other: str) -> None:
    assert not names_fit(folded_name(one), folded_name(other))


def test_one_fitting_record_is_not_doubtful() -> None:
    assert judged(found("1", "Soeren Oestergaard")) == {"customer:1": None}


def test_a_record_under_another_name_is_doubtful() -> None:
    assert judged(found("1", "Mette Lund")) == {"customer:1": "name_mismatch"}


def test_of_a_recycled_address_only_the_fitting_record_is_the_persons() -> None:
    verdict = judged(found("1", "Mette Lund"), found("2", "Søren Østergård"))
    assert verdict == {"customer:1": "name_mismatch", "customer:2": None}


def test_two_fitting_records_under_one_identifier_are_both_ambiguous() -> None:
    verdict = judged(found("1", "Søren Østergård"), found("2", "Søren Østergård"))
    assert verdict == {"customer:1": "ambiguous", "customer:2": "ambiguous"}


def test_a_third_fitting_record_is_ambiguous_too() -> None:
    verdict = judged(*(found(str(number), "Søren Østergård") for number in range(3)))
    assert set(verdict.values()) == {"ambiguous"}


def test_two_fitting_records_under_different_identifiers_are_no_contradiction() -> None:
    other = {"phone": "+4512345678"}
    verdict = judged(found("1", "Søren Østergård"), found("2", "Søren Østergård", bound=other))
    assert set(verdict.values()) == {None}


def test_a_record_without_a_name_is_trusted_only_while_it_is_alone() -> None:
    assert judged(found("1", None)) == {"customer:1": None}
    assert judged(found("1", None), found("2", "")) == {"customer:1": "name_mismatch", "customer:2": "name_mismatch"}
    assert judged(found("1", None), found("2", "Søren Østergård"))["customer:1"] == "name_mismatch"


def test_many_tickets_with_the_persons_name_are_not_ambiguous() -> None:
    verdict = judged(*(found(str(number), "Søren Østergård", entity="ticket") for number in range(3)))
    assert set(verdict.values()) == {None}
    assert judged(found("1", "Mette Lund", entity="ticket")) == {"ticket:1": "name_mismatch"}


def test_what_hangs_under_a_doubtful_row_is_doubtful_too() -> None:
    def order(key: str, customer: str) -> Found:
        record = Record("crm", "order", key, {"email": "a@x.dk"}, "join", {"id": key})
        return Found(record, (Ancestor("customer", (customer,)),))

    own = judged(
        found("1", "Søren Østergård"), found("2", "Mette Lund"), order("7", "Søren Østergård"), order("8", "Mette Lund")
    )
    assert own["order:7"] is None
    assert own["order:8"] == "name_mismatch"
    both = judged(found("1", "Søren Østergård"), found("2", "Søren Østergård"), order("7", "Søren Østergård"))
    assert both["order:7"] == "ambiguous"


def test_a_person_may_be_declared_not_to_be_one() -> None:
    customer = SYSTEM.entities["customer"].model_copy(update={"stands_for_person": False})
    system = SYSTEM.model_copy(update={"entities": {**SYSTEM.entities, "customer": customer}})
    judge = Judge("Søren Østergård", system)
    decided = [r for key in "12" for r in judge.take(found(key, "Søren Østergård"))] + list(judge.end())
    assert [record.doubt for record in decided] == [None, None]


def test_a_million_records_are_not_held_back() -> None:
    judge = Judge("Søren Østergård", SYSTEM)
    waiting = 0
    for number in range(5000):
        waiting += 1 - len(list(judge.take(found(str(number), "Søren Østergård"))))
        assert waiting <= 1


def test_a_doubtful_record_yields_no_identifier() -> None:
    customer = SYSTEM.entities["customer"]
    record = found("1", "Søren Østergård").record
    assert yielded(customer, record) == {"customer_number": "K1"}
    doubtful = next(iter(Judge("Mette Lund", SYSTEM).take(found("1", "Søren Østergård"))))
    assert yielded(customer, doubtful) == {}
