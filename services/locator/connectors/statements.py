"""How is one person asked for in SQL? The register's entities become SELECT statements, and their rows records.

Values are always bound, names always quoted by SQLAlchemy. An entity is reached by *routes*: by its own identifier
columns, and through its parents' (`via`), with the identifier read from the parent's row. Two routes never hand over
the same row: a longer one excludes what a shorter one finds.

E-mail addresses and the like are compared as `lower(column)`: an index on that expression makes it fast, a scan keeps
it complete. Where the register says `exact`, the column holds normal forms and its plain index serves.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.sql.elements import ColumnElement

from services.locator.connectors.base import Ancestor, Found, Search, name_of
from services.locator.connectors.matching import FOLDED, Matcher, spellings
from shared.messages import Identifier, Record
from shared.register import Entity, Finder, System

Shape = Mapping[str, str]
"""Column (`folded_name`) → `integer`, `uuid`, `text` or `other`, as the database declares it."""

Comparison = tuple[ColumnElement[Any], sa.BindParameter[Any]]
"""A column (perhaps folded) and the values that it is compared with."""

Chain = tuple[str, ...]
"""Entities from the one whose rows are read up to the one that carries the identifier."""


def chains(system: System, types: set[str]) -> Iterator[Chain]:
    """Yield the routes by which identifiers of `types` reach each entity: parents first, shorter routes first."""
    for name in sorted(system.entities, key=lambda name: len(_lineage(system, name))):
        lineage = _lineage(system, name)
        for length in range(1, len(lineage) + 1):
            if _finders(system.entities[lineage[length - 1]], types):
                yield lineage[:length]


def _lineage(system: System, name: str) -> Chain:
    lineage = [name]
    while (via := system.entities[lineage[-1]].via) is not None and via.entity not in lineage:
        lineage.append(via.entity)
    return tuple(lineage)


def _finders(entity: Entity, types: set[str]) -> dict[str, Finder]:
    return {kind: finder for kind, finder in entity.find_by.items() if kind in types and finder.field is not None}


def column_name(entity: Entity, field: str) -> str:
    """Return the name of the column that holds `field`."""
    rule = entity.fields.get(field)
    return (rule and rule.column) or field


def folded_name(column: str, dialect: str) -> str:
    """Return what two spellings of one column's name have in common: PostgreSQL alone tells cases apart."""
    return column if dialect == "postgresql" else column.lower()


def table_name(name: str, entity: Entity) -> str:
    """Return the name of the table (or view) of the entity called `name`."""
    return entity.table or name


def needed_columns(system: System, name: str) -> set[str]:
    """Return every column of one entity that statements mention."""
    entity = system.entities[name]
    fields = {*entity.fields, *entity.name_fields}
    fields |= {finder.field for finder in entity.find_by.values() if finder.field}
    fields |= {entity.key} if entity.key else set()
    fields |= {entity.via.field} if entity.via else set()
    fields |= {
        child.via.parent_field
        for child in system.entities.values()
        if child.via is not None and child.via.entity == name
    }
    return {column_name(entity, field) for field in fields}


