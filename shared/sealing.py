"""How does a secret lie in database and vault? Sealed: unreadable, unmovable and unchangeable without the keys.

Field   = version ‖ key id ‖ nonce ‖ AES-256-GCM; bound to organisation, purpose and context, so a value copied to
          another row, column or tenant does not open.
Index   = HMAC under keys of their own, by which a row is found without opening any.
Stream  = chunks under a key of their own per file; cutting, reordering and swapping are noticed.
Subkeys are derived per organisation and purpose (HKDF-SHA256, RFC 5869). Whatever is wrong, the error is `SealBroken`.
"""

import base64
import hashlib
import hmac
import json
import os
import secrets
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from io import SEEK_CUR, SEEK_SET, RawIOBase, UnsupportedOperation
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY_BYTES = 32
TAG_BYTES = 16
NONCE_BYTES = 12
SUBKEYS_KEPT = 1024

CHUNK = 1 << 20
"""Plain bytes in each chunk of a stream but the last."""

_FIELD_VERSION = 1
_HEAD_BYTES = 3
_STREAM_MAGIC = b"HBS1"
_SALT_BYTES = 32
_STREAM_HEAD = len(_STREAM_MAGIC) + _SALT_BYTES
_SEALED_CHUNK = CHUNK + TAG_BYTES


class SealBroken(Exception):
    """What was sealed does not open here: wrong key, wrong place, or changed."""

    def __init__(self) -> None:
        super().__init__("the seal does not open")


class BadKeyring(ValueError):
    """The keys cannot be used. `str()` names the rule, never a key."""


# --- keys ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Keyring:
    """The master keys of an installation: for sealing one current and any number of old ones, for indexes one.

    The index key never rotates with the others: a new one means that every index is computed again.
    """

    current: int
    sealing: Mapping[int, bytes] = field(repr=False)
    indexing: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if self.current not in self.sealing:
            raise BadKeyring("the current key must be among the sealing keys")
        if not all(0 < number < 1 << 16 for number in self.sealing):
            raise BadKeyring("key ids must lie between 1 and 65535")
        keys = [*self.sealing.values(), self.indexing]
        if any(len(key) != KEY_BYTES for key in keys):
            raise BadKeyring(f"every key must have {KEY_BYTES} bytes")
        if len(set(keys)) != len(keys):
            raise BadKeyring("every key must differ from the others")

    @classmethod
    def generate(cls) -> Self:
        """Return a keyring with new random keys."""
        return cls(1, {1: secrets.token_bytes(KEY_BYTES)}, secrets.token_bytes(KEY_BYTES))

    def rotated(self) -> Self:
        """Return this keyring with a new current key; the old ones still open."""
        number = max(self.sealing) + 1
        return type(self)(number, {**self.sealing, number: secrets.token_bytes(KEY_BYTES)}, self.indexing)

    def to_json(self) -> str:
        """Return the text that `from_json` reads: base64 keys by id. A secret."""
        return json.dumps(
            {
                "current": self.current,
                "sealing": {str(number): _text(key) for number, key in self.sealing.items()},
                "indexing": _text(self.indexing),
            },
            indent=1,
        )

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote (a file, or a secret in the settings). Raises `BadKeyring`."""
        try:
            raw = json.loads(text)
            sealing = {int(number): _key(key) for number, key in raw["sealing"].items()}
            return cls(int(raw["current"]), sealing, _key(raw["indexing"]))
        except BadKeyring:
            raise
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise BadKeyring("must be JSON with current, sealing and indexing") from None

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """Read a keyring that only its owner may read. Raises `BadKeyring`, or `OSError` if it is not there."""
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise BadKeyring("only its owner may read the key file: chmod 600")
            return cls.from_json(file.read().decode(errors="replace"))

    def to_file(self, path: Path) -> None:
        """Write a new file that only its owner may read. Raises `FileExistsError` rather than lose keys."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(self.to_json())
            file.flush()
            os.fsync(file.fileno())


def new_data_key() -> bytes:
    """Return a random key for one package or one order; destroying it destroys what it sealed."""
    return secrets.token_bytes(KEY_BYTES)


def _text(key: bytes) -> str:
    return base64.b64encode(key).decode()


