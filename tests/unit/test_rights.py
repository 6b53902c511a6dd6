"""Does the rights engine decide as the law says, for every basis and for registers that nobody thought of?"""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.intake import rights
from services.intake.rights import Facts, GroupDecision, decide, ending, needs_person
from shared.register import Register
from shared.vocabulary import EXECUTED, LegalBasis, Outcome, Provided, Right, TaskState
from tests.support import registers

MATRIX = json.loads((Path(__file__).parents[1] / "data" / "rights_matrix.json").read_text())["rights"]
IN_MATRIX = {Right.ACCESS: "A15", Right.PORTABILITY: "A20"}
FOUND = {"crm": TaskState.FOUND}


def purpose(basis: LegalBasis = LegalBasis.CONTRACT, **rest: Any) -> dict[str, Any]:
    retention = {"label": registers.text()}
    return {
        "label": registers.text(), "legal_basis": {"stated": "x", "normalised": basis.value}, "retention": retention,
        **rest,
    }  # fmt: skip


def register(purposes: dict[str, Any], entities: dict[str, Any] | None = None, **policy: str) -> Register:
    """One system `crm`; by default one entity `person` under every purpose, with one field that the person gave."""
    entities = entities or {"person": registers.entity(["name"], purposes=list(purposes))}
    return registers.register(
        {"crm": registers.manual(entities)}, purposes=purposes, policy={"approval": policy} if policy else {}
    )


def one(right: Right, register: Register, records: int = 3, **facts: int) -> GroupDecision:
    (decision,) = decide(right, register, [Facts("crm", "person", records, **facts)])
    return decision


def automatic(right: Right, register: Register, **facts: int) -> bool:
    """Whether an answer about three records would leave without a person, in an organisation that allows it."""
    known = [Facts("crm", "person", 3, **facts)]
    return not needs_person(right, register, decide(right, register, known), known, FOUND)


# --- access --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("basis", LegalBasis)
@pytest.mark.parametrize("automated", [True, False])
@pytest.mark.parametrize("provided", Provided)
def test_access_is_granted_on_every_basis_whatever_the_source(
    basis: LegalBasis, automated: bool, provided: Provided
) -> None:
    entity = registers.entity(["name"], purposes=["p"], provided=provided.value)
    decision = one(Right.ACCESS, register({"p": purpose(basis, automated=automated)}, {"person": entity}))
    assert (decision.outcome, decision.article, decision.reason) == (Outcome.GRANTED, "15", None)


@pytest.mark.parametrize("right", sorted(EXECUTED))
@pytest.mark.parametrize("basis", LegalBasis)
def test_a_mere_processor_forwards_and_never_decides(right: Right, basis: LegalBasis) -> None:
    house = register({"p": purpose(basis, role="processor", controller="Kunden A/S")}, access="automatic")
    decision = one(right, house)
    assert (decision.outcome, decision.article) == (Outcome.REFERRED, "28(3)(e)")
    assert not automatic(right, house)


# --- portability ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("basis", "outcome"),
    [
        (LegalBasis.CONSENT, Outcome.GRANTED),
        (LegalBasis.CONTRACT, Outcome.GRANTED),
        (LegalBasis.EXPLICIT_CONSENT, Outcome.GRANTED),
        (LegalBasis.LEGAL_OBLIGATION, Outcome.NOT_APPLICABLE),
        (LegalBasis.VITAL_INTEREST, Outcome.NOT_APPLICABLE),
        (LegalBasis.PUBLIC_TASK, Outcome.NOT_APPLICABLE),
        (LegalBasis.LEGITIMATE_INTEREST, Outcome.NOT_APPLICABLE),
        (LegalBasis.LEGAL_CLAIMS, Outcome.NOT_APPLICABLE),
        (LegalBasis.UNKNOWN, Outcome.NOT_APPLICABLE),
    ],
)
def test_portability_needs_consent_or_contract(basis: LegalBasis, outcome: Outcome) -> None:
    decision = one(Right.PORTABILITY, register({"p": purpose(basis)}))
    assert decision.outcome == outcome
    assert decision.reason == (None if outcome is Outcome.GRANTED else "habeas:A20-basis")


