"""What must a connector do? One protocol, three ways to fail, and the words that pass between task and connector.

A kind of connector is one file in this folder and one line in `services.locator.connectors`.
"""

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from shared.messages import Identifier, Record
from shared.register import Entity, IdentifierType, Register, System


class Code(StrEnum):
    """Why a task stands where it stands. The only words about a failure that leave a connector or a task."""

    # The system did not answer, or not as itself: try again.
    UNREACHABLE = "unreachable"
    TIMEOUT = "timeout"
    BUSY = "busy"
    GARBLED = "garbled"
    SERVER_ERROR = "server-error"
    # The system answered no, or its answer cannot be trusted: a person looks.
    NOT_AUTHORISED = "not-authorised"
    REFUSED = "refused"
    REDIRECTED = "redirected"
    FORBIDDEN_ADDRESS = "forbidden-address"
    TLS_FAILED = "tls-failed"
    SCHEMA_CHANGED = "schema-changed"
    UNEXPECTED_ANSWER = "unexpected-answer"
    UNBINDABLE = "unbindable"
    PAGING_LOOP = "paging-loop"
    TOO_MANY_PAGES = "too-many-pages"
    TOO_LARGE = "too-large"
    # Set-up that a person must mend.
    SECRET_MISSING = "secret-missing"  # noqa: S105 - a code, no secret
    UNUSABLE_IDENTIFIER = "unusable-identifier"
    UNKNOWN_KIND = "unknown-kind"
    # Work that is a person's from the start, or has become it.
    MANUAL = "manual"
    PERSON = "person"
    DOUBTFUL_SOURCE = "doubtful-source"
    TOO_MANY_ROUNDS = "too-many-rounds"
    TOO_MANY_IDENTIFIERS = "too-many-identifiers"
    # Why nothing was searched, though nothing failed.
    NO_IDENTIFIER = "no-identifier"
    SOURCE_NOT_SEARCHED = "source-not-searched"
    # Our own house.
    HOUSE_UNAVAILABLE = "habeas-unavailable"
    NOT_ACCEPTED = "not-accepted"
    INTERNAL = "internal"
    DONE = "done"


class ConnectorError(Exception):
    """What a connector may raise; `str()` is the code, never text from the system."""

    def __init__(self, code: Code) -> None:
        self.code = code
        super().__init__(code.value)


class Unavailable(ConnectorError):
    """Not now: the task tries again, not before `retry_after` seconds if the system said so."""

    def __init__(self, code: Code, retry_after: float | None = None) -> None:
        self.retry_after = retry_after
        super().__init__(code)


class NeedsPerson(ConnectorError):
    """This connector cannot do it: a person must."""


class Rejected(ConnectorError):
    """The system said no, or said something that the register does not describe."""


@dataclass(frozen=True, slots=True)
class Search:
    """What one system is asked for: who, by which identifiers, in which entities."""

    organisation: str
    system_id: str
    system: System
    identifiers: Mapping[str, IdentifierType]
    region: str
    """ISO 3166 country for phone numbers without a prefix."""
    wanted: tuple[Identifier, ...]
    earlier: tuple[Identifier, ...] = ()
    """Searched here before: a record that carries one of these was handed over then."""

    @classmethod
    def of(
        cls, register: Register, system_id: str, wanted: tuple[Identifier, ...], earlier: tuple[Identifier, ...] = ()
    ) -> "Search":
        """Make a search in one system of `register`."""
        return cls(
            organisation=register.organisation.id,
            system_id=system_id,
            system=register.systems[system_id],
            identifiers=register.identifiers,
            region=register.organisation.country,
            wanted=wanted,
            earlier=earlier,
        )


@dataclass(frozen=True, slots=True)
class Ancestor:
    """A row that a record hangs under, where that row carries a name."""

    entity: str
    name: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """One record and the named rows that it was reached through. `record.doubt` is not set yet."""

    record: Record
    ancestors: tuple[Ancestor, ...] = ()


@dataclass(frozen=True, slots=True)
class EntityFindings:
    """What a probe saw of one entity. Names of columns are the organisation's own, not personal data."""

    entity: str
    missing: tuple[str, ...] = ()
    """Declared in the register, not there."""
    undeclared: tuple[str, ...] = ()
    """There, but the register does not know it: an answer will lack it."""


@dataclass(frozen=True, slots=True)
class Findings:
    """What a probe of one system saw; `code` says why it is not reachable or not usable."""

    reachable: bool
    code: Code | None = None
    entities: tuple[EntityFindings, ...] = field(default=())


class Connector(Protocol):
    """Reaches one system. Raises nothing but `Unavailable`, `NeedsPerson` and `Rejected`."""

    capabilities: frozenset[str]

    def locate(self, search: Search) -> AsyncGenerator[Found, None]:
        """Yield what the system holds on the person; parents before the records that hang under them."""
        ...

    async def probe(self) -> Findings:
        """Say whether the system is there and looks as the register says. Changes nothing."""
        ...

    async def close(self) -> None:
        """Give connections back."""
        ...


def name_of(entity: Entity, fields: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the values that together are the person's name on a record of `entity`."""
    return tuple(fields.get(name) for name in entity.name_fields)
