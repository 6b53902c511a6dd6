"""Is this part what it claims to be, and what lies in it?

Looks at records while they stream past, and keeps facts for the part's row and an index, line by line, that lies behind
the records in the vault: review and release find by it what they need without opening every record again.
"""

import struct
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from services.exporter.binding import DIGEST_BYTES, Binder, RecordDigests, file_digest, is_proven
from shared.messages import GroupFacts, Record
from shared.problems import Conflict, Invalid, TooLarge
from shared.register import Entity, Register

MAX_LINE = 1 << 20
"""Bytes of one record. Longer content comes as a file."""
MAX_BINDINGS = 4096
"""Different sets of identifiers in one part. One person has a few; thousands mean that a connector searched wrongly."""
MAX_FILES = 10_000
MAX_ENTITIES = 256

DOUBTFUL = 1
TO_OPEN = 2
HAS_FILES = 4

_decoder = msgspec.json.Decoder(Record)
_ENTRY = struct.Struct(f"<{DIGEST_BYTES}sBBH")


class BadLine(Invalid):
    """A line of the part is not a record."""

    code = "bad-record"


class LineTooLong(TooLarge):
    """A record is longer than a line may be: send its content as a file."""

    code = "record-too-long"


class NotInRegister(Invalid):
    """A record's system, entity or field is not in the register that the package follows."""

    code = "not-in-register"


class OtherSystem(Conflict):
    """A task finds records of one system only."""

    code = "other-system"


class TooScattered(Invalid):
    """The part's records carry too many different identifiers or files to be one person's."""

    code = "too-scattered"


@dataclass(frozen=True, slots=True)
class Found:
    """The facts of one part. `facts` and `files` are what the part's row keeps."""

    system: str | None
    records: int
    facts: list[dict[str, Any]]
    files: list[str]


Entry = tuple[bytes, int, int, int]
"""One line's record digest, entity (its place in the part's facts), flags, and binding (its place in `bound` there)."""


def read_index(index: bytes) -> Iterator[Entry]:
    """Yield an entry for each line of a part, in order."""
    return _ENTRY.iter_unpack(index)


def needs_opening(record: Record, free_text: frozenset[str]) -> bool:
    """Whether somebody must read the record before it leaves: it has files, or text in which others may be named."""
    if record.files:
        return True
    return bool(free_text) and any(record.fields.get(name) for name in free_text)


def free_text_fields(entity: Entity) -> frozenset[str]:
    """The fields of an entity that may name others."""
    return frozenset(name for name, rule in entity.fields.items() if rule.free_text)


@dataclass(slots=True)
class _Tally:
    """One entity's facts while they are counted."""

    place: int
    fields: frozenset[str]
    free_text: frozenset[str]
    digests: RecordDigests
    doubtful: int = 0
    to_open: int = 0
    bound: list[int] = field(default_factory=list)
    bindings: dict[tuple[str, ...], int] = field(default_factory=dict)

    def binding(self, digests: tuple[str, ...]) -> int:
        """Count a record with these identifiers, and return their place."""
        place = self.bindings.setdefault(digests, len(self.bound))
        if place == len(self.bound):
            if place >= MAX_BINDINGS:
                raise TooScattered
            self.bound.append(0)
        self.bound[place] += 1
        return place

    def facts(self, entity: str) -> dict[str, Any]:
        return {
            "entity": entity,
            "records": sum(self.bound),
            "doubtful": self.doubtful,
            "to_open": self.to_open,
            "bound": [[list(digests), self.bound[place]] for digests, place in self.bindings.items()],
        }


