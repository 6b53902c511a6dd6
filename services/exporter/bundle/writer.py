"""In which order is a package written so that nothing is held in memory?

Members of a ZIP must be contiguous, so each group is read twice: once decoded into its table, once verbatim into
`raw/`. What describes the whole (letter, data package, manifests, signature) is small and comes last, when all is known.
"""

import hashlib
import stat
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from datetime import datetime
from functools import partial
from itertools import chain
from typing import Any, TypeAlias

import msgspec
from stream_zip import ZIP_64, ZIP_AUTO, Method, stream_zip

from services.exporter import answer
from services.exporter.bundle import descriptor, names, tags
from services.exporter.bundle.tables import CHUNK, csv_chunks
from services.exporter.contents import (
    BundlePlan,
    FileEntry,
    Group,
    RecordLine,
    Records,
    Sampler,
    StoredFile,
    Tally,
)
from shared.messages import Record
from shared.problems import Conflict
from shared.vocabulary import EXECUTED

try:
    from isal import isal_zlib

    _squeeze: Callable[[], Any] = partial(isal_zlib.compressobj, 2, zlib.DEFLATED, -zlib.MAX_WBITS)
except ImportError:  # no wheel for this platform: slower, same format
    _squeeze = partial(zlib.compressobj, 1, zlib.DEFLATED, -zlib.MAX_WBITS)
_store: Callable[[], Any] = partial(zlib.compressobj, 0, zlib.DEFLATED, -zlib.MAX_WBITS)
"""Stored blocks. ZIP_STORED proper needs the checksum before the data, so it would cost a second reading."""

MODE = stat.S_IFREG | 0o644
Member: TypeAlias = tuple[str, datetime, int, Method, Iterable[bytes]]


class NotPackaged(Conflict):
    """Only answers to access and portability requests are handed over as packages."""

    code = "not-packaged"


class RecordsChanged(Conflict):
    """The records changed while they were packaged: package them again."""

    code = "records-changed"


class Shown(msgspec.Struct, frozen=True, omit_defaults=True):
    """A record of which not everything is handed over, as it stands in `raw/`."""

    system: str
    entity: str
    key: str
    fields: dict[str, Any]
    files: tuple[str, ...] = ()


def write_bundle(
    plan: BundlePlan,
    records: Records,
    files: Iterable[FileEntry] = (),
    *,
    sign: Callable[[bytes], str],
    now: datetime,
) -> Generator[bytes, None, Tally]:
    """Yield the bytes of the package, a ZIP; return what was written, as the generator's value. Blocking.

    `records` is called twice for each group of the register (never, under portability, for a group with no portable
    field). `sign` makes a compact JWS (RFC 7515) over the bytes that it is given. `now` dates everything; the same
    input gives the same bytes as far as `sign` does. Raises `NotPackaged`.
    """
    if plan.package.right not in EXECUTED:
        raise NotPackaged
    bag = _Bag(plan, records, sign, now)
    yield from stream_zip(bag.members(files), chunk_size=CHUNK, get_compressobj=bag.compressor)
    return bag.tally


