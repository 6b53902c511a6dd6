"""How do records leave for the exporter? In parts of NDJSON, each sent off as soon as it is full; nothing is kept here."""

import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from services.locator.settings import Settings
from shared.messages import Commit, GroupFacts, PartStored, Record
from shared.post import Post
from shared.problems import Unavailable
from shared.register import Entity, System


class PartGarbled(Unavailable):
    """The exporter stored something else than what was sent: try again."""

    code = "part-garbled"


@dataclass(frozen=True)
class Attempt:
    """Where the parts of one attempt belong."""

    organisation: str
    package: str
    task: str
    number: int

    @property
    def path(self) -> str:
        return f"/packages/{self.package}/tasks/{self.task}/attempts/{self.number}"


class Sender:
    """Sends the records of one attempt, at most `part_bytes` and `part_records` at a time."""

    def __init__(self, post: Post, settings: Settings, attempt: Attempt, system: System, *, first: int = 1) -> None:
        """`first` is the number of the first part."""
        self._post = post
        self._settings = settings
        self._attempt = attempt
        self._tally = _Tally(system.entities)
        self._next = first
        self._lines: list[bytes] = []
        self._size = 0
        self.sent: list[str] = []
        """SHA-256 of the parts, in order."""

    @property
    def records(self) -> int:
        return self._tally.records.total()

    @property
    def groups(self) -> tuple[GroupFacts, ...]:
        return self._tally.groups()

    async def add(self, record: Record) -> None:
        """Take one record; sends the part off when it is full. Raises what the exporter answered."""
        line = _encoder.encode(record)
        if self._lines and self._size + len(line) >= self._settings.part_bytes:
            await self.flush()
        self._tally.add(record)
        self._lines.append(line)
        self._size += len(line) + 1
        if len(self._lines) >= self._settings.part_records:
            await self.flush()

    async def flush(self) -> None:
        """Send off what is left."""
        if not self._lines:
            return
        content = b"\n".join(self._lines) + b"\n"
        self._lines, self._size = [], 0
        stored = await put(self._post, self._attempt, self._next, content, {"content-type": "application/x-ndjson"})
        if stored.sha256 != hashlib.sha256(content).hexdigest():
            raise PartGarbled
        self.sent.append(stored.sha256)
        self._next += 1


async def put(
    post: Post, attempt: Attempt, number: int, content: AsyncIterator[bytes] | bytes, headers: Mapping[str, str]
) -> PartStored:
    """Send one part as it comes. Raises what the exporter answered."""
    path = f"{attempt.path}/parts/{number}"
    async with post.stream(
        "exporter", "PUT", path, organisation=attempt.organisation, content=content, headers=headers
    ) as reply:
        await reply.check()
        return PartStored.model_validate(await reply.json())


async def commit(post: Post, attempt: Attempt, body: Commit) -> None:
    """Let the attempt count. Raises what the exporter answered."""
    await post.send("exporter", "PUT", attempt.path, organisation=attempt.organisation, body=body)


class _Tally:
    """Counts by entity what intake is told."""

    def __init__(self, entities: Mapping[str, Entity]) -> None:
        self._free_text = {
            name: [field for field, rule in entity.fields.items() if rule.free_text]
            for name, entity in entities.items()
        }
        self.records: Counter[str] = Counter()
        self._doubtful: Counter[str] = Counter()
        self._to_open: Counter[str] = Counter()

    def add(self, record: Record) -> None:
        entity = record.entity
        self.records[entity] += 1
        self._doubtful[entity] += record.doubt is not None
        self._to_open[entity] += bool(record.files) or any(record.fields.get(f) for f in self._free_text[entity])

    def groups(self) -> tuple[GroupFacts, ...]:
        return tuple(
            GroupFacts(entity=entity, records=count, doubtful=self._doubtful[entity], to_open=self._to_open[entity])
            for entity, count in self.records.items()
        )


def _plain(value: Any) -> Any:
    """Turn what a driver gives and JSON does not know into text; dates, decimals, bytes and UUIDs msgspec knows."""
    return bytes(value) if isinstance(value, memoryview) else str(value)


_encoder = msgspec.json.Encoder(enc_hook=_plain, decimal_format="string")
