"""What becomes of each record: handed over, withheld, or held back? One rule, for review and for release.

Pure: works on the parts' indexes, so no record is opened for it.
"""

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

from services.exporter.binding import is_proven
from services.exporter.parts import DOUBTFUL, HAS_FILES, TO_OPEN, free_text_fields, read_index
from shared.register import Register

Group = tuple[str, str]
"""(system, entity)."""


class Fate(Enum):
    """What becomes of one record."""

    RELEASED = auto()
    WITHHELD = auto()
    UNBOUND = auto()
    DOUBTFUL = auto()
    UNOPENED = auto()
    REFUSED = auto()
    REPEATED = auto()


LEFT = frozenset({Fate.RELEASED, Fate.WITHHELD, Fate.UNOPENED})
"""What is left to a person's marks once everything else let a record pass."""


@dataclass(frozen=True, slots=True)
class RecordMarks:
    """What a person decided on one record. `fields` is field → reason of what is withheld in it."""

    withheld: str | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    opened: bool = False
    confirmed: bool = False


UNMARKED = RecordMarks()
Marks = Mapping[bytes, RecordMarks]
"""Record digest → marks."""


@dataclass(frozen=True, slots=True)
class IndexedPart:
    """A part of records that counts. `facts` and `index` are `parts.Inspector`'s."""

    system: str
    facts: list[dict[str, Any]]
    index: bytes


@dataclass(slots=True)
class Counts:
    """How many records of one group came to what. `to_open` to `withheld_fields` count records with that property."""

    records: int = 0
    doubtful: int = 0
    confirmed: int = 0
    to_open: int = 0
    opened: int = 0
    withheld_fields: int = 0
    fates: dict[Fate, int] = field(default_factory=lambda: dict.fromkeys(Fate, 0))


@dataclass(frozen=True, slots=True)
class Rule:
    """How a group is treated: whether the decision grants it, and which free text and files would leave."""

    granted: bool
    free_text: frozenset[str]
    files: bool


@dataclass(slots=True)
class Slice:
    """The lines of one part (by its place among them all) that are released in one group, in order."""

    part: int
    lines: "array[int]" = field(default_factory=lambda: array("I"))


@dataclass(slots=True)
class Selection:
    """The fate of every record: counts per group, the lines that leave, and where to look closer."""

    counts: dict[Group, Counts] = field(default_factory=dict)
    released: dict[Group, list[Slice]] = field(default_factory=dict)
    marked: dict[int, dict[int, RecordMarks]] = field(default_factory=dict)
    """Part → line → marks of records that would be released, were they not withheld, whole or in part."""
    with_files: dict[int, list[int]] = field(default_factory=dict)
    """Part → lines of released records that have files."""

    def total(self, *fates: Fate) -> int:
        """Records that came to one of these fates, over all groups."""
        return sum(counts.fates[fate] for counts in self.counts.values() for fate in fates)

    @property
    def redacted(self) -> int:
        """Records of which a person withheld some fields, but not the whole."""
        return sum(marks.withheld is None for lines in self.marked.values() for marks in lines.values())


def select(
    parts: Sequence[IndexedPart], marks: Marks, proofs: frozenset[str], rules: Mapping[Group, Rule]
) -> Selection:
    """Decide on every record of `parts`, in order. A record that came twice is handed over once."""
    selection = Selection()
    seen: set[bytes] = set()
    for number, part in enumerate(parts):
        _select_part(number, part, _Judge(marks, proofs, rules, seen), selection)
    return selection


class _Judge:
    """Knows everything by which one record is judged."""

    def __init__(self, marks: Marks, proofs: frozenset[str], rules: Mapping[Group, Rule], seen: set[bytes]) -> None:
        self.marks, self.proofs, self.rules, self.seen = marks, proofs, rules, seen

    def fate(self, digest: bytes, flags: int, marks: RecordMarks, row: "_Row", binding: int) -> Fate:
        """Decide on one record. A doubtful or unbound twin does not stand in the way of a sound one."""
        if not row.rule.granted:
            return Fate.REFUSED
        if not row.bound[binding]:
            return Fate.UNBOUND
        if flags & DOUBTFUL and not marks.confirmed:
            return Fate.DOUBTFUL
        if digest in self.seen:
            return Fate.REPEATED
        self.seen.add(digest)
        if marks.withheld is not None:
            return Fate.WITHHELD
        return Fate.UNOPENED if flags & TO_OPEN and not marks.opened and _leaves(flags, marks, row) else Fate.RELEASED


def _leaves(flags: int, marks: RecordMarks, row: "_Row") -> bool:
    """Whether something that needs reading would truly leave: what is left out anyway need not be opened."""
    return (bool(flags & HAS_FILES) and row.rule.files) or not row.rule.free_text <= marks.fields.keys()


@dataclass(slots=True)
class _Row:
    """One entity of one part: its rule, its counts, and which of its bindings are proven."""

    rule: Rule
    counts: Counts
    bound: list[bool]
    slice: Slice


def _select_part(number: int, part: IndexedPart, judge: _Judge, selection: Selection) -> None:
    rows = [_row(number, part.system, facts, judge, selection) for facts in part.facts]
    for line, (digest, entity, flags, binding) in enumerate(read_index(part.index)):
        row = rows[entity]
        marks = judge.marks.get(digest, UNMARKED)
        fate = judge.fate(digest, flags, marks, row, binding)
        row.counts.fates[fate] += 1
        if flags:
            _count_flags(row.counts, flags, marks)
        if fate is Fate.RELEASED:
            row.slice.lines.append(line)
            if flags & HAS_FILES and row.rule.files:
                selection.with_files.setdefault(number, []).append(line)
        if fate in LEFT and (marks.withheld is not None or marks.fields):
            row.counts.withheld_fields += bool(marks.fields)
            selection.marked.setdefault(number, {})[line] = marks


def _row(number: int, system: str, facts: dict[str, Any], judge: _Judge, selection: Selection) -> _Row:
    group = (system, facts["entity"])
    counts = selection.counts.setdefault(group, Counts())
    counts.records += facts["records"]
    lines = Slice(number)
    selection.released.setdefault(group, []).append(lines)
    return _Row(judge.rules[group], counts, [is_proven(found, judge.proofs) for found, _ in facts["bound"]], lines)


def _count_flags(counts: Counts, flags: int, marks: RecordMarks) -> None:
    if flags & DOUBTFUL:
        counts.doubtful += 1
        counts.confirmed += marks.confirmed
    if flags & TO_OPEN:
        counts.to_open += 1
        counts.opened += marks.opened


def groups_of(parts: Iterable[IndexedPart]) -> set[Group]:
    """Return every group of which something was found."""
    return {(part.system, row["entity"]) for part in parts for row in part.facts}


def review_rules(register: Register, groups: Iterable[Group]) -> dict[Group, Rule]:
    """Return the rules before anything is decided: everything may leave, so everything is to be looked at."""
    return {
        (system, entity): Rule(
            granted=True, free_text=free_text_fields(register.systems[system].entities[entity]), files=True
        )
        for system, entity in groups
    }
