"""Does a CSV file keep its Table Schema? Read as a stream: names, columns, types, required and unique values."""

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from io import TextIOWrapper
from typing import IO

import msgspec

LONGEST_CELL = 1 << 28
MOST = 20
"""Breaches told of one table."""

TYPES: Mapping[str, Callable[[str], object]] = {
    "string": lambda _: True,
    "any": lambda _: True,
    "boolean": lambda text: text in {"true", "false"},
    "integer": re.compile(r"[+-]?\d+", re.ASCII).fullmatch,
    "number": re.compile(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?", re.ASCII).fullmatch,
    "date": re.compile(r"\d{4}-\d\d-\d\d", re.ASCII).fullmatch,
}


class Constraints(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The constraints that our schemas use. Another one is refused: a check must not pass by not looking."""

    required: bool = False
    unique: bool = False


class Field(msgspec.Struct):
    """One column."""

    name: str
    type: str = "string"
    constraints: Constraints = Constraints()


class Schema(msgspec.Struct, rename="camel"):
    """A Table Schema, as far as it is checked here."""

    fields: list[Field]
    primary_key: list[str] = []


def parse_schema(content: bytes) -> Schema:
    """Read a Table Schema. Raises `ValueError`."""
    try:
        schema = msgspec.json.decode(content, type=Schema)
    except msgspec.DecodeError as error:
        raise ValueError("it is no Table Schema, or one with unknown constraints") from error
    if any(field.type not in TYPES for field in schema.fields):
        raise ValueError("it names an unknown type")
    return schema


class Table:
    """One table being checked."""

    def __init__(self, schema: Schema) -> None:
        self.rows = 0
        self._schema = schema
        unique = [field.constraints.unique or field.name in schema.primary_key for field in schema.fields]
        self._columns = list(zip(schema.fields, unique, strict=True))
        self._seen: dict[str, set[bytes]] = {field.name: set() for field, once in self._columns if once}

    def breaches(self, member: IO[bytes]) -> Iterator[str]:
        """Yield what breaks the schema, at most `MOST`; never a cell's value."""
        for number, breach in enumerate(self._all(member)):
            if number == MOST:
                return
            yield breach

    def _all(self, member: IO[bytes]) -> Iterator[str]:
        csv.field_size_limit(LONGEST_CELL)
        rows = csv.reader(TextIOWrapper(member, encoding="utf-8", newline=""), strict=True)
        try:
            yield from self._header(next(rows, []))
            for row in rows:
                self.rows += 1
                yield from self._row(row)
        except (csv.Error, UnicodeDecodeError):
            yield f"row {self.rows + 1} is no CSV in UTF-8"

    def _header(self, names: Sequence[str]) -> Iterable[str]:
        if names != [field.name for field in self._schema.fields]:
            yield "the header is not the one of the schema"

    def _row(self, row: Sequence[str]) -> Iterator[str]:
        if len(row) != len(self._columns):
            yield f"row {self.rows} has {len(row)} cells, the schema has {len(self._columns)}"
            return
        for cell, (field, once) in zip(row, self._columns, strict=True):
            if cell == "":
                if field.constraints.required:
                    yield f"row {self.rows} has no {field.name}, which is required"
            elif not TYPES[field.type](cell):
                yield f"row {self.rows}: {field.name} is no {field.type}"
            elif once and not self._is_new(field.name, cell):
                yield f"row {self.rows}: {field.name} stands in another row already"

    def _is_new(self, name: str, cell: str) -> bool:
        """Eight bytes a row: a million rows stay small, and a chance clash is one in tens of millions."""
        digest = blake2b(cell.encode(), digest_size=8).digest()
        seen = self._seen[name]
        seen_before = digest in seen
        seen.add(digest)
        return not seen_before
