"""Where do records, files and sealed packages lie until they are due?

A store keeps objects by name; today it is a folder, later perhaps an object storage. A box is one package's part of
the store: everything in it is encrypted under the package's own data key, so destroying that key destroys the package,
and an object moved to another name does not open. Blocking calls run in threads; nothing holds more than a few chunks.
"""

import asyncio
import errno
import hashlib
import os
import re
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import AbstractContextManager, aclosing, asynccontextmanager, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, ParamSpec, Protocol, TypeVar

from shared.problems import Problem, TooLarge, Unavailable
from shared.sealing import CHUNK, SealBroken, SealedReader, SealedWriter

P = ParamSpec("P")
T = TypeVar("T")

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_TEMPORARY = ".tmp-"


class StorageFull(Unavailable):
    """There is no room left to store this: nothing of it was kept."""

    code = "storage-full"


class StorageFailed(Unavailable):
    """The storage could not be written or read just now."""

    code = "storage-failed"


class Damaged(Problem):
    """A stored object is missing or was changed since it was written: the package must be made again."""

    title, code = "Stored object damaged", "vault-damaged"


class BadName(ValueError):
    """An object's name may hold letters, digits, `_` and `-` only."""


# --- stores --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Place:
    """Where an object lies. Three plain names, so that none can leave its store; none holds personal data."""

    organisation: str
    package: str
    name: str

    def __post_init__(self) -> None:
        for part in (self.organisation, self.package, self.name):
            if not _NAME.fullmatch(part):
                raise BadName("an object's name may hold letters, digits, _ and - only")

    def __str__(self) -> str:
        return f"{self.organisation}/{self.package}/{self.name}"


class Store(Protocol):
    """Objects by place. All calls block."""

    def create(self, place: Place) -> AbstractContextManager[BinaryIO]:
        """Open a new object; it appears, whole and durable, when the block ends well, and never otherwise."""
        ...

    def open(self, place: Place) -> BinaryIO:
        """Open an object for reading, or raise `FileNotFoundError`."""
        ...

    def size(self, place: Place) -> int:
        """Return the stored bytes of an object, or raise `FileNotFoundError`."""
        ...

    def delete(self, place: Place) -> None:
        """Remove an object; one that is gone already is no error."""
        ...

    def packages(self) -> list[tuple[str, str]]:
        """Return (organisation, package) of everything stored."""
        ...

    def names(self, organisation: str, package: str, *, before: float) -> list[str]:
        """Return the objects of a package that did not change since `before` (seconds of the epoch).

        Also removes what a crash left half-written before then.
        """
        ...

    def clear(self, organisation: str, package: str) -> None:
        """Remove all objects of a package."""
        ...


