"""Is this record really the person's? Names are compared where a record carries one (design §1.8).

A record under another name is doubtful: e-mail addresses are shared and recycled. So is everything that hangs under it.
Where an identifier leads to two rows that both stand for a person (an entity that yields identifiers, or that other
entities hang under) and both carry a fitting name, neither can be told from the other; and a row without a name is only
trusted while it is the only one. Nothing is dropped: a handler confirms what is doubtful, or leaves it out.
"""

import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from msgspec.structs import replace

from services.locator.connectors.base import Found, name_of
from shared.messages import Record
from shared.register import Entity, System

Doubt = Literal["name_mismatch", "ambiguous"]
Bound = tuple[str, str]
"""An identifier as a record is bound by it: (type, normal form)."""

_LETTERS = str.maketrans({"æ": "ae", "ø": "oe", "å": "aa", "ö": "oe", "ä": "ae", "ü": "ue", "ß": "ss"})
_DOUBLED = ("ae", "a"), ("oe", "o"), ("aa", "a"), ("ue", "u")
NAMES_KEPT = 10_000
MORE_WORDS = 2


def folded_name(text: str) -> frozenset[str]:
    """Return the words of a name so that Østergård, Oestergaard and OSTERGARD are one."""
    text = unicodedata.normalize("NFC", text).casefold().translate(_LETTERS)
    text = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    for double, single in _DOUBLED:
        text = text.replace(double, single)
    return frozenset("".join(c if c.isalnum() else " " for c in text).split())


def names_fit(given: frozenset[str], held: frozenset[str]) -> bool:
    """Whether two folded names can be one person's: the same words, or one leaves out middle names.

    A requester who writes down a whole list of names would fit everybody: theirs may have `MORE_WORDS` more at most.
    """
    fewer, more = sorted((given, held), key=len)
    return given == held or (len(fewer) >= 2 and fewer < more and len(given) <= len(held) + MORE_WORDS)


@dataclass
class _Seen:
    """What one entity has shown so far of the rows that one identifier leads to."""

    keys: set[str] = field(default_factory=set)
    """At most two: whether there is another is all that counts."""
    fitting: str | None = None


class Judge:
    """Judges the records of one system as they come. Holds back at most one or two for each identifier and entity."""

    def __init__(self, name: str, system: System) -> None:
        """`name` is the requester's."""
        self._given = folded_name(name)
        self._entities = system.entities
        self._persons = {name for name, entity in system.entities.items() if _stands_for_person(system, name, entity)}
        self._seen: dict[tuple[str, Bound], _Seen] = {}
        self._several: set[tuple[str, Bound]] = set()
        self._ambiguous: set[tuple[str, Bound]] = set()
        self._held: dict[tuple[str, str], Record] = {}
        self._folded: dict[tuple[Any, ...], frozenset[str]] = {}

    def take(self, found: Found) -> Iterator[Record]:
        """Yield the records that are now decided: this one, others held back before, or none."""
        record = found.record
        if record.entity in self._persons and not found.ancestors:
            yield from self._take_person(record)
        else:
            yield replace(record, doubt=self._doubt(found))

    def end(self) -> Iterator[Record]:
        """Yield what is still held: nothing came that made it doubtful."""
        held, self._held = self._held, {}
        yield from held.values()

    # --- rows that stand for a person ------------------------------------------------------------------------------

    def _take_person(self, record: Record) -> Iterator[Record]:
        fit = self._fit(name_of(self._entities[record.entity], record.fields))
        places = [(record.entity, bound) for bound in record.bound.items()]
        self._note(record, places, fitting=fit is True)
        yield from self._released(places)
        if fit is False or (fit is None and any(place in self._several for place in places)):
            yield replace(record, doubt="name_mismatch")
        elif any(place in self._ambiguous for place in places):
            yield replace(record, doubt="ambiguous")
        else:
            self._held[record.entity, record.key] = record

    def _note(self, record: Record, places: Iterable[tuple[str, Bound]], *, fitting: bool) -> None:
        for place in places:
            seen = self._seen.setdefault(place, _Seen())
            if len(seen.keys) < 2:
                seen.keys.add(record.key)
            if len(seen.keys) > 1:
                self._several.add(place)
            if fitting and seen.fitting not in {None, record.key}:
                self._ambiguous.add(place)
            if fitting:
                seen.fitting = seen.fitting or record.key

    def _released(self, places: list[tuple[str, Bound]]) -> Iterator[Record]:
        """Yield those held under these identifiers that the newcomer made doubtful."""
        for key, record in list(self._held.items()):
            own = {(record.entity, bound) for bound in record.bound.items()}.intersection(places)
            nameless = self._fit(name_of(self._entities[record.entity], record.fields)) is None
            doubt: Doubt | None = "ambiguous" if own & self._ambiguous else None
            if nameless and own & self._several:
                doubt = "name_mismatch"
            if doubt is not None:
                del self._held[key]
                yield replace(record, doubt=doubt)

    # --- rows that hang under others, or are many by nature --------------------------------------------------------

    def _doubt(self, found: Found) -> Doubt | None:
        record = found.record
        names = [(ancestor.entity, ancestor.name) for ancestor in found.ancestors]
        names.append((record.entity, name_of(self._entities[record.entity], record.fields)))
        fits = [(entity, self._fit(name)) for entity, name in names if name]
        places = [(entity, bound) for entity, _fit in fits for bound in record.bound.items()]
        if any(fit is False for _entity, fit in fits):
            return "name_mismatch"
        nameless = {entity for entity, fit in fits if fit is None}
        if any(place in self._several and place[0] in nameless for place in places):
            return "name_mismatch"
        return "ambiguous" if any(place in self._ambiguous for place in places) else None

    def _fit(self, name: tuple[Any, ...]) -> bool | None:
        """Whether the name on a record can be the requester's; None if it carries none."""
        if name not in self._folded:
            if len(self._folded) >= NAMES_KEPT:
                self._folded.clear()
            self._folded[name] = folded_name(" ".join(str(part) for part in name if part is not None))
        held = self._folded[name]
        return names_fit(self._given, held) if held else None


def _stands_for_person(system: System, name: str, entity: Entity) -> bool:
    """An order or a ticket carries a name too, but one person may have many of those."""
    if entity.stands_for_person is not None:
        return entity.stands_for_person and bool(entity.name_fields)
    is_parent = any(other.via is not None and other.via.entity == name for other in system.entities.values())
    return bool(entity.name_fields) and (bool(entity.yields) or is_parent)


def yielded(entity: Entity, record: Record) -> Mapping[str, Any]:
    """Return type → raw value of the identifiers that a record discovers; none if it is doubtful."""
    if record.doubt is not None:
        return {}
    return {kind: record.fields[name] for kind, name in entity.yields.items() if record.fields.get(name) is not None}