class Reading:
    """One statement, and what its rows mean."""

    def __init__(self, search: Search, chain: Chain, shapes: Mapping[str, Shape], *, dialect: str) -> None:
        """`shapes` are the columns of each entity in `chain`."""
        self._search = search
        self._chain = chain
        self._entities = [search.system.entities[name] for name in chain]
        self._shapes = [shapes[name] for name in chain]
        self._dialect = dialect
        self._tables = [
            _table(search, name, entity).alias(f"t{level}")
            for level, (name, entity) in enumerate(zip(chain, self._entities, strict=True))
        ]
        self._positions: dict[tuple[int, str], int] = {}
        self._matcher = Matcher(search.identifiers, search.region, search.wanted)

    def statement(self) -> sa.Select[Any] | None:
        """Return the SELECT, or None if no value searched for can stand in the columns."""
        last = len(self._chain) - 1
        matches = [compared.in_(bound) for compared, bound in self._comparisons(last, self._search.wanted)]
        if not matches:
            return None
        self._place_columns()
        columns = [self._column(level, field) for level, field in self._positions]
        query = sa.select(*columns).select_from(self._joined()).where(sa.or_(*matches))
        for clause in self._excluded(last):
            query = query.where(clause)
        if self._may_repeat and self._entities[0].key is not None:
            query = query.order_by(self._column(0, self._entities[0].key))
        return query

    def found(self) -> Callable[[Sequence[Any]], Found | None]:
        """Return what turns one row into a record, or into None where the row is not the person's or came before."""
        entity, system, name = self._entities[0], self._search.system_id, self._chain[0]
        fields = [(field, self._positions[0, field]) for field in entity.fields]
        finders = self._finder_positions()
        evidence = "field" if len(self._chain) == 1 else "join"
        key_of = self._key()
        repeats = _Repeats(sorted_=entity.key is not None) if self._may_repeat else None

        def of(row: Sequence[Any]) -> Found | None:
            bound = self._matcher.bound([(kind, row[position]) for kind, position in finders])
            if not bound:
                return None
            values = {field: row[position] for field, position in fields}
            key = key_of(row, values)
            if repeats is not None and repeats.has(key):
                return None
            record = Record(system, name, key, bound, evidence, values)  # type: ignore[arg-type]
            return Found(record, self._ancestors(row))

        return of

    # --- columns and tables ----------------------------------------------------------------------------------------

    def _column(self, level: int, field: str) -> ColumnElement[Any]:
        return self._tables[level].c[column_name(self._entities[level], field)]

    def _place_columns(self) -> None:
        entity, last = self._entities[0], len(self._chain) - 1
        places = [(0, field) for field in entity.fields]
        places += [(0, entity.key)] if entity.key else []
        places += [(last, str(finder.field)) for finder in self._wanted_finders(last).values()]
        places += [(level, field) for level in range(1, last + 1) for field in self._entities[level].name_fields]
        self._positions = {place: position for position, place in enumerate(dict.fromkeys(places))}

    def _joined(self) -> sa.FromClause:
        joined: sa.FromClause = self._tables[0]
        for level, entity in enumerate(self._entities[:-1]):
            assert entity.via is not None
            own, parent = self._column(level, entity.via.field), self._column(level + 1, entity.via.parent_field)
            joined = joined.join(self._tables[level + 1], own == parent)
        return joined

    @property
    def _may_repeat(self) -> bool:
        """Whether a row can hang under several parents: unless each is joined by its key."""
        pairs = zip(self._entities, self._entities[1:], strict=False)
        return any(child.via is None or child.via.parent_field != parent.key for child, parent in pairs)

    # --- conditions ------------------------------------------------------------------------------------------------

    def _wanted_finders(self, level: int) -> dict[str, Finder]:
        return _finders(self._entities[level], {identifier.type for identifier in self._search.wanted})

    def _comparisons(self, level: int, identifiers: Sequence[Identifier]) -> Iterator[Comparison]:
        entity = self._entities[level]
        for kind, finder in _finders(entity, {identifier.type for identifier in identifiers}).items():
            values = [identifier.value for identifier in identifiers if identifier.type == kind]
            comparison = self._compare(level, finder, kind, values)
            if comparison is not None:
                yield comparison

    def _excluded(self, last: int) -> Iterator[ColumnElement[bool]]:
        """What a shorter route hands over, and what an earlier search did."""
        for level in range(last + 1):
            identifiers = [*self._search.earlier, *(self._search.wanted if level < last else ())]
            for compared, bound in self._comparisons(level, identifiers):
                yield sa.or_(compared.is_(None), compared.not_in(bound))

    def _compare(self, level: int, finder: Finder, kind: str, values: Sequence[str]) -> Comparison | None:
        assert finder.field is not None
        column = self._column(level, finder.field)
        name = folded_name(column_name(self._entities[level], finder.field), self._dialect)
        shape = self._shapes[level].get(name, "other")
        rule = self._search.identifiers[kind].kind
        written = [form for value in values for form in self._written(rule, value, exact=finder.exact)]
        bound: list[Any] = [typed for form in written for typed in _typed(shape, form, self._dialect)]
        if not bound:
            return None
        folded = rule in FOLDED and not finder.exact and shape not in {"integer", "uuid"}
        compared = sa.func.lower(column, type_=sa.types.NullType()) if folded else column
        # Untyped: SQLAlchemy would cast texts to VARCHAR, and PostgreSQL compares no number with that.
        return compared, sa.bindparam(None, bound, expanding=True, type_=sa.types.NullType(), unique=True)

    def _written(self, rule: str, value: str, *, exact: bool) -> tuple[str, ...]:
        if exact:
            return (value,)
        found = spellings(rule, value, self._search.region)
        if rule in FOLDED and self._dialect == "sqlite" and not value.isascii():
            # SQLite's lower() knows ASCII alone: ØRSTED becomes Ørsted.
            found += (_ascii_lower(value.upper()),)
        return found

    # --- rows ------------------------------------------------------------------------------------------------------

    def _finder_positions(self) -> list[tuple[str, int]]:
        last = len(self._chain) - 1
        return [(kind, self._positions[last, str(finder.field)]) for kind, finder in self._wanted_finders(last).items()]

    def _key(self) -> Callable[[Sequence[Any], Mapping[str, Any]], str]:
        key = self._entities[0].key
        if key is None:
            return lambda _row, values: digest_key(values)
        position = self._positions[0, key]
        return lambda row, _values: str(row[position])

    def _ancestors(self, row: Sequence[Any]) -> tuple[Ancestor, ...]:
        found = []
        for level in range(1, len(self._chain)):
            entity = self._entities[level]
            if entity.name_fields:
                values = {field: row[self._positions[level, field]] for field in entity.name_fields}
                found.append(Ancestor(self._chain[level], name_of(entity, values)))
        return tuple(found)