def test_paper_is_not_portable() -> None:
    decision = one(Right.PORTABILITY, register({"p": purpose(automated=False)}))
    assert (decision.outcome, decision.article, decision.reason) == (
        Outcome.NOT_APPLICABLE,
        "20(1)(b)",
        "habeas:A20-not-automated",
    )


@pytest.mark.parametrize(
    ("provided", "outcome"),
    [
        (["provided", "observed"], Outcome.GRANTED),
        (["observed"], Outcome.GRANTED),
        (["provided", "derived"], Outcome.PARTLY_GRANTED),
        (["derived", "third_party"], Outcome.NOT_APPLICABLE),
    ],
)
def test_what_the_person_gave_or_did_is_portable_and_what_was_derived_is_not(
    provided: list[str], outcome: Outcome
) -> None:
    fields = {f"f{n}": {"provided": kind} for n, kind in enumerate(provided)}
    entity = registers.entity(fields, purposes=["p"])
    assert one(Right.PORTABILITY, register({"p": purpose()}, {"person": entity})).outcome == outcome


def test_a_field_says_where_it_comes_from_before_its_entity_does() -> None:
    entity = registers.entity({"a": {"provided": "provided"}, "b": {}}, purposes=["p"], provided="derived")
    decision = one(Right.PORTABILITY, register({"p": purpose()}, {"person": entity}))
    assert (decision.outcome, decision.reason) == (Outcome.PARTLY_GRANTED, "habeas:A20-not-provided")


def test_each_purpose_of_an_entity_is_decided_by_itself() -> None:
    house = register({"sale": purpose(), "law": purpose(LegalBasis.LEGAL_OBLIGATION)})
    decisions = decide(Right.PORTABILITY, house, [Facts("crm", "person", 3)])
    assert [(item.purpose, item.outcome) for item in decisions] == [
        ("sale", Outcome.GRANTED),
        ("law", Outcome.NOT_APPLICABLE),
    ]


def test_what_has_no_records_is_not_decided() -> None:
    assert decide(Right.ACCESS, register({"p": purpose()}), [Facts("crm", "person", 0)]) == ()


# --- the matrix of the law -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("right", sorted(EXECUTED))
@pytest.mark.parametrize("basis", [basis for basis in LegalBasis if basis is not LegalBasis.UNKNOWN])
@pytest.mark.parametrize("automated", [True, False])
@pytest.mark.parametrize("provided", Provided)
def test_nothing_is_granted_that_the_matrix_does_not_grant(
    right: Right, basis: LegalBasis, automated: bool, provided: Provided
) -> None:
    rule = MATRIX[IN_MATRIX[right]][basis.value.removeprefix("A")]["applies"]
    entity = registers.entity(["name"], purposes=["p"], provided=provided.value)
    house = register({"p": purpose(basis, automated=automated)}, {"person": entity}, access="automatic")
    outcome = one(right, house).outcome
    if rule == "no":
        assert outcome not in {Outcome.GRANTED, Outcome.PARTLY_GRANTED}
    if rule == "yes":
        assert outcome is Outcome.GRANTED
    if rule == "conditional" and right is Right.PORTABILITY:
        portable = automated and provided in {Provided.PROVIDED, Provided.OBSERVED}
        assert outcome is (Outcome.GRANTED if portable else Outcome.NOT_APPLICABLE)
    if rule == "conditional" and right is Right.ACCESS:  # 15(4), DBL § 22: weighed by a person
        assert not automatic(right, house)


def test_the_matrix_speaks_of_every_basis_that_habeas_knows() -> None:
    known = {basis.value.removeprefix("A") for basis in LegalBasis if basis is not LegalBasis.UNKNOWN}
    for article in IN_MATRIX.values():
        assert set(MATRIX[article]) == known


# --- who approves --------------------------------------------------------------------------------------------------


