"""Is this record about the person who asks? The last check between a record and the package (design §1.8)."""

import hmac
import unicodedata
from collections.abc import Collection, Iterable
from hashlib import blake2b
from typing import TypeVar

from shared.identifiers import BadIdentifier, digest, normalise
from shared.messages import Record
from shared.register import Entity, Register

K = TypeVar("K")
V = TypeVar("V")

REMEMBERED = 20_000
"""Normal forms and digests kept while one person's records pass: most records carry the same few identifiers."""

DIGEST_BYTES = 15
"""120 bits. A `bytes` of this length takes 48 bytes of memory, one more takes 64, and a person may have a million."""


class Binder:
    """Tells whether records are bound to one person, by digests: proven identifiers stay with the locator.

    A record is bound when one of its `bound` identifiers is proven. Where the connector says that the identifier
    stands in the record (`evidence: field`), it must truly stand there: with another value there it counts for nothing.
    """

    def __init__(self, key: bytes, proofs: Collection[str], register: Register) -> None:
        """`key` is the order's binding key (32 bytes), `proofs` the digests of what is proven or discovered."""
        self._key = key
        self._proofs = frozenset(proofs)
        self._register = register
        self._region = register.organisation.country
        self._elsewhere: dict[tuple[tuple[str, str], ...], tuple[str, ...]] = {}
        self._digests: dict[tuple[str, str], str] = {}
        self._normal: dict[tuple[str, str], str | None] = {}

    def is_bound(self, record: Record) -> bool:
        """Whether one of the identifiers that truly tie this record to somebody is proven."""
        return is_proven(self.digests(record), self._proofs)

    def digests(self, record: Record) -> tuple[str, ...]:
        """Return the sorted digests of the identifiers that tie this record to somebody."""
        if record.evidence == "field":
            entity = self._register.systems[record.system].entities[record.entity]
            return self._all(pair for pair in record.bound.items() if self._stands(entity, record, pair))
        # A join's or path's identifiers depend on nothing in the record, and thousands share them.
        pairs = tuple(record.bound.items())
        found = self._elsewhere.get(pairs)
        if found is None:
            found = _remember(self._elsewhere, pairs, self._all(pairs))
        return found

    def _all(self, pairs: Iterable[tuple[str, str]]) -> tuple[str, ...]:
        return tuple(sorted([self._digest(*pair) for pair in pairs]))

    def _stands(self, entity: Entity, record: Record, pair: tuple[str, str]) -> bool:
        kind, value = pair
        finder = entity.find_by.get(kind)
        if finder is None or finder.field is None or finder.field not in record.fields:
            return True
        found = record.fields[finder.field]
        return found is not None and self._normalised(kind, str(found)) == value

    def _normalised(self, kind: str, text: str) -> str | None:
        known = (kind, text)
        if known not in self._normal:
            return _remember(self._normal, known, _normalise(self._register, kind, text, self._region))
        return self._normal[known]

    def _digest(self, kind: str, value: str) -> str:
        known = (kind, value)
        if known not in self._digests:
            return _remember(self._digests, known, digest(self._key, kind, value))
        return self._digests[known]


def _remember(memory: dict[K, V], key: K, value: V) -> V:
    """Keep a value, but never more than `REMEMBERED` of them."""
    if len(memory) >= REMEMBERED:
        memory.clear()
    memory[key] = value
    return value


def is_proven(digests: Iterable[str], proofs: Collection[str]) -> bool:
    """Whether one of `digests` is among `proofs`."""
    return any(found in proofs for found in digests)


class RecordDigests:
    """Makes the keyed digests of one entity's records, under which marks are kept: the same in a later attempt."""

    def __init__(self, key: bytes, system: str, entity: str) -> None:
        self._begun = blake2b(f"{system}\x1f{entity}\x1f".encode(), key=key, digest_size=DIGEST_BYTES)

    def of(self, record_key: str) -> bytes:
        """Return the digest of the record with this key."""
        one = self._begun.copy()
        one.update(record_key.encode())
        return one.digest()


def file_digest(key: bytes, name: str) -> str:
    """Return the keyed digest of a file's name: a name may hold personal data and is compared without being kept.

    Systems spell `å` as one character or as two; the same name is the same name.
    """
    return hmac.digest(key, b"file\x1f" + unicodedata.normalize("NFC", name).encode(), "sha256").hex()


def _normalise(register: Register, kind: str, text: str, region: str) -> str | None:
    rule = register.identifiers.get(kind)
    try:
        return normalise(rule.kind if rule else "exact", text, region=region)
    except BadIdentifier:
        return None
