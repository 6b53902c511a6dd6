"""What does the law say about each record group? Pure: no I/O, `today` is an argument.

A record group is an entity under one purpose (design §4). This version decides access (Art. 15) and portability
(Art. 20); every other right is carried out by a person through tasks.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from shared.register import Entity, Purpose, Register
from shared.vocabulary import ARTICLE, PORTABLE, PORTABLE_BASES, Assurance, LegalBasis, Outcome, Right, TaskState

NEGATIVE = frozenset(Outcome) - {Outcome.GRANTED}
"""Whatever gives a person less than they asked for, in law or in fact."""

WEIGHED = frozenset({LegalBasis.UNKNOWN, LegalBasis.LEGAL_CLAIMS})
"""Bases on which a person always looks: without one there is no default (R41), and what is kept for legal claims may
have to be weighed against others' interests (15(4), DBL § 22), which no program does."""


@dataclass(frozen=True)
class Facts:
    """What one system told about one entity: counts only."""

    system: str
    entity: str
    records: int
    doubtful: int = 0
    to_open: int = 0


@dataclass(frozen=True)
class GroupDecision:
    """The decision for one record group, with article and, where it is not plainly granted, a reason code."""

    system: str
    entity: str
    purpose: str
    outcome: Outcome
    article: str
    reason: str | None
    records: int


def decide(right: Right, register: Register, facts: Iterable[Facts]) -> tuple[GroupDecision, ...]:
    """Return one decision per record group with records, in the order of the facts. Deterministic."""
    rule = {Right.ACCESS: _access, Right.PORTABILITY: _portability}[right]
    return tuple(
        GroupDecision(
            fact.system, fact.entity, name, *rule(register.purposes[name], entity), fact.records
        )
        for fact in facts
        if fact.records and (entity := register.systems[fact.system].entities[fact.entity])
        for name in entity.purposes
    )  # fmt: skip


def _access(purpose: Purpose, _entity: Entity) -> tuple[Outcome, str, str | None]:
    """Art. 15 applies on every legal basis; only as a mere processor we do not decide (Art. 28(3)(e))."""
    if purpose.role == "processor":
        return Outcome.REFERRED, "28(3)(e)", "habeas:processor-forward"
    return Outcome.GRANTED, ARTICLE[Right.ACCESS], None


def _portability(purpose: Purpose, entity: Entity) -> tuple[Outcome, str, str | None]:
    """Art. 20(1): consent or contract, by automated means, provided by the person (given or observed, WP242)."""
    if purpose.role == "processor":
        return Outcome.REFERRED, "28(3)(e)", "habeas:processor-forward"
    if purpose.legal_basis.normalised not in PORTABLE_BASES:
        return Outcome.NOT_APPLICABLE, "20(1)(a)", "habeas:A20-basis"
    if not purpose.automated:
        return Outcome.NOT_APPLICABLE, "20(1)(b)", "habeas:A20-not-automated"
    provided = [(field.provided or entity.provided) in PORTABLE for field in entity.fields.values()]
    if not any(provided):
        return Outcome.NOT_APPLICABLE, "20(1)", "habeas:A20-not-provided"
    return (
        (Outcome.GRANTED, "20", None) if all(provided) else (Outcome.PARTLY_GRANTED, "20(1)", "habeas:A20-not-provided")
    )


def demanded(register: Register, facts: Iterable[Facts]) -> Assurance:
    """Return the assurance that the most sensitive category among what was found demands (design §1.8)."""
    levels = [
        register.categories[field.category].level
        for fact in facts
        if fact.records
        for field in register.systems[fact.system].entities[fact.entity].fields.values()
    ]
    return max(levels, default=Assurance.CONTROLLED)


def needs_person(
    right: Right,
    register: Register,
    decisions: Iterable[GroupDecision],
    facts: Iterable[Facts],
    states: Mapping[str, TaskState],
) -> bool:
    """Whether a person must approve. Nothing negative is ever automatic (law.md §9), nor anything doubtful."""
    decided, known = tuple(decisions), tuple(facts)
    if any(item.outcome in NEGATIVE for item in decided) or TaskState.NOT_SEARCHED in states.values():
        return True
    if any(fact.doubtful or fact.to_open for fact in known):
        return True
    if any(register.purposes[item.purpose].legal_basis.normalised in WEIGHED for item in decided):
        return True
    approval = register.policy.approval
    if not any(fact.records for fact in known):
        return approval.get("not_found", "person") == "person"
    return approval.get(right, "person") == "person"


def ending(decisions: Iterable[GroupDecision], *, withheld: int, states: Mapping[str, TaskState]) -> Outcome:
    """Return the case's outcome: granted, partly granted, or not found."""
    decided = tuple(decisions)
    whole = not withheld and TaskState.NOT_SEARCHED not in states.values()
    if not decided:
        return Outcome.NOT_FOUND if whole else Outcome.PARTLY_GRANTED
    if whole and all(item.outcome is Outcome.GRANTED for item in decided):
        return Outcome.GRANTED
    return Outcome.PARTLY_GRANTED
