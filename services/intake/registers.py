"""Which register is in force, and which one does a case cite? Every version that was ever in force is kept."""

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import insert
from sqlmodel import select

from services.intake.register import LoadedRegister
from services.intake.tables import RegisterVersion
from shared.clock import Clock
from shared.database import Database
from shared.ids import new_id
from shared.problems import NotFound
from shared.register import Register


class UnknownOrganisation(NotFound):
    """There is no such organisation here."""

    code = "unknown-organisation"


@dataclass(frozen=True)
class Version:
    """One version of one organisation's register."""

    version: str
    register: Register
    content: str


class Registers:
    """The registers in force, in memory; older versions from the database when a case cites one."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._current: dict[str, Version] = {}
        self._old: dict[tuple[str, str], Version] = {}

    async def put_in_force(self, loaded: Iterable[LoadedRegister]) -> None:
        """Keep each register as a version (once) and make it the one that new cases cite."""
        for item in loaded:
            # Not the canonical form, which sorts: an answer shows fields in the order that the register gives them.
            version = Version(item.version, item.register, item.register.model_dump_json())
            organisation = item.register.organisation.id
            async with self._database.write(organisation) as session:
                known = select(RegisterVersion.id).where(RegisterVersion.version == item.version)
                if (await session.exec(known)).first() is None:
                    row = insert(RegisterVersion).values(
                        id=new_id(), organisation_id=organisation, version=item.version, content=version.content,
                        at=self._clock(),
                    )  # fmt: skip
                    await session.exec(row)
            self._current[organisation] = version

    @property
    def organisations(self) -> tuple[str, ...]:
        """The organisations that this installation answers for."""
        return tuple(self._current)

    def current(self, organisation: str) -> Version:
        """Return the version in force. Raises `UnknownOrganisation`."""
        try:
            return self._current[organisation]
        except KeyError:
            raise UnknownOrganisation from None

    async def cited(self, organisation: str, version: str) -> Version:
        """Return the version that a case was opened under; `current` is the one in force. Raises `NotFound`."""
        current = self.current(organisation)
        if version in {"current", current.version}:
            return current
        found = self._old.get((organisation, version))
        if found is None:
            found = self._old[organisation, version] = await self._read(organisation, version)
        return found

    async def _read(self, organisation: str, version: str) -> Version:
        async with self._database.read(organisation) as session:
            query = select(RegisterVersion).where(RegisterVersion.version == version)
            row = (await session.exec(query)).first()
        if row is None:
            raise NotFound("this version of the register is not known here")
        return Version(version, Register.model_validate_json(row.content), row.content)
