"""What did the register say when the case was opened? Each version is fetched from intake once and kept."""

from abc import ABC, abstractmethod
from collections import OrderedDict
from typing import Any

from pydantic import ValidationError
from sqlalchemy.exc import IntegrityError
from sqlmodel import SQLModel
from sqlmodel.sql.expression import SelectOfScalar

from shared.database import Database
from shared.post import Post
from shared.problems import Invalid, NotFound, Unavailable
from shared.register import Register

KEPT = 64
"""Versions in memory; others are read from the database again."""


class UnknownRegister(Invalid):
    """There is no such version of the register."""

    code = "unknown-register"


class UnreadableRegister(Unavailable):
    """The register came in a shape that this version of Habeas does not know."""

    code = "unreadable-register"


class CitedRegisters(ABC):
    """The versions that a service's cases cite. One never changes, so what was fetched once stays right."""

    def __init__(self, database: Database, post: Post) -> None:
        self._database = database
        self._post = post
        self._memory: OrderedDict[tuple[str, str], Register] = OrderedDict()

    @abstractmethod
    def _query(self, version: str) -> SelectOfScalar[Any]:
        """Return the query for a version's content in the service's own table."""

    @abstractmethod
    def _copy(self, organisation: str, version: str, content: dict[str, Any]) -> SQLModel:
        """Return the row that keeps a version."""

    async def cited(self, organisation: str, version: str) -> Register:
        """Return a version. Raises `UnknownRegister`, or `Unavailable` if intake is not reached the first time."""
        known = (organisation, version)
        register = self._memory.get(known) or await self._stored(*known) or await self._fetched(*known)
        self._memory[known] = register
        self._memory.move_to_end(known)
        if len(self._memory) > KEPT:
            self._memory.popitem(last=False)
        return register

    async def _stored(self, organisation: str, version: str) -> Register | None:
        async with self._database.read(organisation) as session:
            content = (await session.exec(self._query(version))).first()
        return None if content is None else parsed(content)

    async def _fetched(self, organisation: str, version: str) -> Register:
        try:
            content = await self._post.send("intake", "GET", f"/registers/{version}", organisation=organisation)
        except NotFound:
            raise UnknownRegister from None
        register = parsed(content)
        try:
            async with self._database.write(organisation) as session:
                session.add(self._copy(organisation, version, content))
        except IntegrityError:
            pass  # another call fetched the same version at the same time
        return register


def parsed(content: object) -> Register:
    """Return the register that intake sent. Raises `UnreadableRegister`."""
    try:
        return Register.model_validate(content)
    except ValidationError:
        raise UnreadableRegister from None
