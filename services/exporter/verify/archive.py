"""Is this ZIP safe to read at all? Names, kinds and sizes are judged before a byte is unpacked; nothing touches the disk."""

import hashlib
import stat
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from services.exporter.bundle.names import is_safe
from services.exporter.verify.report import Damaged, Report

CHUNK = 1 << 20
ENCRYPTED = 0x1
LOCAL_HEADER = 30
"""Bytes before a member's name."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may be unpacked."""

    members: int = 500_000
    total: int = 64 << 30
    """Bytes, unpacked."""
    ratio: int = 500
    """Unpacked to packed, of a member larger than `judged`."""
    judged: int = 100 << 20
    small: int = 128 << 20
    """Bytes of a describing file, which is read whole."""


class Archive:
    """A package that passed the safety rules. Paths are relative to its root folder."""

    def __init__(self, file: zipfile.ZipFile, root: str, limits: Limits) -> None:
        self._file, self.root, self._limits = file, root, limits
        self._members = {
            info.filename[len(root) + 1 :]: info
            for info in file.infolist()
            if not info.is_dir() and info.filename.startswith(f"{root}/")
        }

    def paths(self) -> list[str]:
        """Every file of the package."""
        return list(self._members)

    def __contains__(self, path: str) -> bool:
        return path in self._members

    def open(self, path: str) -> IO[bytes]:
        """Open a member for reading."""
        return self._file.open(self._members[path])

    def digest(self, path: str) -> tuple[int, str]:
        """Return size and SHA-256 of a member. Raises `Damaged` where it does not unpack to what it declares."""
        digest, size = hashlib.sha256(), 0
        for chunk in self._chunks(path):
            digest.update(chunk)
            size += len(chunk)
        return size, digest.hexdigest()

    def read(self, path: str) -> bytes:
        """Return a describing file whole. Raises `Damaged` where it is missing or far too large."""
        if path not in self._members or self._members[path].file_size > self._limits.small:
            raise Damaged(path)
        return b"".join(self._chunks(path))

    def _chunks(self, path: str) -> Iterator[bytes]:
        try:
            with self.open(path) as member:
                while chunk := member.read(CHUNK):
                    yield chunk
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError):
            raise Damaged(path) from None


def opened(path: Path) -> zipfile.ZipFile:
    """Open a ZIP. Raises `Damaged`."""
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        raise Damaged from None


def judge(file: zipfile.ZipFile, limits: Limits, report: Report) -> Archive | None:
    """Return the archive if every rule of safety holds; else add what breaks them."""
    members = file.infolist()
    if not members:
        report.add("zip-empty", "", "the ZIP holds nothing")
    if len(members) > limits.members:
        report.add("zip-members", "", f"the ZIP has more than {limits.members} members")
    if sum(info.file_size for info in members) > limits.total:
        report.add("zip-bomb", "", f"unpacked it would be larger than {limits.total} bytes")
    for name, count in Counter(info.filename.casefold() for info in members).items():
        if count > 1:
            report.add("zip-duplicate", name, "the name stands there more than once")
    for info in members:
        _judge_member(info, limits, report)
    _judge_layout(file, report)
    roots = {info.filename.partition("/")[0] for info in members}
    if len(roots) > 1:
        report.add("zip-root", "", "a package has one root folder")
    return Archive(file, roots.pop(), limits) if report.sound else None


def _judge_member(info: zipfile.ZipInfo, limits: Limits, report: Report) -> None:
    name = info.filename.removesuffix("/") if info.is_dir() else info.filename
    if not is_safe(name) or info.orig_filename != info.filename:
        report.add("zip-name", info.filename, "the name is not plain, or climbs out of the package")
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in {0, stat.S_IFDIR if info.is_dir() else stat.S_IFREG}:
        report.add("zip-kind", info.filename, "a package holds plain files, no links or devices")
    if info.flag_bits & ENCRYPTED or info.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        report.add("zip-method", info.filename, "it is encrypted or packed by an unusual method")
    if info.file_size > limits.judged and info.file_size > limits.ratio * max(info.compress_size, 1):
        report.add("zip-bomb", info.filename, f"it unpacks to more than {limits.ratio} times its size")


def _judge_layout(file: zipfile.ZipFile, report: Report) -> None:
    """Members must lie one after the other from the first byte: overlapping ones are a bomb, gaps before hide things."""
    end = 0
    for info in sorted(file.infolist(), key=lambda info: info.header_offset):
        if info.header_offset < end:
            report.add("zip-overlap", info.filename, "it lies within another member")
        end = info.header_offset + LOCAL_HEADER + len(info.filename.encode()) + info.compress_size
    if file.infolist() and min(info.header_offset for info in file.infolist()) != 0:
        report.add("zip-prefix", "", "something stands before the first member")
    if file.comment:
        report.add("zip-comment", "", "a package has no comment")
