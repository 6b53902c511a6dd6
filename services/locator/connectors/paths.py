"""Where in an answer does something lie? JSONPath (RFC 9535) as the register writes it."""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import jsonpath
from jsonpath import JSONPath

from services.locator.connectors.base import Code, Rejected, Unavailable

_LAST_MANY = re.compile(r"(\[\*\]|\.\*|\[\?.*\])$", re.DOTALL)
_PLAIN = re.compile(r"\$((?:\.[A-Za-z_][A-Za-z0-9_]*)*)")


@lru_cache(1024)
def _compiled(path: str) -> JSONPath:
    try:
        compiled = jsonpath.compile(path)
    except jsonpath.JSONPathError:
        raise Rejected(Code.SCHEMA_CHANGED) from None
    if not isinstance(compiled, JSONPath):
        raise Rejected(Code.SCHEMA_CHANGED)
    return compiled


def find(path: str, content: Any) -> list[Any]:
    """Return every value at `path`."""
    plain = _PLAIN.fullmatch(path)
    if plain is not None:
        return _walk(plain.group(1).split(".")[1:], content)
    try:
        return list(_compiled(path).findall(content))
    except (jsonpath.JSONPathError, RecursionError):
        raise Rejected(Code.UNEXPECTED_ANSWER) from None


def _walk(names: list[str], content: Any) -> list[Any]:
    """Return what a path of names only leads to: nearly every path, and a hundred times faster than the library."""
    for name in names:
        if not isinstance(content, Mapping) or name not in content:
            return []
        content = content[name]
    return [content]


def first(path: str, content: Any) -> Any:
    """Return the first value at `path`, or None."""
    found = find(path, content)
    return found[0] if found else None


def records(path: str | None, content: Any) -> list[Any]:
    """Return the records of an answer, each an object or a plain value.

    An answer without the place where records should lie is not an empty one: some servers say what went wrong with
    status 200. Raises `Unavailable` for it, so that it is tried again and then looked at.
    """
    if path is None:
        return _items([content])
    found = find(path, content)
    if not found and not _stands_empty(path, content):
        raise Unavailable(Code.UNEXPECTED_ANSWER)
    return _items(found)


def _items(found: list[Any]) -> list[Any]:
    """`$.tickets` leads to one list, `$.tickets[*]` to what is in it; both mean the same."""
    if len(found) == 1 and isinstance(found[0], list):
        return found[0]
    return [item for item in found if item is not None]


def _stands_empty(path: str, content: Any) -> bool:
    """Whether the list that `path` selects from is there: empty, null, or without anything that it selects."""
    parent = _LAST_MANY.sub("", path)
    if parent == path:
        return False
    return any(value is None or isinstance(value, (list, dict)) for value in find(parent, content))