class Inspector:
    """Reads NDJSON in any pieces; raises at the first record that may not be in a package."""

    def __init__(self, register: Register, binder: Binder, binding_key: bytes) -> None:
        self._register = register
        self._binder = binder
        self._key = binding_key
        self._rest = b""
        self._index = bytearray()
        self._system: str | None = None
        self._entities: dict[str, Entity] = {}
        self._tallies: dict[str, _Tally] = {}
        self._files: set[str] = set()

    def feed(self, data: bytes) -> None:
        """Look at the records whose lines end in `data`; keep the rest for the next call."""
        whole, newline, rest = data.rpartition(b"\n")
        if not newline:
            self._rest += data
        else:
            block, self._rest = self._rest + whole, rest
            self._inspect(block)
        if len(self._rest) > MAX_LINE:
            raise LineTooLong

    def finish(self) -> bytes:
        """Look at a last line without a newline, and return the index."""
        if self._rest:
            self._inspect(self._rest)
            self._rest = b""
        return bytes(self._index)

    def found(self) -> Found:
        """The facts, once the end was seen."""
        facts = [tally.facts(entity) for entity, tally in self._tallies.items()]
        return Found(self._system, self._lines, facts, sorted(self._files))

    @property
    def _lines(self) -> int:
        return len(self._index) // _ENTRY.size

    def _inspect(self, block: bytes) -> None:
        lines = block.split(b"\n")
        if max(map(len, lines)) > MAX_LINE:
            raise LineTooLong
        self._index += b"".join([self._entry(record) for record in _decode(block, lines, self._lines)])

    def _entry(self, record: Record) -> bytes:
        if record.system != self._system:
            self._open_system(record.system)
        tally = self._tallies.get(record.entity) or self._open_entity(record.entity)
        if not record.fields.keys() <= tally.fields:
            raise NotInRegister
        flags = self._flags(record, tally)
        binding = tally.binding(self._binder.digests(record))
        return _ENTRY.pack(tally.digests.of(record.key), tally.place, flags, binding)

    def _flags(self, record: Record, tally: _Tally) -> int:
        flags = 0
        if record.doubt is not None:
            tally.doubtful += 1
            flags = DOUBTFUL
        if needs_opening(record, tally.free_text):
            tally.to_open += 1
            flags |= TO_OPEN
        if record.files:
            self._name_files(record.files)
            flags |= HAS_FILES
        return flags

    def _name_files(self, names: tuple[str, ...]) -> None:
        self._files.update(file_digest(self._key, name) for name in names)
        if len(self._files) > MAX_FILES:
            raise TooScattered

    def _open_system(self, name: str) -> None:
        if self._system is not None:
            raise OtherSystem
        system = self._register.systems.get(name)
        if system is None:
            raise NotInRegister
        self._system, self._entities = name, system.entities

    def _open_entity(self, name: str) -> _Tally:
        entity = self._entities.get(name)
        if entity is None or len(self._tallies) >= MAX_ENTITIES:
            raise NotInRegister
        digests = RecordDigests(self._key, self._system or "", name)
        tally = _Tally(len(self._tallies), frozenset(entity.fields), free_text_fields(entity), digests)
        self._tallies[name] = tally
        return tally


def _decode(block: bytes, lines: list[bytes], before: int) -> list[Record]:
    """Decode all lines at once; a blank one is as wrong as a broken one, because records are known by their line."""
    try:
        records = _decoder.decode_lines(block)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadLine(line=before + _first_bad(lines)) from None
    if len(records) != len(lines):
        raise BadLine(line=before + _first_bad(lines))
    return records


def _first_bad(lines: list[bytes]) -> int:
    """Return the number, from 1, of the first line that is no record."""
    for number, line in enumerate(lines, 1):
        try:
            _decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return number
    return len(lines)


def sum_up(parts: list[list[dict[str, Any]]]) -> list[GroupFacts]:
    """Add the facts of several parts of one system up, by entity."""
    totals: dict[str, Counter[str]] = {}
    for facts in parts:
        for row in facts:
            total = totals.setdefault(row["entity"], Counter())
            total.update({name: row[name] for name in ("records", "doubtful", "to_open")})
    return [GroupFacts(entity=entity, **dict(total)) for entity, total in totals.items()]


def count_unbound(facts: list[dict[str, Any]], proofs: frozenset[str]) -> dict[str, int]:
    """Return entity → records of one part none of whose identifiers is proven."""
    return {
        row["entity"]: sum(count for digests, count in row["bound"] if not is_proven(digests, proofs)) for row in facts
    }


def lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the lines of a part, in order, without their newlines."""
    rest = b""
    for chunk in chunks:
        block = (rest + chunk).split(b"\n")
        rest = block.pop()
        yield from block
    if rest:
        yield rest


def decode(line: bytes) -> Record:
    """Return the record of a line that was inspected when it came."""
    return _decoder.decode(line)