class FolderStore:
    """A store in a local folder: `<root>/<organisation>/<package>/<name>`, readable by the service's account alone."""

    def __init__(self, root: Path) -> None:
        """Create the folder if it is not there."""
        self._root = root
        root.mkdir(parents=True, exist_ok=True, mode=0o700)

    @contextmanager
    def create(self, place: Place) -> Iterator[BinaryIO]:
        """Write beside the final name, then fsync, rename and fsync the folder: a crash leaves all or nothing."""
        final = self._path(place)
        half = final.with_name(_TEMPORARY + final.name)
        final.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            with os.fdopen(os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb", buffering=0) as file:
                yield file
                os.fsync(file.fileno())
            half.rename(final)
            _fsync_folder(final.parent)
        except BaseException:
            half.unlink(missing_ok=True)
            raise

    def open(self, place: Place) -> BinaryIO:
        return self._path(place).open("rb")

    def size(self, place: Place) -> int:
        return self._path(place).stat().st_size

    def delete(self, place: Place) -> None:
        self._path(place).unlink(missing_ok=True)

    def packages(self) -> list[tuple[str, str]]:
        return [
            (organisation.name, package.name)
            for organisation in self._root.iterdir()
            if organisation.is_dir()
            for package in organisation.iterdir()
        ]

    def names(self, organisation: str, package: str, *, before: float) -> list[str]:
        found = []
        for path in self._folder(organisation, package).glob("*"):
            if path.stat().st_mtime >= before:
                continue
            if path.name.startswith(_TEMPORARY):
                path.unlink(missing_ok=True)
            else:
                found.append(path.name)
        return found

    def clear(self, organisation: str, package: str) -> None:
        shutil.rmtree(self._folder(organisation, package), ignore_errors=True)

    def _path(self, place: Place) -> Path:
        return self._folder(place.organisation, place.package) / place.name

    def _folder(self, organisation: str, package: str) -> Path:
        return self._root / organisation / package


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def storage_problem(error: OSError) -> Problem:
    """Say a failing disk as a problem that a caller can act on; never with a path."""
    return StorageFull() if error.errno in FULL else StorageFailed()


# --- boxes ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stored:
    """What was put: plain bytes and their SHA-256 in hex."""

    bytes: int
    sha256: str


class Watch(Protocol):
    """Looks at what is being stored."""

    def feed(self, data: bytes) -> None:
        """See the next bytes; raise what stops the storing."""
        ...

    def finish(self) -> bytes:
        """See the end; return what is to be kept behind the content."""
        ...


class Blind:
    """Watches a file: its bytes are opaque until a person opens them."""

    def feed(self, data: bytes) -> None:
        pass

    def finish(self) -> bytes:
        return b""


class Sink:
    """Encrypts what is written, counting and hashing the plain bytes."""

    def __init__(self, sealed: SealedWriter) -> None:
        self._sealed = sealed
        self._hash = hashlib.sha256()
        self._bytes = 0

    def write(self, data: bytes | bytearray | memoryview) -> int:
        self._hash.update(data)
        self._bytes += len(data)
        return self.append(data)

    def append(self, data: bytes | bytearray | memoryview) -> int:
        """Write something of our own behind the content: neither counted nor hashed."""
        try:
            return self._sealed.write(data)
        except OSError as error:
            raise storage_problem(error) from None

    def stored(self) -> Stored:
        """What was written so far."""
        return Stored(self._bytes, self._hash.hexdigest())


class Box:
    """The objects of one package, under its data key."""

    def __init__(self, store: Store, organisation: str, package: str, data_key: bytes) -> None:
        self._store = store
        self._organisation = organisation
        self._package = package
        self._key = data_key

    @contextmanager
    def writer(self, name: str) -> Iterator[Sink]:
        """Write a new object; it exists only if the block ends well. Blocking.

        Raises `StorageFull`, `StorageFailed`.
        """
        place = self._place(name)
        try:
            with self._store.create(place) as raw, SealedWriter(raw, self._key, str(place)) as sealed:
                yield Sink(sealed)
        except OSError as error:
            raise storage_problem(error) from None

    @contextmanager
    def reader(self, name: str) -> Iterator[SealedReader]:
        """Read an object. Raises `Damaged`, also in the block, where it is missing or was changed. Blocking."""
        place = self._place(name)
        try:
            with self._store.open(place) as raw:
                yield SealedReader(raw, self._key, str(place))
        except (SealBroken, FileNotFoundError):
            raise Damaged from None
        except OSError as error:
            raise storage_problem(error) from None

    def chunks(self, name: str, size: int | None = None) -> Generator[bytes]:
        """Yield an object's plain bytes (the first `size` of them), at most `CHUNK` at a time. Blocking.

        Raises `Damaged` where it is missing, was changed or is shorter.
        """
        with self.reader(name) as reader:
            if size is None:
                yield from reader.chunks()
            else:
                yield from _first(reader.chunks(), size)

    def behind(self, name: str, size: int) -> bytes:
        """Return what was kept behind an object's content of `size` bytes. Blocking. Raises `Damaged`."""
        with self.reader(name) as reader:
            reader.seek(size)
            return b"".join(reader.chunks())

    async def put(self, name: str, content: AsyncIterator[bytes], watch: Watch, *, limit: int) -> Stored:
        """Store a stream as it comes, seen by `watch`, which may raise. Raises `TooLarge` beyond `limit` bytes.

        Whatever goes wrong, the caller's own cancellation too, nothing of it stays.
        """
        async with in_threads(self.writer(name)) as sink:
            taken = 0
            async for batch in _batches(content):
                taken += len(batch)
                if taken > limit:
                    raise TooLarge
                await run(_take, sink, watch, batch)
            sink.append(await run(watch.finish))
            return sink.stored()

    async def stream(self, name: str, size: int | None = None) -> AsyncGenerator[bytes]:
        """Yield what `chunks` yields, without blocking the loop."""
        async with in_threads(closing(self.chunks(name, size))) as chunks:
            while chunk := await run(next, chunks, b""):
                yield chunk

    async def delete(self, name: str) -> None:
        """Remove an object; one that is gone already is no error."""
        await run(self._store.delete, self._place(name))

    def _place(self, name: str) -> Place:
        return Place(self._organisation, self._package, name)


def _first(chunks: Iterator[bytes], size: int) -> Iterator[bytes]:
    for chunk in chunks:
        yield chunk[:size]
        size -= len(chunk)
        if size <= 0:
            return
    if size > 0:
        raise Damaged


def _take(sink: Sink, watch: Watch, batch: bytes) -> None:
    watch.feed(batch)
    sink.write(batch)


async def _batches(content: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Join what the network gives in small pieces, so that few hops to a thread are needed."""
    pieces: list[bytes] = []
    size = 0
    async for piece in content:
        pieces.append(piece)
        size += len(piece)
        if size >= CHUNK:
            yield b"".join(pieces)
            pieces, size = [], 0
    if pieces:
        yield b"".join(pieces)


async def begun(chunks: AsyncGenerator[bytes]) -> AsyncIterator[bytes]:
    """Read the first chunk now, so that what is damaged there is told as a problem instead of being sent in part."""
    return _resumed(await anext(chunks, b""), chunks)


async def _resumed(first: bytes, chunks: AsyncGenerator[bytes]) -> AsyncIterator[bytes]:
    async with aclosing(chunks):
        yield first
        async for chunk in chunks:
            yield chunk


# --- threads -------------------------------------------------------------------------------------------------------


async def run(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run `function` in a thread; if cancelled, wait for its end, so that nothing is closed under it."""
    return await outlast(asyncio.to_thread(function, *args, **kwargs))


async def outlast(work: Awaitable[T]) -> T:
    """Wait for work in a thread, however often somebody cancels: it cannot be stopped, only waited for."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # seen; the cancellation is what the caller hears of
        raise


@asynccontextmanager
async def in_threads(manager: AbstractContextManager[T]) -> AsyncIterator[T]:
    """Enter and leave a blocking context manager in threads."""
    value = await run(manager.__enter__)
    try:
        yield value
    except BaseException as error:
        await run(manager.__exit__, type(error), error, error.__traceback__)
        raise
    else:
        await run(manager.__exit__, None, None, None)