def test_what_is_plainly_granted_leaves_by_itself_only_where_the_organisation_chose_so() -> None:
    assert not automatic(Right.ACCESS, register({"p": purpose()}))
    assert not automatic(Right.ACCESS, register({"p": purpose()}, access="person"))
    assert not automatic(Right.ACCESS, register({"p": purpose()}, portability="automatic"))
    assert automatic(Right.ACCESS, register({"p": purpose()}, access="automatic"))


@pytest.mark.parametrize("right", sorted(EXECUTED))
@pytest.mark.parametrize("basis", [LegalBasis.UNKNOWN, LegalBasis.LEGAL_CLAIMS])
def test_an_unknown_basis_and_legal_claims_always_go_to_a_person(right: Right, basis: LegalBasis) -> None:
    assert not automatic(right, register({"p": purpose(basis)}, None, **{right.value: "automatic"}))


@pytest.mark.parametrize("facts", [{"doubtful": 1}, {"to_open": 1}])
def test_what_is_doubtful_or_must_be_opened_goes_to_a_person(facts: dict[str, int]) -> None:
    assert not automatic(Right.ACCESS, register({"p": purpose()}, access="automatic"), **facts)


def test_a_system_that_was_not_searched_goes_to_a_person() -> None:
    house, known = register({"p": purpose()}, access="automatic", not_found="automatic"), [Facts("crm", "person", 3)]
    states = {"crm": TaskState.FOUND, "archive": TaskState.NOT_SEARCHED}
    assert needs_person(Right.ACCESS, house, decide(Right.ACCESS, house, known), known, states)
    assert needs_person(Right.ACCESS, house, (), [], {"crm": TaskState.NOT_SEARCHED})


def test_nothing_held_goes_to_a_person_unless_the_organisation_chose_otherwise() -> None:
    nothing = {"crm": TaskState.NOTHING}
    assert needs_person(Right.ACCESS, register({"p": purpose()}, access="automatic"), (), [], nothing)
    assert not needs_person(Right.ACCESS, register({"p": purpose()}, not_found="automatic"), (), [], nothing)


# --- how it ends ---------------------------------------------------------------------------------------------------


def group(outcome: Outcome) -> GroupDecision:
    return GroupDecision("crm", "person", "p", outcome, "15", None, 3)


@pytest.mark.parametrize(
    ("decided", "withheld", "states", "outcome"),
    [
        ([Outcome.GRANTED], 0, FOUND, Outcome.GRANTED),
        ([Outcome.GRANTED, Outcome.GRANTED], 0, FOUND, Outcome.GRANTED),
        ([Outcome.GRANTED], 1, FOUND, Outcome.PARTLY_GRANTED),
        ([Outcome.GRANTED, Outcome.REFERRED], 0, FOUND, Outcome.PARTLY_GRANTED),
        ([Outcome.PARTLY_GRANTED], 0, FOUND, Outcome.PARTLY_GRANTED),
        ([Outcome.NOT_APPLICABLE], 0, FOUND, Outcome.PARTLY_GRANTED),
        ([Outcome.GRANTED], 0, FOUND | {"archive": TaskState.NOT_SEARCHED}, Outcome.PARTLY_GRANTED),
        ([], 0, {"crm": TaskState.NOTHING}, Outcome.NOT_FOUND),
        ([], 0, {"crm": TaskState.NOT_SEARCHED}, Outcome.PARTLY_GRANTED),
        ([], 2, FOUND, Outcome.PARTLY_GRANTED),
    ],
)
def test_a_case_ends_as_its_groups_did_and_never_as_nothing_held_when_something_was_not_searched(
    decided: list[Outcome], withheld: int, states: dict[str, TaskState], outcome: Outcome
) -> None:
    assert ending([group(item) for item in decided], withheld=withheld, states=states) == outcome


# --- registers that nobody thought of ------------------------------------------------------------------------------

NAMES = st.sampled_from(["alfa", "beta", "gamma"])