class _Bag:
    """One package being written: what was written so far, for the manifests."""

    def __init__(self, plan: BundlePlan, records: Records, sign: Callable[[bytes], str], now: datetime) -> None:
        self._plan, self._records, self._sign, self._now = plan, records, sign, now
        self._payload: list[tags.Item] = []
        self._resources: list[dict[str, Any]] = []
        self._sampler = Sampler()
        self._compressor = _squeeze
        self.tally = Tally()

    def members(self, files: Iterable[FileEntry]) -> Iterator[Member]:
        """Yield the members of the ZIP; each is consumed before the next is asked for."""
        yield from self._groups()
        yield from self._files(files)
        yield from self._meta()
        yield from self._pages()
        package = descriptor.data_package(self._plan, self._resources, self._now)
        yield self._whole("datapackage.json", package)
        yield from self._tags()

    def compressor(self) -> Any:
        """Return a fresh compressor for the member that begins now."""
        return self._compressor()

    # --- records ---------------------------------------------------------------------------------------------------

    def _groups(self) -> Iterator[Member]:
        for system, entity, _ in self._plan.groups():
            columns = self._plan.released_fields(system, entity)
            lines = iter(self._records(system, entity)) if columns else iter(())
            first = next(lines, None)
            if first is not None:
                yield from self._group((system, entity), columns, first, lines)

    def _group(
        self, group: Group, columns: tuple[str, ...], first: RecordLine, rest: Iterator[RecordLine]
    ) -> Iterator[Member]:
        schema = f"schemas/{names.stem(*group)}.schema.json"
        yield self._whole(schema, descriptor.record_schema(self._plan, *group, columns))
        rows = self._rows(group, columns, first, rest)
        about = descriptor.record_table(self._plan, *group, schema)
        yield self._member(f"records/{names.stem(*group)}.csv", csv_chunks(("_key", *columns), rows), about)
        about = descriptor.raw(self._plan, *group)
        yield self._member(
            f"raw/{names.stem(group[0])}/{names.stem(group[1])}.ndjson", self._raw(group, columns), about
        )

    def _rows(
        self, group: Group, columns: tuple[str, ...], first: RecordLine, rest: Iterator[RecordLine]
    ) -> Iterator[list[object]]:
        known = frozenset(self._plan.register.systems[group[0]].entities[group[1]].fields)
        sample = self._sampler.of(group)
        count = 0
        for line in chain([first], rest):
            record = line.record
            count += 1
            if not sample.full:
                sample.add(line)
            if not known.issuperset(record.fields):
                self._note_undeclared(group, record, known)
            if line.withheld:
                yield [record.key, *map(_visible(record, columns, line.withheld).get, columns)]
            else:
                yield [record.key, *map(record.fields.get, columns)]
        self.tally.counts[group] = count

    def _note_undeclared(self, group: Group, record: Record, known: frozenset[str]) -> None:
        for name in record.fields.keys() - known:
            self.tally.undeclared[*group, name] = self.tally.undeclared.get((*group, name), 0) + 1

    def _raw(self, group: Group, columns: tuple[str, ...]) -> Iterator[bytes]:
        whole = not self._plan.portability and all(key[:2] != group for key in self.tally.undeclared)
        batch: list[bytes] = []
        size = count = 0
        for line in self._records(*group):
            count += 1
            raw = line.raw if whole and not line.withheld else _shown(line, columns)
            batch.append(raw)
            size += len(raw)
            if size >= CHUNK:
                yield _lines(batch)
                batch.clear()
                size = 0
        if count != self.tally.counts[group]:
            raise RecordsChanged
        if batch:
            yield _lines(batch)

    # --- files -----------------------------------------------------------------------------------------------------

    def _files(self, files: Iterable[FileEntry]) -> Iterator[Member]:
        numbers: dict[str, int] = {}
        for entry in files:
            numbers[entry.system] = numbers.get(entry.system, 0) + 1
            path = f"files/{names.stem(entry.system)}/{numbers[entry.system]:06}.{names.extension(entry.name)}"
            self._compressor = _store if names.is_packed(path) else _squeeze
            yield self._member(path, entry.read(), descriptor.file(entry.media_type))
            self._compressor = _squeeze
            self.tally.files.append(_stored(path, entry, self._payload[-1]))

    # --- what describes it -----------------------------------------------------------------------------------------

    def _meta(self) -> Iterator[Member]:
        plan, tally = self._plan, self.tally
        for table in (
            descriptor.fields_table(plan, tally),
            descriptor.searched_table(plan),
            descriptor.redactions_table(plan, tally),
        ):
            schema = f"schemas/{table.name}.schema.json"
            yield self._whole(schema, table.schema())
            yield self._member(table.path, csv_chunks(table.header(), table.rows), table.resource(schema))
        yield self._whole("meta/decisions.json", descriptor.decisions(plan, tally), descriptor.decisions_about(plan))
        yield self._whole("meta/files.json", descriptor.file_list(tally.files), descriptor.files_about(plan))
        yield self._whole(
            "meta/processing.jsonld", descriptor.processing(plan, tally), descriptor.processing_about(plan)
        )

    def _pages(self) -> Iterator[Member]:
        plan, language = self._plan, self._plan.package.language
        letter = answer.render_letter(plan, language, self.tally).encode()
        yield self._whole(f"letter/answer.{language}.html", letter, descriptor.page("letter", plan))
        page = answer.render_answer(plan, self._sampler.records, language, self.tally, packaged=True)
        yield self._member("index.html", page, descriptor.page("index", plan))

    def _tags(self) -> Iterator[Member]:
        texts = {
            "bag-info.txt": tags.bag_info(self._plan, self._payload, self._now),
            "bagit.txt": tags.BAGIT,
            "manifest-sha256.txt": tags.manifest(self._payload),
        }
        texts[tags.SIGNATURE] = self._sign(tags.statement(self._plan, texts, self._now)).encode("ascii")
        texts[tags.KEYS] = msgspec.json.encode(self._plan.jwks)
        items = [tags.Item(path, len(text), hashlib.sha256(text).hexdigest()) for path, text in texts.items()]
        texts["tagmanifest-sha256.txt"] = tags.manifest(items)
        for path, text in texts.items():
            yield f"{self._plan.name}/{path}", self._now, MODE, ZIP_AUTO(len(text)), [text]

    # --- members ---------------------------------------------------------------------------------------------------

    def _whole(self, path: str, content: bytes, resource: dict[str, Any] | None = None) -> Member:
        """A member that is at hand: where it fits, without ZIP64, which some unpackers do not know."""
        name = f"{self._plan.name}/data/{path}"
        return name, self._now, MODE, ZIP_AUTO(len(content)), self._watched(path, [content], resource)

    def _member(self, path: str, chunks: Iterable[bytes], resource: dict[str, Any] | None = None) -> Member:
        name = f"{self._plan.name}/data/{path}"
        return name, self._now, MODE, ZIP_64, self._watched(path, chunks, resource)

    def _watched(self, path: str, chunks: Iterable[bytes], resource: dict[str, Any] | None) -> Iterator[bytes]:
        """Pass on, hash and count; once whole, enter it in the manifest and in the data package."""
        digest, size = hashlib.sha256(), 0
        for chunk in chunks:
            digest.update(chunk)
            size += len(chunk)
            yield chunk
        self._payload.append(tags.Item(f"data/{path}", size, digest.hexdigest()))
        if resource is not None:
            self._resources.append(descriptor.resource(path, resource, size, digest.hexdigest()))


def _visible(record: Record, columns: Iterable[str], withheld: frozenset[str]) -> dict[str, Any]:
    return {name: record.fields[name] for name in columns if name in record.fields and name not in withheld}


def _shown(line: RecordLine, columns: Iterable[str]) -> bytes:
    record = line.record
    visible = _visible(record, columns, line.withheld)
    return msgspec.json.encode(Shown(record.system, record.entity, record.key, visible, record.files))


def _stored(path: str, entry: FileEntry, written: tags.Item) -> StoredFile:
    return StoredFile(
        path=path,
        name=entry.name,
        media_type=entry.media_type,
        bytes=written.bytes,
        sha256=written.sha256,
        system=entry.system,
        entity=entry.entity,
        key=entry.key,
    )


def _lines(batch: list[bytes]) -> bytes:
    return b"\n".join(batch) + b"\n"
