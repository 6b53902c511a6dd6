"""A door with nobody behind it: it remembers what the pages asked, and answers as the test has set it up."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime
from typing import Any

from gateway.portal.door import (
    Download,
    NewRequest,
    OfferedIdentifier,
    OrganisationInfo,
    Package,
    Received,
    SignedIn,
    Status,
)
from shared.problems import Forbidden, Gone, Invalid, NotFound, Unauthenticated
from shared.register import Authority, Contact, IdentifierType, Organisation, Text
from shared.vocabulary import URGENT, CaseState, Language, Right

REFERENCE = "7KQ4-M2XB-R"
CODE = "12345678"
COLLECTION_CODE = "H7KM-2PQX-94RD"
ANSWER = b"<!doctype html><html lang=da><title>Svar</title><main><h1>Dine oplysninger</h1></main></html>"
ARCHIVE = b"PK\x05\x06" + bytes(18)

PARAGRAPHS = {
    "da": "Du får svar senest 7. april. Du skal ikke gøre mere nu.",
    "en": "You will get an answer by 7 April. You do not have to do anything more now.",
}
HEADLINE = {"da": "Vi har modtaget din anmodning", "en": "We have received your request"}


def organisation(slug: str = "nordlys", name: str = "Nordlys IT ApS", **changes: Any) -> OrganisationInfo:
    """An organisation that asks for a phone number, a customer number and, because some do, a CPR number."""
    about = Organisation(
        id=slug,
        name=name,
        registration="CVR 12 34 56 78",
        address="Havnegade 1, 8000 Aarhus C",
        country="DK",
        timezone="Europe/Copenhagen",
        contact=Contact(email="privatliv@nordlys.example", phone="+45 70 00 00 00"),
        authority=Authority(name="Datatilsynet", url="https://www.datatilsynet.dk"),
        privacy_policy="https://nordlys.example/privatliv",
    )
    questions = {
        "phone": IdentifierType(kind="phone", label=Text(da="Telefonnummer", en="Phone number"), ask=True),
        "customer_number": IdentifierType(
            label=Text(da="Kundenummer", en="Customer number"), assigned_by="controller", pattern="K[0-9]{6}", ask=True
        ),
        "cpr": IdentifierType(kind="cpr", label=Text(da="CPR-nummer", en="CPR number"), assigned_by="state", ask=True),
    }
    return OrganisationInfo(**{"organisation": about, "questions": questions, **changes})


class Body:
    """What a stream from behind the door looks like."""

    def __init__(self, content: bytes, headers: Mapping[str, str]) -> None:
        self.headers = headers
        self._content = content

    async def aiter(self) -> AsyncIterator[bytes]:
        yield self._content


class FakeDoor:
    """One case, `REFERENCE`. Set `state`, `package`, `next_step`, `headline` …; put a problem into `trouble[method]`."""

    def __init__(self, *organisations: OrganisationInfo) -> None:
        self.organisations = {o.organisation.id: o for o in organisations or (organisation(),)}
        self.trouble: dict[str, Exception] = {}
        self.calls: list[tuple[Any, ...]] = []
        self.right = Right.ACCESS
        self.state = CaseState.IN_PROGRESS
        self.package_of_case: Package | None = None
        self.due: date | None = date(2026, 4, 7)
        self.proven = False
        self.tokens: set[str] = set()
        self.collecting: set[str] = set()
        self.headline: str | None = None
        self.paragraphs: tuple[str, ...] | None = None
        self.written_in: Language | None = None
        self.answer_headers: dict[str, str] = {}

    def _called(self, method: str, *told: Any) -> None:
        self.calls.append((method, *told))
        if method in self.trouble:
            raise self.trouble[method]

    def _case(self, organisation: str, reference: str) -> None:
        if organisation not in self.organisations or reference != REFERENCE:
            raise NotFound

    def _signed_in(self, token: str) -> None:
        if token not in self.tokens:
            raise Unauthenticated

    async def organisation_info(self, organisation: str) -> OrganisationInfo:
        self._called("organisation_info", organisation)
        return self.organisations[organisation]

    async def open_request(self, organisation: str, new: NewRequest, *, once: str) -> Received:
        self._called("open_request", organisation, new, once)
        self.right, self.proven = new.right, new.right in URGENT
        return self._received()

    def _received(self) -> Received:
        step = "wait" if self.proven else "verify"
        return Received.model_validate(
            {"reference": REFERENCE, "received_on": date(2026, 3, 7), "due": self.due, "next_step": step}
        )

    async def resend_code(self, organisation: str, reference: str) -> None:
        self._called("resend_code", reference)

    async def verify(self, organisation: str, reference: str, code: str) -> SignedIn:
        self._called("verify", reference, code)
        if code != CODE:
            raise Invalid
        collection_code = None if self.proven else COLLECTION_CODE
        self.proven = True
        return self._session("verified", collection_code)

    def _session(self, level: str, collection_code: str | None = None) -> SignedIn:
        token = f"hbs_{level}_{len(self.tokens)}"
        self.tokens.add(token)
        return SignedIn(token=token, expires_in=1800, collection_code=collection_code)

    async def status(self, organisation: str, reference: str, token: str | None, language: Language) -> Status:
        self._called("status", reference, token, language)
        self._case(organisation, reference)
        public = self._received().model_dump()
        if token is None:
            return Status.model_validate(public)
        self._signed_in(token)
        written_in = self.written_in or language
        return Status.model_validate(
            {
                **public,
                "right": self.right,
                "state": self.state,
                "headline": self.headline or HEADLINE[written_in],
                "paragraphs": self.paragraphs or (PARAGRAPHS[written_in],),
                "package": self.package_of_case,
                "language": written_in,
            }
        )

    async def offer_identifiers(
        self, organisation: str, reference: str, token: str, identifiers: tuple[OfferedIdentifier, ...]
    ) -> None:
        self._signed_in(token)
        self._called("offer_identifiers", reference, identifiers)

    async def withdraw(self, organisation: str, reference: str, token: str) -> None:
        self._signed_in(token)
        self._called("withdraw", reference)
        self.state = CaseState.WITHDRAWN
        self.headline, self.paragraphs = "Din anmodning er trukket tilbage", ("Vi er holdt op med at arbejde på den.",)

    async def collect(self, organisation: str, reference: str, token: str, collection_code: str) -> SignedIn:
        self._signed_in(token)
        self._called("collect", reference, collection_code)
        if collection_code != COLLECTION_CODE.replace("-", ""):
            raise Invalid
        session = self._session("collect")
        self.collecting.add(session.token)
        return session

    def _may_collect(self, token: str) -> None:
        self._signed_in(token)
        if token not in self.collecting:
            raise Forbidden
        if self.package_of_case is None or self.package_of_case.collected_at:
            raise Gone

    @asynccontextmanager
    async def answer(
        self, organisation: str, reference: str, token: str, language: Language
    ) -> AsyncIterator[Download]:
        self._called("answer", reference, language)
        self._may_collect(token)
        yield Body(ANSWER, {"content-length": str(len(ANSWER)), **self.answer_headers})

    @asynccontextmanager
    async def package(self, organisation: str, reference: str, token: str) -> AsyncIterator[Download]:
        self._called("package", reference)
        self._may_collect(token)
        yield Body(ARCHIVE, {"content-length": str(len(ARCHIVE))})
        assert self.package_of_case is not None
        at = datetime(2026, 4, 3, 9, 0, tzinfo=UTC)
        self.package_of_case = self.package_of_case.model_copy(update={"collected_at": at})

    async def leave(self, token: str) -> None:
        self._called("leave", token)
        self.tokens.discard(token)


def ready() -> Package:
    """A package that waits to be collected."""
    return Package(ready=True, expires_on=date(2026, 5, 3))
