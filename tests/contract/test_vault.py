"""The vault against a real folder."""

import asyncio
import errno
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pytest

from services.exporter.vault import (
    BadName,
    Blind,
    Box,
    Damaged,
    FolderStore,
    Place,
    StorageFailed,
    StorageFull,
)
from shared.problems import TooLarge
from shared.sealing import CHUNK, new_data_key

PLAIN = b"Mette Oestergaard, 010203-1234"


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "vault")


@pytest.fixture
def box(store: FolderStore) -> Box:
    return Box(store, "nordlys", "p1", new_data_key())


async def pieces(data: bytes, size: int = 65536) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def put(box: Box, name: str, data: bytes, *, limit: int = 1 << 30) -> None:
    stored = await box.put(name, pieces(data), Blind(), limit=limit)
    assert stored.bytes == len(data)


def everything(store: FolderStore) -> list[Path]:
    return [path for path in store._root.rglob("*") if path.is_file()]


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 7])
async def test_what_was_put_is_read_again_whatever_its_size(box: Box, size: int) -> None:
    data = os.urandom(size)
    await put(box, "a", data)
    assert b"".join([chunk async for chunk in box.stream("a")]) == data
    assert b"".join(box.chunks("a")) == data


async def test_nothing_readable_lies_on_the_disk(box: Box, store: FolderStore) -> None:
    await put(box, "a", PLAIN * 1000)
    (path,) = everything(store)
    assert PLAIN not in path.read_bytes()
    assert path.name == "a"
    assert path.stat().st_mode & 0o077 == 0
    assert path.parent.stat().st_mode & 0o077 == 0


async def test_another_package_with_another_key_opens_nothing(store: FolderStore) -> None:
    await put(Box(store, "nordlys", "p1", new_data_key()), "a", PLAIN)
    with pytest.raises(Damaged):
        list(Box(store, "nordlys", "p1", new_data_key()).chunks("a"))


async def test_an_object_moved_to_another_name_does_not_open(box: Box, store: FolderStore) -> None:
    await put(box, "a", PLAIN)
    (path,) = everything(store)
    path.rename(path.with_name("b"))
    with pytest.raises(Damaged):
        list(box.chunks("b"))


@pytest.mark.parametrize("change", ["flip", "cut", "extend", "gone"])
async def test_a_changed_object_is_noticed(box: Box, store: FolderStore, change: str) -> None:
    await put(box, "a", os.urandom(2 * CHUNK + 100))
    (path,) = everything(store)
    content = bytearray(path.read_bytes())
    if change == "gone":
        path.unlink()
    elif change == "flip":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    else:
        path.write_bytes(content[:-50] if change == "cut" else content + b"x")
    with pytest.raises(Damaged):
        list(box.chunks("a"))
    with pytest.raises(Damaged):
        _ = [chunk async for chunk in box.stream("a")]


async def test_a_stream_shorter_than_its_row_says_is_damaged(box: Box) -> None:
    await put(box, "a", PLAIN)
    assert b"".join(box.chunks("a", 5)) == PLAIN[:5]
    with pytest.raises(Damaged):
        list(box.chunks("a", len(PLAIN) + 1))


async def test_what_is_kept_behind_the_content_is_neither_counted_nor_in_the_content(box: Box) -> None:
    class Watch(Blind):
        def finish(self) -> bytes:
            return b"behind"

    data = os.urandom(CHUNK + 3)
    stored = await box.put("a", pieces(data), Watch(), limit=1 << 30)
    assert stored.bytes == len(data)
    assert b"".join(box.chunks("a", stored.bytes)) == data
    assert box.behind("a", stored.bytes) == b"behind"


@pytest.mark.parametrize(
    "name", ["", "..", ".", "a/b", "../a", "a\\b", "/etc/passwd", ".tmp-a", "a\n", "a" * 65, "å", "a b"]
)
def test_no_name_can_leave_its_place(name: str) -> None:
    for place in [("nordlys", "p1", name), ("nordlys", name, "a"), (name, "p1", "a")]:
        with pytest.raises(BadName):
            Place(*place)


async def test_too_much_is_refused_and_leaves_nothing(box: Box, store: FolderStore) -> None:
    with pytest.raises(TooLarge):
        await put(box, "a", os.urandom(3 * CHUNK), limit=2 * CHUNK)
    assert everything(store) == []


async def test_a_stream_that_breaks_off_leaves_nothing(box: Box, store: FolderStore) -> None:
    async def cut() -> AsyncIterator[bytes]:
        yield os.urandom(2 * CHUNK)
        raise ConnectionResetError

    with pytest.raises((ConnectionResetError, StorageFailed)):
        await box.put("a", cut(), Blind(), limit=1 << 30)
    assert everything(store) == []


async def test_a_watch_that_objects_leaves_nothing(box: Box, store: FolderStore) -> None:
    class Watch(Blind):
        def feed(self, data: bytes) -> None:
            raise TooLarge

    with pytest.raises(TooLarge):
        await box.put("a", pieces(os.urandom(CHUNK * 2)), Watch(), limit=1 << 30)
    assert everything(store) == []


