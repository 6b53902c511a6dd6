"""What goes into one package, and by which facts is it described? All that the writer and the letters are given."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from shared.messages import PackagePlan, Record, Release
from shared.register import Entity, Purpose, Recipient, Register
from shared.vocabulary import PORTABLE, PORTABLE_BASES, Right, TaskState

Group = tuple[str, str]
"""(system, entity), both as the register calls them."""

SHOWN = 200
"""Records of a group that a page shows; the rest is in the files."""
SAMPLE = 1 << 20
SAMPLES = 8 << 20
"""Bytes of raw records that pages may keep: of one group, and of all."""

NOT_PROVIDED = "habeas:A20-not-provided"
WRONG_BASIS = "habeas:A20-basis"
NOT_AUTOMATED = "habeas:A20-not-automated"

_DECODER = msgspec.json.Decoder(Record)


class RecordLine:
    """One record that is released, perhaps without some of its fields. Decoded only when somebody looks inside."""

    __slots__ = ("_record", "raw", "withheld")

    def __init__(self, raw: bytes, withheld: frozenset[str] = frozenset(), record: Record | None = None) -> None:
        """`raw` is a line of a part without its newline; `withheld` names fields; `record` is `raw` decoded, if known."""
        self.raw = raw
        self.withheld = withheld
        self._record = record

    @property
    def record(self) -> Record:
        """The decoded record, withheld fields included."""
        if self._record is None:
            self._record = _DECODER.decode(self.raw)
        return self._record


Records = Callable[[str, str], Iterable[RecordLine]]
"""Given (system, entity), start again from the first released record of that group, always in the same order.

Keys are unique within a group. A record that is withheld, doubtful or unbound is not among them.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """One file that belongs to a released record."""

    system: str
    entity: str
    key: str
    """The record that it belongs to."""
    name: str
    """As the source called it: may be hostile, may be personal; it never becomes a path."""
    media_type: str
    read: Callable[[], Iterable[bytes]]
    """Called once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """A file as it lies in the package. `path` is relative to `data/`."""

    path: str
    name: str
    media_type: str
    bytes: int
    sha256: str
    system: str
    entity: str
    key: str


class Withheld(NamedTuple):
    """A mark: this record (or one field of it) is left out, and why (a code of `shared.vocabulary.REASONS`)."""

    system: str
    entity: str
    key: str
    field: str | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BundlePlan:
    """The facts of one package. `jwks` are the public keys that go along; what counts is the published copy."""

    register: Register
    package: PackagePlan
    release: Release
    withheld: Sequence[Withheld] = ()
    held_back: int = 0
    """Records that matched but cannot be tied to the person with certainty: doubtful, not confirmed, or unbound."""
    jwks: Mapping[str, Any] = field(default_factory=lambda: {"keys": []})

    @property
    def name(self) -> str:
        """The name of the package and of its root folder: no personal data."""
        return f"habeas-{self.package.reference.lower()}"

    @property
    def portability(self) -> bool:
        """Whether only what Art. 20 covers is handed over."""
        return self.package.right is Right.PORTABILITY

    def groups(self) -> Iterator[tuple[str, str, Entity]]:
        """Every group of the register, in its order."""
        for name, system in self.register.systems.items():
            for entity_name, entity in system.entities.items():
                yield name, entity_name, entity

    def released_fields(self, system: str, entity: str) -> tuple[str, ...]:
        """The declared fields of a group that this right hands over, in the register's order."""
        if self.portability:
            return portable_fields(self.register, system, entity)
        return tuple(self.register.systems[system].entities[entity].fields)


@dataclass(slots=True)
class Tally:
    """What was found to release, as it was written: counts for the letters, and the writer's result."""

    counts: dict[Group, int] = field(default_factory=dict)
    """How many records of each group are released. A missing group has none."""
    undeclared: dict[tuple[str, str, str], int] = field(default_factory=dict)
    """(system, entity, field) → records that carry a field which the register does not describe: it is left out."""
    files: list[StoredFile] = field(default_factory=list)

    @property
    def records(self) -> int:
        """Released records in all."""
        return sum(self.counts.values())


class Sample:
    """The first records of one group, as many as a page shows, and never more than its share of memory."""

    def __init__(self, room: int) -> None:
        """`room` is in bytes of raw records."""
        self.lines: list[RecordLine] = []
        self.full = False
        self._room = room

    def add(self, line: RecordLine) -> None:
        """Keep a record unless the sample is full."""
        self._room -= len(line.raw)
        if self._room < 0 or len(self.lines) == SHOWN:
            self.full = True
        if not self.full:
            self.lines.append(RecordLine(line.raw, line.withheld))


class Sampler:
    """Samples of all groups under one budget, gathered while the groups pass anyway."""

    def __init__(self) -> None:
        self._samples: dict[Group, Sample] = {}
        self._room = SAMPLES

    def of(self, group: Group) -> Sample:
        """Begin the sample of a group."""
        self._room -= sum(len(line.raw) for sample in list(self._samples.values())[-1:] for line in sample.lines)
        self._samples[group] = Sample(min(SAMPLE, self._room))
        return self._samples[group]

    def records(self, system: str, entity: str) -> Iterable[RecordLine]:
        """The sample of a group as `Records`."""
        sample = self._samples.get((system, entity))
        return sample.lines if sample else ()


def portable_fields(register: Register, system: str, entity: str) -> tuple[str, ...]:
    """Return the fields of a group that Art. 20(1) covers: provided or observed, consent or contract, automated."""
    reasons = not_portable(register, system, entity)
    return tuple(name for name in register.systems[system].entities[entity].fields if name not in reasons)


def not_portable(register: Register, system: str, entity: str) -> dict[str, str]:
    """Return field → reason code for each field of a group that Art. 20(1) does not cover."""
    group = register.systems[system].entities[entity]
    barred = _barred([register.purposes[name] for name in group.purposes])
    reasons = {}
    for name, rule in group.fields.items():
        if (rule.provided or group.provided) not in PORTABLE:
            reasons[name] = NOT_PROVIDED
        elif barred:
            reasons[name] = barred
    return reasons


def _barred(purposes: Sequence[Purpose]) -> str | None:
    """One purpose that fits opens the group, whatever the others are."""
    fitting = [purpose for purpose in purposes if purpose.legal_basis.normalised in PORTABLE_BASES]
    if not fitting:
        return WRONG_BASIS
    return None if any(purpose.automated for purpose in fitting) else NOT_AUTOMATED


def outside_portability(plan: BundlePlan) -> list[tuple[str, str]]:
    """Return the groups, of systems that hold something, of which Art. 20 leaves out at least one field."""
    found = {searched.system for searched in plan.release.searched if searched.state is TaskState.FOUND}
    return [
        (system, entity)
        for system, entity, _ in plan.groups()
        if plan.portability and system in found and not_portable(plan.register, system, entity)
    ]


def recipients(plan: BundlePlan, system: str, purposes: Iterable[Purpose]) -> list[Recipient]:
    """Return who gets the data of a group, by name: the purposes' recipients and whoever runs the system.

    Authorities only if a person released the answer: a disclosure to them may be secret (law: DBL § 22(2)).
    """
    names = dict.fromkeys(name for purpose in purposes for name in purpose.recipients)
    if processor := plan.register.systems[system].processor:
        names[processor] = None
    found = [plan.register.recipients[name] for name in names]
    approved = plan.release.released_by.startswith("handler:")
    return [recipient for recipient in found if approved or recipient.role != "authority"]
