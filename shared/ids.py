"""How are things named? UUIDv7 for machines, a short reference with a check character for people."""

import os
import secrets
import threading
import time
from uuid import UUID

ALPHABET = "23456789ABCDEFGHJKMNPQRSTVWXYZ"
"""No 0/O, 1/I/L, U: a person reads it out over the phone."""


_lock = threading.Lock()
_last = (0, 0)


def new_id() -> str:
    """Return a UUIDv7 (RFC 9562 §5.7, §6.2 method 2) as text: milliseconds, then 74 random bits.

    Ids made in one process sort in the order they were made: the random part grows within a millisecond.
    """
    global _last  # noqa: PLW0603 - the order is the process's
    with _lock:
        now, tail = time.time_ns() // 1_000_000, int.from_bytes(os.urandom(10)) >> 6
        if now <= _last[0]:
            now, tail = _last[0], _last[1] + 1 + (tail & 0xFFFFFFFF)
            now, tail = now + (tail >> 74), tail & ((1 << 74) - 1)
        _last = (now, tail)
    return str(UUID(int=now << 80 | 0x7 << 76 | tail >> 62 << 64 | 0x2 << 62 | tail & ((1 << 62) - 1)))


def new_reference() -> str:
    """Return a reference such as `7KQ4-M2XB-9`: eight random characters and a check character."""
    body = "".join(secrets.choice(ALPHABET) for _ in range(8))
    return f"{body[:4]}-{body[4:]}-{_check(body)}"


def parse_reference(text: str) -> str | None:
    """Return the canonical form of what a person typed, or None if the check character does not fit."""
    raw = "".join(c for c in text.upper() if c in ALPHABET)
    if len(raw) != 9 or _check(raw[:8]) != raw[8]:
        return None
    return f"{raw[:4]}-{raw[4:8]}-{raw[8]}"


def _check(body: str) -> str:
    """Luhn mod N over the alphabet: catches every single wrong character and nearly all swapped neighbours."""
    n, total = len(ALPHABET), 0
    for position, char in enumerate(reversed(body)):
        value = ALPHABET.index(char) * (2 if position % 2 == 0 else 1)
        total += value // n + value % n
    return ALPHABET[-total % n]