class _Repeats:
    """Says which rows came before. Rows come sorted by key where one may come twice; digests come in any order."""

    def __init__(self, *, sorted_: bool) -> None:
        self._sorted = sorted_
        self._seen: set[int] = set()

    def has(self, key: str) -> bool:
        mark = hash(key)
        if mark in self._seen:
            return True
        if self._sorted:
            self._seen.clear()
        self._seen.add(mark)
        return False


def digest_key(values: Mapping[str, Any]) -> str:
    """Return a key for a record whose entity declares none: a digest of all its values."""
    text = "\x1f".join(f"{name}={values[name]!r}" for name in sorted(values))
    return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()[:32]


def _table(search: Search, name: str, entity: Entity) -> sa.TableClause:
    connector = search.system.connector
    schema = connector.schema_name if connector.kind == "sql" else None
    columns: list[sa.ColumnClause[Any]] = [sa.column(column) for column in sorted(needed_columns(search.system, name))]
    return sa.table(table_name(name, entity), *columns, schema=schema)


def _typed(shape: str, form: str, dialect: str) -> Iterator[Any]:
    """Yield `form` as values that can stand in a column of `shape`."""
    whole = form.isascii() and form.isdigit() and len(form) < 19
    if shape == "integer":
        yield from (int(form),) if whole else ()
    elif shape == "uuid":
        yield from _uuid(form)
    else:
        yield form
        if dialect == "sqlite" and shape == "other" and whole and str(int(form)) == form:
            yield int(form)  # a column without affinity holds a number as a number


def _uuid(form: str) -> Iterator[UUID]:
    try:
        yield UUID(form)
    except ValueError:
        return


def _ascii_lower(text: str) -> str:
    return "".join(c.lower() if c.isascii() else c for c in text)