def _key(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _derive(key: bytes, *label: str, salt: bytes | None = None) -> bytes:
    return HKDF(SHA256(), KEY_BYTES, salt, _join("habeas", *label)).derive(key)


def _join(*parts: str) -> bytes:
    """Join texts so that no two lists of them look alike."""
    encoded = [part.encode() for part in parts]
    return b"".join(len(part).to_bytes(4) + part for part in encoded)


# --- fields --------------------------------------------------------------------------------------------------------


class Sealer:
    """Seals fields with the installation's keyring. Safe to share between threads."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring
        self._aead: Callable[..., AESGCM] = lru_cache(SUBKEYS_KEPT)(self._new_aead)
        self._index_key: Callable[..., bytes] = lru_cache(SUBKEYS_KEPT)(self._new_index_key)

    def seal(self, organisation: str, purpose: str, context: str, data: bytes) -> bytes:
        """Seal `data` for this place. `purpose` names the kind of field, `context` the row (its id)."""
        return self._seal("field", organisation, purpose, context, data)

    def open(self, organisation: str, purpose: str, context: str, sealed: bytes) -> bytes:
        """Return what was sealed for this place, with the current key or an old one. Raises `SealBroken`."""
        return self._open("field", organisation, purpose, context, sealed)

    def needs_reseal(self, sealed: bytes) -> bool:
        """Whether an old key (or nobody's) sealed this field or wrapped this data key."""
        return sealed[1:_HEAD_BYTES] != self._keyring.current.to_bytes(2)

    def reseal(self, organisation: str, purpose: str, context: str, sealed: bytes) -> bytes:
        """Return the same content under the current key. Raises `SealBroken`."""
        return self.seal(organisation, purpose, context, self.open(organisation, purpose, context, sealed))

    def index(self, organisation: str, purpose: str, value: str) -> str:
        """Return 64 hex digits by which `value` (in its normal form) is found again without being readable."""
        return hmac.new(self._index_key(organisation, purpose), value.encode(), hashlib.sha256).hexdigest()

    def wrap(self, organisation: str, purpose: str, context: str, data_key: bytes) -> bytes:
        """Seal a data key; it opens with `unwrap` only."""
        if len(data_key) != KEY_BYTES:
            raise BadKeyring(f"every key must have {KEY_BYTES} bytes")
        return self._seal("key", organisation, purpose, context, data_key)

    def unwrap(self, organisation: str, purpose: str, context: str, wrapped: bytes) -> bytes:
        """Return the data key. Raises `SealBroken`."""
        return self._open("key", organisation, purpose, context, wrapped)

    def rewrap(self, organisation: str, purpose: str, context: str, wrapped: bytes) -> bytes:
        """Return the same data key under the current key. Raises `SealBroken`."""
        return self.wrap(organisation, purpose, context, self.unwrap(organisation, purpose, context, wrapped))

    def _seal(self, kind: str, organisation: str, purpose: str, context: str, data: bytes) -> bytes:
        number = self._keyring.current
        place = _join(kind, organisation, purpose, context)
        return _encrypt(self._aead(number, kind, organisation, purpose), number, place, data)

    def _open(self, kind: str, organisation: str, purpose: str, context: str, sealed: bytes) -> bytes:
        number = int.from_bytes(sealed[1:_HEAD_BYTES])
        if number not in self._keyring.sealing:
            raise SealBroken
        place = _join(kind, organisation, purpose, context)
        return _decrypt(self._aead(number, kind, organisation, purpose), place, sealed)

    def _new_aead(self, number: int, *label: str) -> AESGCM:
        return AESGCM(_derive(self._keyring.sealing[number], *label))

    def _new_index_key(self, *label: str) -> bytes:
        return _derive(self._keyring.indexing, "index", *label)


class DataSealer:
    """Seals fields with one data key (an order's, a package's): when the key is gone, so are they."""

    def __init__(self, data_key: bytes) -> None:
        self._aead = AESGCM(_derive(data_key, "data-field"))

    def seal(self, context: str, data: bytes) -> bytes:
        """Seal `data`; `context` names table, column and row."""
        return _encrypt(self._aead, 0, _join("data-field", context), data)

    def open(self, context: str, sealed: bytes) -> bytes:
        """Return what was sealed in this context. Raises `SealBroken`."""
        return _decrypt(self._aead, _join("data-field", context), sealed)


def _encrypt(aead: AESGCM, number: int, place: bytes, data: bytes) -> bytes:
    head = bytes([_FIELD_VERSION]) + number.to_bytes(2)
    nonce = os.urandom(NONCE_BYTES)
    return head + nonce + aead.encrypt(nonce, data, head + place)


def _decrypt(aead: AESGCM, place: bytes, sealed: bytes) -> bytes:
    head, nonce, body = sealed[:_HEAD_BYTES], sealed[_HEAD_BYTES:][:NONCE_BYTES], sealed[_HEAD_BYTES + NONCE_BYTES :]
    if head[:1] != bytes([_FIELD_VERSION]) or len(body) < TAG_BYTES:
        raise SealBroken
    try:
        return aead.decrypt(nonce, body, head + place)
    except InvalidTag:
        raise SealBroken from None


# --- streams -------------------------------------------------------------------------------------------------------


class SealedWriter:
    """Writes a sealed stream into `raw`, which stays open. Blocking: run it in a thread.

    The stream is whole only after `finish`, or a `with` block that ended well; otherwise it never opens to its end.
    Its key is derived from the data key, a random salt and `context`, so the nonce may count chunks; the last one's
    nonce is marked.
    """

    def __init__(self, raw: BinaryIO, data_key: bytes, context: str) -> None:
        """`context` names this stream and no other one under the same key (a part's id, a file's name)."""
        salt = os.urandom(_SALT_BYTES)
        self._raw = raw
        self._aead = _stream_aead(data_key, context, salt)
        self._chunk = bytearray()
        self._sealed = bytearray(_SEALED_CHUNK)
        self._count = 0
        self._finished = False
        _write_all(raw, memoryview(_STREAM_MAGIC + salt))

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Take `data` and return its length."""
        if self._finished:
            raise ValueError("write to a finished stream")
        view = memoryview(data).cast("B")
        offset = self._complete_chunk(view)
        # A whole chunk stays behind: which one is the last is known only at the end.
        while len(view) - offset > CHUNK:
            self._emit(view[offset : offset + CHUNK], last=False)
            offset += CHUNK
        self._chunk += view[offset:]
        return len(view)

    def finish(self) -> None:
        """Seal the last chunk, which makes the stream whole. A second call does nothing."""
        if not self._finished:
            self._emit(self._chunk, last=True)
            self._finished = True

    def _complete_chunk(self, view: memoryview) -> int:
        """Fill up and seal the waiting chunk if more than that comes; return how much of `view` it took."""
        missing = CHUNK - len(self._chunk)
        if not self._chunk or len(view) <= missing:
            return 0
        self._chunk += view[:missing]
        self._emit(self._chunk, last=False)
        self._chunk.clear()
        return missing

    def _emit(self, chunk: bytearray | memoryview, *, last: bool) -> None:
        sealed = memoryview(self._sealed)[: len(chunk) + TAG_BYTES]
        self._aead.encrypt_into(_chunk_nonce(self._count, last=last), chunk, None, sealed)
        _write_all(self._raw, sealed)
        self._count += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.finish()


class SealedReader(RawIOBase):
    """Reads a sealed stream from `raw`, which stays open. Blocking: run it in a thread.

    Gives only bytes that were checked, and raises `SealBroken` where the stream was cut, reordered or changed.
    For lines wrap it: `io.BufferedReader(reader, CHUNK)`. Seekable to plain offsets if `raw` is.
    """

    def __init__(self, raw: BinaryIO, data_key: bytes, context: str) -> None:
        """Read the head of the stream. Raises `SealBroken`."""
        super().__init__()
        head = _read_full(raw, _STREAM_HEAD)
        if len(head) != _STREAM_HEAD or not head.startswith(_STREAM_MAGIC):
            raise SealBroken
        self._raw = raw
        self._base = raw.tell() if raw.seekable() else 0
        self._aead = _stream_aead(data_key, context, head[len(_STREAM_MAGIC) :])
        self._chunk = memoryview(b"")
        self._count = 0
        self._last = False
        self._position = 0

    def chunks(self) -> Iterator[bytes]:
        """Yield the rest in pieces of at most `CHUNK` bytes: the fastest way to read it all. Raises `SealBroken`."""
        while self._chunk or self._load():
            piece, self._chunk = bytes(self._chunk), memoryview(b"")
            self._position += len(piece)
            yield piece

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._raw.seekable()

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` unless the end comes first, and that is the true one. Raises `SealBroken`."""
        target, done = memoryview(buffer).cast("B"), 0
        while done < len(target) and (self._chunk or self._load()):
            size = min(len(target) - done, len(self._chunk))
            target[done : done + size] = self._chunk[:size]
            self._chunk = self._chunk[size:]
            done += size
        self._position += done
        return done

    def seek(self, offset: int, whence: int = SEEK_SET) -> int:
        """Go to a plain offset that the stream has (or its end). Raises `SealBroken` far beyond it."""
        goal = offset + (self._position if whence == SEEK_CUR else 0)
        if whence not in {SEEK_SET, SEEK_CUR} or goal < 0:
            raise UnsupportedOperation("seek from the start or from here")
        # The chunk of the byte before the goal exists even when the goal is the end of the stream.
        self._count = max(goal - 1, 0) // CHUNK
        self._raw.seek(self._base + self._count * _SEALED_CHUNK)
        start, self._last = self._count * CHUNK, False
        self._load()
        self._chunk, self._position = self._chunk[goal - start :], goal
        return goal

    def _load(self) -> bool:
        """Open the next chunk; False at the end of the stream."""
        if self._last:
            return False
        sealed = _read_full(self._raw, _SEALED_CHUNK)
        if len(sealed) < TAG_BYTES:
            raise SealBroken
        self._chunk = memoryview(self._open(sealed))
        self._count += 1
        return bool(self._chunk)

    def _open(self, sealed: bytes) -> bytes:
        """Open a chunk in its place. Only the last may be short, and nothing follows it."""
        for last in (False, True) if len(sealed) == _SEALED_CHUNK else (True,):
            try:
                plain = self._aead.decrypt(_chunk_nonce(self._count, last=last), sealed, None)
            except InvalidTag:
                continue
            if last and self._raw.read(1):
                raise SealBroken
            self._last = last
            return plain
        raise SealBroken


def _stream_aead(data_key: bytes, context: str, salt: bytes) -> AESGCM:
    return AESGCM(_derive(data_key, "stream", context, salt=salt))


def _chunk_nonce(count: int, *, last: bool) -> bytes:
    return count.to_bytes(NONCE_BYTES - 1) + bytes([last])


def _read_full(raw: BinaryIO, size: int) -> bytes:
    """Read `size` bytes or up to the end: sockets and pipes give less at a time."""
    data = raw.read(size)
    while len(data) < size and (more := raw.read(size - len(data))):
        data += more
    return data


def _write_all(raw: BinaryIO, view: memoryview) -> None:
    while view:
        view = view[raw.write(view) :]


# --- codes ---------------------------------------------------------------------------------------------------------

_CODE_COST = 1 << 14
_CODE_BLOCK = 8
_CODE_MEMORY = 1 << 25


def hash_code(code: str) -> str:
    """Return a salted scrypt hash (RFC 7914; 16 MiB, about 40 ms) of a one-time code. Blocking: run it in a thread.

    Eight digits are few: pass `Sealer.index(…, code)` in place of the code and a thief of the database alone has
    nothing to guess at.
    """
    salt = secrets.token_bytes(16)
    return f"scrypt${salt.hex()}${_scrypt(code, salt).hex()}"


def check_code(code: str, hashed: str) -> bool:
    """Whether `hash_code(code)` made `hashed`; in constant time, and False for anything else. Blocking."""
    kind, _, rest = hashed.partition("$")
    salt, _, expected = rest.partition("$")
    try:
        return kind == "scrypt" and hmac.compare_digest(_scrypt(code, bytes.fromhex(salt)), bytes.fromhex(expected))
    except ValueError:
        return False


def _scrypt(code: str, salt: bytes) -> bytes:
    return hashlib.scrypt(code.encode(), salt=salt, n=_CODE_COST, r=_CODE_BLOCK, p=1, maxmem=_CODE_MEMORY)