async def test_a_cancelled_put_leaves_nothing_and_closes_nothing_under_its_thread(box: Box, store: FolderStore) -> None:
    begun, finished = asyncio.Event(), []
    loop = asyncio.get_running_loop()

    class Slow(Blind):
        def feed(self, data: bytes) -> None:
            loop.call_soon_threadsafe(begun.set)
            time.sleep(0.2)
            finished.append(len(data))

    task = asyncio.ensure_future(box.put("a", pieces(os.urandom(3 * CHUNK)), Slow(), limit=1 << 30))
    await begun.wait()
    task.cancel()
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert finished == [CHUNK]
    assert everything(store) == []


class SmallDisk(FolderStore):
    """A folder on a disk that is full after so many bytes."""

    def __init__(self, root: Path, room: int, error: int) -> None:
        super().__init__(root)
        self.room, self.error = room, error

    @contextmanager
    def create(self, place: Place) -> Iterator[BinaryIO]:
        with super().create(place) as file:
            yield _Limited(file, self)  # type: ignore[misc]


class _Limited:
    def __init__(self, file: BinaryIO, disk: SmallDisk) -> None:
        self._file, self._disk = file, disk

    def write(self, data: memoryview) -> int:
        if self._disk.room <= 0:
            raise OSError(self._disk.error, os.strerror(self._disk.error), "/secret/path")
        size = min(len(data), self._disk.room)
        self._disk.room -= size
        return self._file.write(data[:size])


@pytest.mark.parametrize(
    ("error", "problem"), [(errno.ENOSPC, StorageFull), (errno.EDQUOT, StorageFull), (errno.EIO, StorageFailed)]
)
async def test_a_full_or_failing_disk_is_unavailable_and_leaves_nothing(
    tmp_path: Path, error: int, problem: type[StorageFull]
) -> None:
    store = SmallDisk(tmp_path / "vault", CHUNK + 100, error)
    box = Box(store, "nordlys", "p1", new_data_key())
    with pytest.raises(problem) as told:
        await put(box, "a", os.urandom(4 * CHUNK))
    assert told.value.status == 503
    assert "secret" not in str(told.value.document())
    assert everything(store) == []
    store.room = 1 << 30
    await put(box, "a", PLAIN)
    assert b"".join(box.chunks("a")) == PLAIN


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
async def test_a_device_that_is_really_full_is_told_apart(tmp_path: Path) -> None:
    class FullDevice(FolderStore):
        @contextmanager
        def create(self, place: Place) -> Iterator[BinaryIO]:
            with super().create(place), Path("/dev/full").open("wb", buffering=0) as file:
                yield file

    store = FullDevice(tmp_path / "vault")
    with pytest.raises(StorageFull):
        await put(Box(store, "nordlys", "p1", new_data_key()), "a", PLAIN)
    assert everything(store) == []


async def test_a_folder_that_cannot_be_written_is_unavailable(box: Box, store: FolderStore) -> None:
    (store._root / "nordlys").write_bytes(b"")  # a file where the folder should be
    with pytest.raises(StorageFailed):
        await put(box, "a", PLAIN)


async def test_an_existing_object_is_never_half_overwritten(box: Box, store: FolderStore) -> None:
    await put(box, "a", PLAIN)
    with pytest.raises(TooLarge):
        await put(box, "a", os.urandom(CHUNK * 2), limit=10)
    assert b"".join(box.chunks("a")) == PLAIN


async def test_deleting_twice_is_no_error(box: Box) -> None:
    await put(box, "a", PLAIN)
    await box.delete("a")
    await box.delete("a")
    with pytest.raises(Damaged):
        list(box.chunks("a"))


async def test_the_store_tells_sizes_names_and_packages_and_sweeps_half_written_files(
    box: Box, store: FolderStore
) -> None:
    await put(box, "a", PLAIN)
    assert store.size(Place("nordlys", "p1", "a")) > len(PLAIN)
    half = store._root / "nordlys" / "p1" / ".tmp-b"
    half.write_bytes(b"left by a crash")
    assert store.packages() == [("nordlys", "p1")]
    assert store.names("nordlys", "p1", before=time.time() - 60) == []
    assert half.exists()
    assert store.names("nordlys", "p1", before=time.time() + 1) == ["a"]
    assert not half.exists()
    store.clear("nordlys", "p1")
    store.clear("nordlys", "p1")
    assert store.packages() == []


async def test_a_temporary_file_left_by_a_crash_does_not_stop_the_next_try(box: Box, store: FolderStore) -> None:
    await put(box, "a", PLAIN)
    (store._root / "nordlys" / "p1" / ".tmp-b").write_bytes(b"left")
    with pytest.raises(StorageFailed):
        await put(box, "b", PLAIN)  # names are random, so this never happens; it must not overwrite
    assert b"".join(box.chunks("a")) == PLAIN
