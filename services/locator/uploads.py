"""How does a file reach a task? Streamed through to the exporter, under the attempt that is the person's."""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

from sqlalchemy import insert
from sqlalchemy.exc import IntegrityError

from services.locator import parts, subject
from services.locator.desk import Desk
from services.locator.people import Reader, check_open, find, uploads_of
from services.locator.tables import Task, Upload
from shared.identifiers import digest
from shared.messages import PartStored
from shared.problems import Conflict, Invalid, TooLarge

MOST_NAME = 255


class NoFilesHere(Invalid):
    """Files belong to tasks that search."""

    code = "no-files-here"


class UploadGap(Conflict):
    """Attached files are numbered from 1, one after the other."""

    code = "upload-gap"


class TooManyUploads(Conflict):
    """No more files may be attached to this task."""

    code = "too-many-uploads"


class BadFileName(Invalid):
    """The file needs a name of at most 255 characters without control characters, percent-encoded UTF-8."""

    code = "bad-file-name"


class BadFileType(Invalid):
    """The file's type is a media type such as application/pdf."""

    code = "bad-file-type"


_TYPE = re.compile(r"[a-z0-9!#$&^_.+-]{1,63}/[a-z0-9!#$&^_.+-]{1,63}", re.IGNORECASE)


@dataclass(frozen=True)
class File:
    """A file as it comes: `name` and `media_type` as the headers give them."""

    number: int
    name: str
    media_type: str
    content: AsyncIterator[bytes]


async def upload(desk: Desk, reader: Reader, task_id: str, file: File) -> dict[str, Any]:
    """Pass a file on to the exporter as it comes. The same file again under its number changes nothing."""
    name, media_type = _file_name(file.name), _file_type(file.media_type)
    async with desk.database.read(reader.organisation) as session:
        task, order = await find(session, reader, task_id)
        check_open(task, order)
        known = len(await uploads_of(session, task))
        person = await subject.unseal(desk, session, order)
    if task.verb != "export":
        raise NoFilesHere
    if file.number > known + 1:
        raise UploadGap
    if file.number > desk.settings.uploads:
        raise TooManyUploads
    where = parts.Attempt(reader.organisation, order.package_id, task.id, task.attempt)
    headers = {
        "content-type": "application/octet-stream", "habeas-file-name": quote(name), "habeas-file-type": media_type,
    }  # fmt: skip
    content = _capped(file.content, desk.settings.upload_bytes)
    stored = await parts.put(desk.post, where, file.number, content, headers)
    await _keep_upload(desk, task, file.number, digest(person.binding_key, "file", name), stored)
    return stored.model_dump()


async def _keep_upload(desk: Desk, task: Task, number: int, name_digest: str, stored: PartStored) -> None:
    row = insert(Upload).values(
        task_id=task.id, attempt=task.attempt, number=number, organisation_id=task.organisation_id,
        bytes=stored.bytes, sha256=stored.sha256, name_digest=name_digest, at=desk.now(),
    )  # fmt: skip
    try:
        async with desk.database.write(task.organisation_id) as session:
            await session.exec(row)
    except IntegrityError:
        pass  # The same file came before: the exporter has checked that it is the same.


async def _capped(content: AsyncIterator[bytes], most: int) -> AsyncIterator[bytes]:
    size = 0
    async for chunk in content:
        size += len(chunk)
        if size > most:
            raise TooLarge
        yield chunk


def _file_name(text: str) -> str:
    try:
        name = unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise BadFileName from None
    if not name or len(name) > MOST_NAME or not name.isprintable():
        raise BadFileName
    return name


def _file_type(text: str) -> str:
    if not _TYPE.fullmatch(text):
        raise BadFileType
    return text.lower()