@st.composite
def houses(draw: st.DrawFn) -> tuple[Register, list[Facts], dict[str, TaskState]]:
    """A register, what its systems told, and where their tasks ended."""
    bases, roles = st.sampled_from(list(LegalBasis)), st.sampled_from(["controller", "joint", "processor"])
    purposes = {
        name: purpose(draw(bases), role=draw(roles), automated=draw(st.booleans()))
        for name in draw(st.lists(NAMES, min_size=1, unique=True))
    }
    provided = st.sampled_from([kind.value for kind in Provided])
    entities = {
        name: registers.entity(
            {
                f"f{n}": draw(st.sampled_from([{}, {"provided": draw(provided)}]))
                for n in range(draw(st.integers(1, 3)))
            },
            purposes=draw(st.lists(st.sampled_from(sorted(purposes)), min_size=1, unique=True)),
            provided=draw(provided),
        )
        for name in draw(st.lists(NAMES, min_size=1, unique=True))
    }
    keys = [right.value for right in EXECUTED] + ["not_found"]
    policy = draw(st.dictionaries(st.sampled_from(keys), st.sampled_from(["automatic", "person"])))
    house = registers.register({"crm": registers.manual(entities)}, purposes=purposes, policy={"approval": policy})
    counts = st.integers(0, 3)
    facts = [Facts("crm", name, draw(counts), draw(counts), draw(counts)) for name in entities]
    final = st.sampled_from([TaskState.FOUND, TaskState.NOTHING, TaskState.NOT_SEARCHED])
    return house, facts, {"crm": draw(final)}


@given(houses(), st.sampled_from(sorted(EXECUTED)))
def test_every_group_with_records_gets_exactly_one_decision_and_always_the_same(
    house: tuple[Register, list[Facts], dict[str, TaskState]], right: Right
) -> None:
    register, facts, states = house
    decisions = decide(right, register, facts)
    expected = [
        ("crm", fact.entity, name, fact.records)
        for fact in facts
        if fact.records
        for name in register.systems["crm"].entities[fact.entity].purposes
    ]
    assert [(item.system, item.entity, item.purpose, item.records) for item in decisions] == expected
    assert decide(right, register, facts) == decisions
    assert needs_person(right, register, decisions, facts, states) in {True, False}
    assert ending(decisions, withheld=0, states=states) in Outcome


@given(houses(), st.sampled_from(sorted(EXECUTED)))
def test_every_decision_that_is_no_plain_grant_says_why_and_by_which_article(
    house: tuple[Register, list[Facts], dict[str, TaskState]], right: Right
) -> None:
    register, facts, _states = house
    for item in decide(right, register, facts):
        assert item.article
        assert (item.reason is None) == (item.outcome is Outcome.GRANTED)


@given(houses(), st.sampled_from(sorted(EXECUTED)))
def test_nothing_negative_ever_leaves_without_a_person(
    house: tuple[Register, list[Facts], dict[str, TaskState]], right: Right
) -> None:
    register, facts, states = house
    decisions = decide(right, register, facts)
    if needs_person(right, register, decisions, facts, states):
        return
    assert all(item.outcome is Outcome.GRANTED for item in decisions)
    assert TaskState.NOT_SEARCHED not in states.values()
    assert not any(fact.doubtful or fact.to_open for fact in facts)
    bases = {register.purposes[item.purpose].legal_basis.normalised for item in decisions}
    assert not bases & rights.WEIGHED
    chosen = right.value if any(fact.records for fact in facts) else "not_found"
    assert (chosen, "automatic") in register.policy.approval.items()


@given(houses(), st.sampled_from(sorted(EXECUTED)))
def test_portability_never_gives_more_than_access(
    house: tuple[Register, list[Facts], dict[str, TaskState]], right: Right
) -> None:
    register, facts, _states = house
    access, portable = (decide(asked, register, facts) for asked in (Right.ACCESS, Right.PORTABILITY))
    for wide, narrow in zip(access, portable, strict=True):
        if narrow.outcome in {Outcome.GRANTED, Outcome.PARTLY_GRANTED}:
            assert wide.outcome is Outcome.GRANTED
