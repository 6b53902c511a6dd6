"""Which facts does the letter tell? Art. 15(1)(a)-(h) and 15(2), taken from the register for what was truly found."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from services.exporter import words
from services.exporter.contents import BundlePlan, Group, Tally, not_portable, outside_portability, recipients
from shared.messages import Decision, Searched, was_searched
from shared.register import Entity, FieldRule, Purpose, Recipient
from shared.vocabulary import CONSENTS, OBJECTABLE_BASES, PORTABLE_BASES, Language, LegalBasis, Outcome

FULL = frozenset({Outcome.GRANTED, Outcome.NOT_FOUND, Outcome.NOT_APPLICABLE})
"""Outcomes that leave nothing to explain beyond what was found."""
SOMEBODY_ELSES = frozenset({Outcome.REFERRED, Outcome.FORWARDED})
"""Outcomes of what we only process for another controller."""


@dataclass(frozen=True, slots=True)
class Held:
    """One group of which something was found."""

    system: str
    label: str
    records: int
    categories: list[str]


@dataclass(frozen=True, slots=True)
class Receiver:
    """One recipient by name (15(1)(c)), with the transfer and its safeguard (15(2))."""

    name: str
    role: str
    for_what: str | None
    country: str | None
    safeguard: str | None
    copy_at: str | None
    link: str | None


@dataclass(frozen=True, slots=True)
class Why:
    """Everything about one purpose."""

    label: str
    basis: str
    interest: str | None
    law: str | None
    role: str
    controller: str | None
    where: list[str]
    categories: list[str]
    recipients: list[Receiver]
    retention: str
    retention_law: str | None
    sources: list[str]
    automated_decision: str | None


@dataclass(frozen=True, slots=True)
class Omission:
    """Something left out: where, which fields (none: whole records), how many records (None: by rule), and why."""

    where: str
    fields: list[str]
    records: int | None
    why: str
    provision: str


@dataclass(frozen=True, slots=True)
class Place:
    """One system, and what became of the search there."""

    label: str
    state: str
    why: str | None


@dataclass(frozen=True, slots=True)
class Facts:
    """What the letter tells. `confirmation` chooses the first sentence: yes, withheld, doubt, referred, no, unsearched."""

    confirmation: str
    held: list[Held]
    purposes: list[Why]
    omissions: list[Omission]
    searched: list[Place]
    unsearched: list[Place]
    search_terms: list[str]
    transfers: bool
    decisions: list[str]
    bases: set[LegalBasis] = field(default_factory=set)
    portable: bool = False

    @property
    def consent(self) -> bool:
        """Whether there is a consent to withdraw (7(3))."""
        return bool(self.bases & CONSENTS)

    @property
    def objectable(self) -> bool:
        """Whether Art. 21(1) applies to anything here."""
        return bool(self.bases & OBJECTABLE_BASES)

    @property
    def statutory(self) -> bool:
        """Whether something is kept because the law demands it: it stands against erasure (17(3)(b))."""
        return LegalBasis.LEGAL_OBLIGATION in self.bases


def gather(plan: BundlePlan, language: Language, tally: Tally) -> Facts:
    """Return what there is to tell in `language` about the groups of which something was found."""
    groups = _held_groups(plan, tally)
    purposes = _purposes(groups)
    whys = [_why(plan, plan.register.purposes[name], held, language) for name, held in purposes.items()]
    used = [plan.register.purposes[name] for name in purposes]
    searched, unsearched = _places(plan, language)
    return Facts(
        confirmation=_confirmation(plan, tally, groups, searched),
        held=[_held(plan, group, language, tally) for group in groups],
        purposes=whys,
        omissions=[*_marks(plan, language), *_undeclared(plan, language, tally), *_by_rule(plan, language)],
        searched=searched,
        unsearched=unsearched,
        search_terms=[_term(plan, term, language) for term in plan.release.search_terms],
        transfers=any(receiver.safeguard for why in whys for receiver in why.recipients),
        decisions=_decisions(plan, language),
        bases={purpose.legal_basis.normalised for purpose in used},
        portable=any(p.automated and p.legal_basis.normalised in PORTABLE_BASES for p in used),
    )


def _held_groups(plan: BundlePlan, tally: Tally) -> list[tuple[str, str, Entity]]:
    """Groups with a released or a withheld record: both are personal data that we process."""
    marked = {(mark.system, mark.entity) for mark in plan.withheld if mark.reason != "habeas:not-the-person"}
    return [
        (system, entity, group)
        for system, entity, group in plan.groups()
        if tally.counts.get((system, entity)) or (system, entity) in marked
    ]


def _confirmation(plan: BundlePlan, tally: Tally, groups: Sequence[object], searched: Sequence[object]) -> str:
    if tally.records:
        return "yes"
    if groups or (_certain(plan) and plan.portability and outside_portability(plan)):
        return "withheld"
    if plan.held_back:
        return "doubt"
    if any(decision.outcome in SOMEBODY_ELSES and decision.records for decision in plan.release.decisions):
        return "referred"
    return "no" if searched else "unsearched"


def _certain(plan: BundlePlan) -> bool:
    """Whether more was found than what cannot be tied to the person."""
    found = {(decision.system, decision.entity): decision.records for decision in plan.release.decisions}
    return not plan.held_back or sum(found.values()) > plan.held_back


def _held(plan: BundlePlan, group: tuple[str, str, Entity], language: Language, tally: Tally) -> Held:
    system, entity, about = group
    return Held(
        system=plan.register.systems[system].label.in_(language),
        label=about.label.in_(language),
        records=tally.counts.get((system, entity), 0),
        categories=_categories(plan, [group], language),
    )


def _categories(plan: BundlePlan, groups: Iterable[tuple[str, str, Entity]], language: Language) -> list[str]:
    names = dict.fromkeys(
        group.fields[name].category for system, entity, group in groups for name in plan.released_fields(system, entity)
    )
    return [plan.register.categories[name].label.in_(language) for name in names]


# --- purposes ------------------------------------------------------------------------------------------------------


def _purposes(groups: Iterable[tuple[str, str, Entity]]) -> dict[str, list[tuple[str, str, Entity]]]:
    found: dict[str, list[tuple[str, str, Entity]]] = {}
    for system, entity, group in groups:
        for name in group.purposes:
            found.setdefault(name, []).append((system, entity, group))
    return found


def _why(plan: BundlePlan, purpose: Purpose, groups: Sequence[tuple[str, str, Entity]], language: Language) -> Why:
    basis = purpose.legal_basis
    receivers = {who.name: who for system, _, _ in groups for who in recipients(plan, system, [purpose])}
    decision = purpose.automated_decision
    return Why(
        label=purpose.label.in_(language),
        basis=words.BASES[basis.normalised].in_(language) if basis.normalised in words.BASES else basis.stated,
        interest=basis.interest.in_(language) if basis.interest else None,
        law=basis.law,
        role=purpose.role,
        controller=purpose.controller,
        where=[_where(plan, system, entity, language) for system, entity, _ in groups],
        categories=_categories(plan, groups, language),
        recipients=[_receiver(plan, who, language) for who in receivers.values()],
        retention=purpose.retention.label.in_(language),
        retention_law=purpose.retention.law,
        sources=list(dict.fromkeys(source for _, _, group in groups for source in _sources(group, language))),
        automated_decision=decision.in_(language) if decision else None,
    )


def _sources(group: Entity, language: Language) -> list[str]:
    """The group's source, and those of its fields that come from elsewhere: a note by staff is not the person's own."""
    told = [(group.source.label or words.SOURCES[group.source.kind]).in_(language)]
    kinds = {words.source_kind(group, rule) for rule in group.fields.values()}
    return told + [words.SOURCES[kind].in_(language) for kind in sorted(kinds - {"person", group.source.kind})]


def _receiver(plan: BundlePlan, who: Recipient, language: Language) -> Receiver:
    transfer = who.transfer
    country = transfer.country if transfer else who.country
    return Receiver(
        name=who.name,
        role=words.ROLES[who.role].in_(language),
        for_what=who.for_what.in_(language) if who.for_what else None,
        country=words.country(country, language) if country != plan.register.organisation.country else None,
        safeguard=words.SAFEGUARDS[transfer.safeguard].in_(language) if transfer else None,
        copy_at=transfer.copy_at if transfer else None,
        link=who.link,
    )


def _where(plan: BundlePlan, system: str, entity: str, language: Language) -> str:
    place = plan.register.systems[system]
    return f"{place.label.in_(language)}: {place.entities[entity].label.in_(language)}"


# --- what is missing -----------------------------------------------------------------------------------------------


def _marks(plan: BundlePlan, language: Language) -> list[Omission]:
    counted = Counter((mark.system, mark.entity, mark.field, mark.reason) for mark in plan.withheld)
    return [
        _omission(plan, (system, entity), [name] if name else [], reason, records, language)
        for (system, entity, name, reason), records in counted.items()
        if name is None or name in plan.released_fields(system, entity)
    ]


def _undeclared(plan: BundlePlan, language: Language, tally: Tally) -> list[Omission]:
    return [
        _omission(plan, (system, entity), [name], "habeas:not-described", records, language)
        for (system, entity, name), records in sorted(tally.undeclared.items())
    ]


def _by_rule(plan: BundlePlan, language: Language) -> list[Omission]:
    """What Art. 20 does not cover: the fields, or the whole group where it covers nothing of it."""
    omissions = []
    for system, entity in outside_portability(plan):
        left_out: dict[str, list[str]] = {}
        for name, reason in not_portable(plan.register, system, entity).items():
            left_out.setdefault(reason, []).append(name)
        whole = not plan.released_fields(system, entity)
        omissions += [
            _omission(plan, (system, entity), [] if whole and len(left_out) == 1 else names, reason, None, language)
            for reason, names in left_out.items()
        ]
    return omissions


def _omission(
    plan: BundlePlan, group: Group, names: Iterable[str], reason: str, records: int | None, language: Language
) -> Omission:
    why, provision = words.reason(reason, language, portability=plan.portability)
    rules = plan.register.systems[group[0]].entities[group[1]].fields
    fields = [label_of(rules.get(name), name, language) for name in names]
    return Omission(_where(plan, *group, language), fields, records, why, provision)


def label_of(rule: FieldRule | None, name: str, language: Language) -> str:
    """What a field is called to a person: its label, or its name where it has none."""
    return rule.label.in_(language) if rule and rule.label else name


def _places(plan: BundlePlan, language: Language) -> tuple[list[Place], list[Place]]:
    searched, unsearched = [], []
    for found in plan.release.searched:
        if was_searched(found.state, found.code):
            searched.append(_place(plan, found, language, None))
        else:
            unsearched.append(_place(plan, found, language, words.not_searched_why(found.code, language)))
    return searched, unsearched


def _place(plan: BundlePlan, found: Searched, language: Language, why: str | None) -> Place:
    told = words.searched(found.state, found.code, language)
    return Place(plan.register.systems[found.system].label.in_(language), told, why)


def _term(plan: BundlePlan, term: str, language: Language) -> str:
    known = plan.register.identifiers.get(term)
    return known.label.in_(language) if known else term


def _decisions(plan: BundlePlan, language: Language) -> list[str]:
    """Decisions that gave less than was asked for and are no mark on a record, each with its provision."""
    told = []
    marked = {mark.reason for mark in plan.withheld}
    for decision in plan.release.decisions:
        if decision.outcome in FULL or decision.reason is None or decision.reason in marked:
            continue
        if decision.reason.startswith("habeas:A20-"):
            continue  # told by rule, field by field
        told.append(_decision(plan, decision, language))
    return list(dict.fromkeys(told))


def _decision(plan: BundlePlan, decision: Decision, language: Language) -> str:
    purpose = plan.register.purposes[decision.purpose]
    why, provision = words.reason(decision.reason, language, portability=plan.portability)
    if decision.outcome in SOMEBODY_ELSES and purpose.controller:
        why = words.for_another(purpose.label.in_(language), purpose.controller, language)
    return f"{_where(plan, decision.system, decision.entity, language)}: {why} ({provision})"
