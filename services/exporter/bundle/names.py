"""What may a file in the package be called? Plain ASCII that opens anywhere and says nothing about the person."""

import hashlib
import re

STEM = 80
"""Longest stem, so that the longest path stays under 120 characters, which Windows unpacks anywhere."""

PASSIVE = frozenset(
    {"7z", "avi", "bmp", "csv", "doc", "docx", "eml", "flac", "gif", "heic", "ics", "jpeg", "jpg", "json", "log", "m4a"}
    | {"md", "mkv", "mov", "mp3", "mp4", "msg", "odp", "ods", "odt", "ogg", "pdf", "png", "ppt", "pptx", "rtf", "tif"}
    | {"tiff", "txt", "vcf", "wav", "webm", "webp", "xls", "xlsx", "xml", "zip"}
)
"""Extensions that open in a viewer. Any other becomes `.bin`: a double click must not run what a stranger once sent."""

PACKED = frozenset(
    {"7z", "docx", "flac", "gif", "heic", "jpeg", "jpg", "m4a", "mkv", "mov", "mp3", "mp4", "odp", "ods", "odt", "ogg"}
    | {"pdf", "png", "pptx", "webm", "webp", "xlsx", "zip"}
)
"""Already compressed: compressing once more only costs time."""


def stem(*parts: str) -> str:
    """Join register slugs by dots; a long result is cut and made unique again by a hash."""
    name = ".".join(parts)
    if len(name) <= STEM:
        return name
    return f"{name[: STEM - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def extension(name: str) -> str:
    """Return the extension under which a file of that original name is stored, without its dot."""
    found = re.search(r"\.([A-Za-z0-9]{1,5})\Z", name)
    suffix = found.group(1).lower() if found else ""
    return suffix if suffix in PASSIVE else "bin"


def is_packed(path: str) -> bool:
    """Whether compressing the file at `path` is pointless."""
    return path.rpartition(".")[2] in PACKED


def is_safe(path: str) -> bool:
    """Whether a path inside a package keeps our own rule: relative, plain, no dots that climb."""
    return bool(_PATH.fullmatch(path))


_PATH = re.compile(r"[a-z0-9_-][a-z0-9._-]*(?:/[a-z0-9_-][a-z0-9._-]*)*")
