"""What do the pages need from the rest of Habeas? One door, which the gateway connects to sessions and services.

The pages know no service and no token format: they call these methods, which do what the JSON API does under
`/v1/{organisation}`, and show what comes back. Bodies are pydantic: a JSON answer becomes one by `model_validate`.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import date, datetime
from typing import Literal, Protocol

from pydantic import BaseModel, ConfigDict

from shared.register import IdentifierType, Organisation
from shared.vocabulary import EXECUTED, OPEN_STATES, CaseState, Language, Outcome, Right


class Fact(BaseModel):
    """Base: frozen; what the pages do not know they ignore."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class OrganisationInfo(Fact):
    """Who answers here: the public part of a register, never its systems."""

    organisation: Organisation
    questions: dict[str, IdentifierType] = {}
    """Identifier types that the form offers a field for, in the order of the register."""
    languages: tuple[Language, ...] = (Language.DANISH, Language.ENGLISH)
    """The first is what a visitor gets whose browser asks for neither."""
    answer_within_days: int | None = None
    """A promise shorter than the law."""


class OfferedIdentifier(Fact):
    """One identifier as the person wrote it; normalising is intake's."""

    type: str
    value: str


class NewRequest(Fact):
    """What a person asks for."""

    right: Right
    language: Language
    name: str
    email: str
    identifiers: tuple[OfferedIdentifier, ...] = ()
    message: str | None = None


class Received(Fact):
    """The same for known and unknown people."""

    reference: str
    received_on: date
    due: date | None
    """None while the clock is paused."""
    next_step: Literal["verify", "wait", "collect"]


class Package(Fact):
    """Whether there is something to collect."""

    ready: bool
    expires_on: date | None = None
    collected_at: datetime | None = None


class Status(Received):
    """Where the request stands. Everything below is there only for its signed-in person."""

    right: Right | None = None
    state: CaseState | None = None
    outcome: Outcome | None = None
    headline: str | None = None
    paragraphs: tuple[str, ...] = ()
    outstanding: tuple[str, ...] = ()
    package: Package | None = None
    language: Language | None = None
    """What `headline` and `paragraphs` are written in."""

    @property
    def signed_in(self) -> bool:
        """Whether this is the view of the person themselves."""
        return self.headline is not None

    @property
    def is_open(self) -> bool:
        """Whether the organisation still works on it."""
        return self.state in OPEN_STATES

    @property
    def takes_more(self) -> bool:
        """Whether the person may offer more to be found by: while it is worked on, and after nothing was found."""
        answered = self.state in {CaseState.FULFILLED, CaseState.PARTLY_FULFILLED} and self.right in EXECUTED
        return self.is_open or (answered and (self.outcome is Outcome.NOT_FOUND or not self.is_collectable))

    @property
    def is_collectable(self) -> bool:
        """Whether an answer waits to be collected."""
        return self.package is not None and self.package.ready and self.package.collected_at is None


class SignedIn(Fact):
    """A session: the token goes into the cookie as it is. `expires_in` is in seconds."""

    token: str
    expires_in: int
    collection_code: str | None = None
    """Shown once, in the browser that proved the address; None when it was shown before."""


class Download(Protocol):
    """A body on its way, with lower-case header names. `shared.post.Reply` is one, after its `check()`."""

    @property
    def headers(self) -> Mapping[str, str]: ...

    def aiter(self) -> AsyncIterator[bytes]: ...


class Door(Protocol):
    """The calls. All raise `shared.problems.Problem`, and the class decides what the person reads.

    `NotFound`: no such organisation or reference. `Unauthenticated`: the token is missing, expired or another
    request's. `Forbidden`: the token has not the level `collect`. `Invalid`: a code that is wrong, used or too old, or
    a broken rule. `Gone`: the package was collected or destroyed. `Conflict`: the case's state does not allow it.
    `TooMany`: wait `retry_after` seconds, or for good where it is None. `Unavailable`: a service was not reached.
    """

    async def organisation_info(self, organisation: str) -> OrganisationInfo: ...

    async def open_request(self, organisation: str, new: NewRequest, *, once: str) -> Received:
        """Open a case; a second call with the same `once` (idempotency key) is the same case."""
        ...

    async def resend_code(self, organisation: str, reference: str) -> None: ...

    async def verify(self, organisation: str, reference: str, code: str) -> SignedIn: ...

    async def status(self, organisation: str, reference: str, token: str | None, language: Language) -> Status: ...

    async def offer_identifiers(
        self, organisation: str, reference: str, token: str, identifiers: tuple[OfferedIdentifier, ...]
    ) -> None: ...

    async def withdraw(self, organisation: str, reference: str, token: str) -> None: ...

    async def collect(self, organisation: str, reference: str, token: str, collection_code: str) -> SignedIn: ...

    def answer(
        self, organisation: str, reference: str, token: str, language: Language
    ) -> AbstractAsyncContextManager[Download]:
        """Open the answer as one HTML page. Entering raises before the first byte, or not at all."""
        ...

    def package(self, organisation: str, reference: str, token: str) -> AbstractAsyncContextManager[Download]:
        """Open the ZIP; a completed download marks it collected."""
        ...

    async def leave(self, token: str) -> None:
        """End the session; an unknown token is no error."""
        ...
