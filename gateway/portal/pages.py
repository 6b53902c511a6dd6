"""What does a person see, page by page? Ask, prove, follow, collect; every step works without script.

Nothing that a person writes is ever part of an address. After a form was accepted the browser is sent on with 303, with
one exception: the page with the collection code is the answer to the form itself, because the code exists only once.
"""

import secrets
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack

import structlog
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from gateway.portal.door import Door, Download, OrganisationInfo, Status
from gateway.portal.forms import (
    CODE_DIGITS,
    Mistake,
    Values,
    check_identifiers,
    check_request,
    field_of,
    offered,
    read_code,
    read_form,
    read_reference,
)
from gateway.portal.guard import SessionCookie, require_same_origin
from gateway.portal.languages import choose, mark, words_in
from gateway.portal.letters import Letters, LettersPage
from gateway.portal.rendering import DOCUMENT_SECURITY, HEADERS, Renderer, Visit, waiting
from gateway.portal.rights import RIGHTS
from shared.problems import Forbidden, Invalid, NotFound, Problem, TooMany, Unauthenticated, Unavailable
from shared.vocabulary import URGENT, Language, Right

log = structlog.get_logger()

Handler = Callable[[Visit], Awaitable[Response]]

RESERVED = frozenset({"v1", "demo", "static", "health", "metrics", "docs", "redoc", "openapi"})
"""First path segments that are not organisations."""


class NoSuchPage(NotFound):
    """There is no such page."""


def portal_router(
    door: Door,
    organisations: Sequence[str],
    *,
    secure: bool = True,
    demo_letters: Letters | None = None,
    demo_person: tuple[str, str] | None = None,
) -> APIRouter:
    """Return the subject's pages. Include it last: it answers every GET that nobody else did, with a page.

    `organisations` are ids, in the order of the first page; `secure` is False on loopback http alone (see
    `SessionCookie`). `demo_letters` makes it a demo: a banner on every page, and `/demo/letters`; `demo_person` is the
    (name, e-mail) that the banner suggests to ask as.
    """
    if taken := RESERVED.intersection(organisations):
        raise ValueError(f"organisation ids that are paths of the gateway: {', '.join(sorted(taken))}")
    renderer = Renderer(demo=demo_letters is not None, demo_person=demo_person)
    pages = Pages(door, organisations, renderer, SessionCookie(secure=secure))
    router = APIRouter()
    for method, path, handler in pages.routes():
        _add(router, method, path, pages.served(handler))
    if demo_letters is not None:
        letters = LettersPage(demo_letters, renderer)
        _add(router, "GET", "/demo/letters", pages.served(letters.page))
        _add(router, "GET", "/demo/letters.json", pages.served(letters.json))
        _add(router, "GET", "/demo/letters/{letter}", pages.served(letters.html))
    for method, path, handler in pages.organisation_routes():
        _add(router, method, "/{organisation}" + path, pages.served(handler))
    for path in ("/{organisation}/{rest:path}", "/{rest:path}"):
        _add(router, "GET", path, pages.served(pages.unknown))
    return router


def _add(router: APIRouter, method: str, path: str, endpoint: Callable[[Request], Awaitable[Response]]) -> None:
    router.add_route(path, endpoint, methods=[method], include_in_schema=False)


class Pages:
    """The pages of all organisations."""

    def __init__(self, door: Door, organisations: Sequence[str], renderer: Renderer, cookie: SessionCookie) -> None:
        self._door = door
        self._organisations = organisations
        self._renderer = renderer
        self._cookie = cookie

    def routes(self) -> list[tuple[str, str, Handler]]:
        return [("GET", "/", self.home), ("GET", "/static/{name}", self.asset)]

    def organisation_routes(self) -> list[tuple[str, str, Handler]]:
        case = "/requests/{reference}"
        return [
            ("GET", "", self.start),
            ("GET", "/request", self.form),
            ("POST", "/request", self.ask),
            ("GET", "/find", self.find_form),
            ("POST", "/find", self.find),
            ("POST", "/leave", self.leave),
            ("GET", case, self.case),
            ("GET", case + "/received", self.received),
            ("GET", case + "/code", self.code_form),
            ("POST", case + "/code", self.verify),
            ("POST", case + "/new-code", self.resend),
            ("GET", case + "/identifiers", self.identifiers_form),
            ("POST", case + "/identifiers", self.offer),
            ("GET", case + "/withdraw", self.withdraw_form),
            ("POST", case + "/withdraw", self.withdraw),
            ("GET", case + "/collect", self.collect_form),
            ("POST", case + "/collect", self.collect),
            ("GET", case + "/handover", self.handover),
            ("GET", case + "/answer", self.answer),
            ("POST", case + "/package", self.package),
        ]

    # --- around every page -----------------------------------------------------------------------------------------

    def served(self, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        """Wrap a page: language and organisation before it, a page for every error behind it."""

        async def serve(request: Request) -> Response:
            visit = self._visit(request, tuple(Language))
            try:
                if request.method == "POST":
                    require_same_origin(request)
                if (organisation := request.path_params.get("organisation")) is not None:
                    info = await self._known(organisation)
                    visit = self._visit(request, info.languages, info)
                return await handler(visit)
            except Unauthenticated as problem:
                return self._sign_in_again(visit, problem)
            except Problem as problem:
                return self._renderer.error(problem, visit)
            except Exception as error:  # noqa: BLE001 - the edge: a person gets a page, whatever broke
                log.error("page_failed", error=type(error).__name__)  # noqa: TRY400 - a traceback may hold personal data
                return self._renderer.error(Problem(), visit)

        return serve

    def _visit(self, request: Request, languages: tuple[Language, ...], info: OrganisationInfo | None = None) -> Visit:
        language = choose(request.query_params.get("lang"), request.headers.get("accept-language"), languages)
        return Visit(request, words_in(language), info)

    async def _known(self, organisation: str) -> OrganisationInfo:
        if organisation not in self._organisations:
            raise NoSuchPage
        return await self._door.organisation_info(organisation)

    def _sign_in_again(self, visit: Visit, problem: Unauthenticated) -> Response:
        """The session has ended: back to where a new code is sent, and the old cookie goes."""
        if "reference" not in visit.request.path_params:
            return self._renderer.error(problem, visit)
        response = _see(visit, "requests", _reference(visit), done="expired")
        self._cookie.clear(response)
        return response

    # --- asking ----------------------------------------------------------------------------------------------------

    async def home(self, visit: Visit) -> Response:
        if len(self._organisations) == 1:
            return RedirectResponse(f"/{self._organisations[0]}", 303, headers=HEADERS)
        known = [await self._door.organisation_info(organisation) for organisation in self._organisations]
        return self._renderer.page("home.html", visit, organisations=known)

    async def unknown(self, _visit: Visit) -> Response:
        raise NoSuchPage

    async def asset(self, visit: Visit) -> Response:
        """Serve one of our own files; names are looked up in memory and never become paths."""
        found = self._renderer.assets.get(visit.request.path_params["name"])
        if found is None:
            raise NoSuchPage
        return found.response(visit.request)

    async def start(self, visit: Visit) -> Response:
        return self._renderer.page("start.html", visit, rights=RIGHTS)

    async def form(self, visit: Visit) -> Response:
        right = visit.request.query_params.get("right", "")
        return self._request_page(visit, {"right": right, "once": secrets.token_urlsafe(16)})

    async def ask(self, visit: Visit) -> Response:
        values = await read_form(visit.request)
        new, mistakes = check_request(values, _info(visit), visit.words)
        if new is None:
            return self._request_page(visit, values, mistakes, 422)
        try:
            received = await self._door.open_request(_id(visit), new, once=values.get("once") or secrets.token_hex())
        except (Invalid, TooMany, Unavailable) as problem:
            return self._request_page(visit, values, _told(problem, visit), problem.status)
        return _see(visit, "requests", received.reference, "received")

    def _request_page(
        self, visit: Visit, values: Values, mistakes: Sequence[Mistake] = (), status: int = 200
    ) -> Response:
        right = values.get("right", "")
        chosen = Right(right) if right in set(Right) else None
        say = visit.words.say
        choices = [
            {"value": right, "text": say(about.title), "hint": {"text": say(about.summary)}}
            for right, about in RIGHTS.items()
        ]
        context = {"rights": RIGHTS, "choices": choices, "chosen": chosen, "urgent": chosen in URGENT}
        return self._form_page("request.html", visit, values, mistakes, status, **context)

    def _form_page(
        self,
        template: str,
        visit: Visit,
        values: Values,
        mistakes: Sequence[Mistake] = (),
        status: int = 200,
        **context: object,
    ) -> Response:
        """Return a page with a form: what was written, and each mistake both on top and at its field."""
        summary = [
            {"text": mistake.text, "href": f"#{mistake.field}"} if mistake.field else {"text": mistake.text}
            for mistake in mistakes
        ]
        wrong = {mistake.field: mistake.text for mistake in mistakes}
        context = {"values": values, "mistakes": mistakes, "summary": summary, "wrong": wrong, **context}
        return self._renderer.page(template, visit, status, field_of=field_of, **context)

    async def find_form(self, visit: Visit) -> Response:
        return self._form_page("find.html", visit, {})

    async def find(self, visit: Visit) -> Response:
        """Look a reference up. Whoever knows it sees three dates, and a code goes to its owner."""
        values = await read_form(visit.request)
        reference = read_reference(values.get("reference", ""))
        try:
            if reference is None:
                raise NoSuchPage
            await self._door.status(_id(visit), reference, None, visit.words.language)
        except NotFound:
            rule = mark("We do not know that reference. Write the nine characters as they stand in our e-mail")
            return self._form_page("find.html", visit, values, [Mistake("reference", visit.words.say(rule))], 422)
        return _see(visit, "requests", reference)

    # --- proving ---------------------------------------------------------------------------------------------------

    async def received(self, visit: Visit) -> Response:
        return self._form_page("received.html", visit, {}, status_of=await self._public(visit))

    async def code_form(self, visit: Visit) -> Response:
        return self._code_page(visit)

    def _code_page(self, visit: Visit, mistakes: Sequence[Mistake] = (), status: int = 200) -> Response:
        return self._form_page("code.html", visit, {}, mistakes, status, reference=_reference(visit))

    async def verify(self, visit: Visit) -> Response:
        """Take the one-time code; the first one that fits also brings the collection code."""
        code = read_code((await read_form(visit.request)).get("code", ""))
        if not CODE_DIGITS.fullmatch(code):
            rule = mark("Write the eight digits of the code")
            return self._code_page(visit, [Mistake("code", visit.words.say(rule))], 422)
        try:
            session = await self._door.verify(_id(visit), _reference(visit), code)
        except (Invalid, TooMany) as problem:
            return self._code_page(visit, _told(problem, visit, "code"), problem.status)
        if session.collection_code is None:
            response: Response = _see(visit, "requests", _reference(visit))
        else:
            response = self._renderer.page(
                "verified.html", visit, reference=_reference(visit), collection_code=session.collection_code
            )
        self._cookie.write(response, session.token, session.expires_in)
        return response

    async def resend(self, visit: Visit) -> Response:
        try:
            await self._door.resend_code(_id(visit), _reference(visit))
        except TooMany as problem:
            return self._code_page(visit, _told(problem, visit, "code"), problem.status)
        return _see(visit, "requests", _reference(visit), "code", done="sent")

    async def leave(self, visit: Visit) -> Response:
        if token := self._cookie.read(visit.request):
            await self._door.leave(token)
        response = _see(visit, done="left")
        self._cookie.clear(response)
        return response

    # --- following -------------------------------------------------------------------------------------------------

    async def case(self, visit: Visit) -> Response:
        """Show where the request stands: all of it to its person, three dates to whoever has the reference."""
        token = self._cookie.read(visit.request)
        try:
            status = await self._door.status(_id(visit), _reference(visit), token, visit.words.language)
        except Unauthenticated:
            status = await self._public(visit)
        template = "status.html" if status.signed_in else "known.html"
        return self._renderer.page(template, visit, status_of=status, rights=RIGHTS)

    async def _public(self, visit: Visit) -> Status:
        return await self._door.status(_id(visit), _reference(visit), None, visit.words.language)

    async def _own(self, visit: Visit) -> Status:
        token = self._cookie.demand(visit.request)
        return await self._door.status(_id(visit), _reference(visit), token, visit.words.language)

    async def identifiers_form(self, visit: Visit) -> Response:
        return self._form_page("identifiers.html", visit, {}, status_of=await self._own(visit))

    async def offer(self, visit: Visit) -> Response:
        token = self._cookie.demand(visit.request)
        values = await read_form(visit.request)
        identifiers = offered(values, _info(visit))
        mistakes = check_identifiers(values, _info(visit), visit.words)
        if not identifiers:
            mistakes = [Mistake("", visit.words.say(mark("Fill in at least one of the fields")))]
        if mistakes:
            return self._form_page("identifiers.html", visit, values, mistakes, 422, status_of=await self._own(visit))
        await self._door.offer_identifiers(_id(visit), _reference(visit), token, identifiers)
        return _see(visit, "requests", _reference(visit), done="offered")

    async def withdraw_form(self, visit: Visit) -> Response:
        return self._renderer.page("withdraw.html", visit, status_of=await self._own(visit))

    async def withdraw(self, visit: Visit) -> Response:
        await self._door.withdraw(_id(visit), _reference(visit), self._cookie.demand(visit.request))
        return _see(visit, "requests", _reference(visit))

    # --- collecting ------------------------------------------------------------------------------------------------

    async def collect_form(self, visit: Visit) -> Response:
        return self._form_page("collect.html", visit, {}, status_of=await self._own(visit))

    async def collect(self, visit: Visit) -> Response:
        """Take the second proof (design §3.8); the session that comes back may open the answer."""
        token = self._cookie.demand(visit.request)
        code = read_code((await read_form(visit.request)).get("code", ""))
        try:
            session = await self._door.collect(_id(visit), _reference(visit), token, code)
        except (Invalid, Forbidden, TooMany) as problem:
            status = await self._own(visit)
            mistakes = _told(problem, visit, "collection")
            return self._form_page("collect.html", visit, {}, mistakes, problem.status, status_of=status)
        response = _see(visit, "requests", _reference(visit), "handover")
        self._cookie.write(response, session.token, session.expires_in)
        return response

    async def handover(self, visit: Visit) -> Response:
        return self._renderer.page("handover.html", visit, status_of=await self._own(visit))

    async def answer(self, visit: Visit) -> Response:
        token = self._cookie.demand(visit.request)
        opened = self._door.answer(_id(visit), _reference(visit), token, visit.words.language)
        headers = {"content-type": "text/html; charset=utf-8", "content-security-policy": DOCUMENT_SECURITY}
        return self._handed_over(opened, visit, headers)

    async def package(self, visit: Visit) -> Response:
        """Hand over the ZIP. A form asks for it, because a link might be fetched ahead, and this is once only."""
        token = self._cookie.demand(visit.request)
        opened = self._door.package(_id(visit), _reference(visit), token)
        name = f"habeas-{_reference(visit)}.zip"
        headers = {"content-type": "application/zip", "content-disposition": f'attachment; filename="{name}"'}
        return self._handed_over(opened, visit, headers)

    def _handed_over(
        self, opened: AbstractAsyncContextManager[Download], visit: Visit, headers: dict[str, str]
    ) -> Response:
        def refuse(problem: Problem) -> Response:
            if isinstance(problem, Forbidden):
                return _see(visit, "requests", _reference(visit), "collect")
            if isinstance(problem, Unauthenticated):
                return self._sign_in_again(visit, problem)
            return self._renderer.error(problem, visit)

        return HandedOver(opened, headers, refuse)


_KEPT = ("content-length", "content-security-policy")
"""The exporter states its page's own policy, with the hash of its style sheet; without it ours for documents stands."""


class HandedOver(Response):
    """A body that streams from behind the door, opened and closed in the one task that sends it."""

    def __init__(
        self,
        opened: AbstractAsyncContextManager[Download],
        headers: dict[str, str],
        refuse: Callable[[Problem], Response],
    ) -> None:
        """`refuse` makes the page for a problem that the door raises before the first byte."""
        super().__init__()
        self._opened = opened
        self._own = headers
        self._refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with AsyncExitStack() as stack:
            try:
                download = await stack.enter_async_context(self._opened)
            except Problem as problem:
                response = self._refuse(problem)
            else:
                kept = {name: download.headers[name] for name in _KEPT if name in download.headers}
                response = StreamingResponse(download.aiter(), headers={**HEADERS, **self._own, **kept})
            await response(scope, receive, send)


def _see(visit: Visit, *segments: str, **query: str) -> Response:
    return RedirectResponse(visit.link(*segments, **query), 303, headers=HEADERS)


def _info(visit: Visit) -> OrganisationInfo:
    assert visit.organisation is not None
    return visit.organisation


def _id(visit: Visit) -> str:
    return _info(visit).organisation.id


def _reference(visit: Visit) -> str:
    """Return the reference in the path in its one form; one that cannot exist is no page."""
    reference = read_reference(visit.request.path_params["reference"])
    if reference is None:
        raise NoSuchPage
    return reference


_TROUBLE: dict[tuple[str, type[Problem]], str] = {
    ("code", Invalid): mark(
        "That code does not work. Look in the newest e-mail from us: a code works once, and for ten minutes"
    ),
    ("collection", Invalid): mark(
        "That is not the collection code. You wrote it down when you showed that the request was yours"
    ),
    ("collection", Forbidden): mark(
        "That is not the collection code. You wrote it down when you showed that the request was yours"
    ),
    ("collection", TooMany): mark("Too many wrong codes. Contact us: we can give you a new one"),
    ("", Unavailable): mark(
        "We could not receive your request just now. What you wrote is still here: try again in a minute"
    ),
}
_FIELDS = frozenset({"right", "name", "email", "message"})


def _told(problem: Problem, visit: Visit, step: str = "") -> list[Mistake]:
    """Return what to show at the form for a problem behind the door."""
    field = "code" if step else ""
    if isinstance(problem, TooMany) and (problem.retry_after is not None or step != "collection"):
        told = visit.words.say(mark("Too many tries."))
        return [Mistake(field, f"{told} {waiting(problem, visit.words)}")]
    for (known_step, kind), text in _TROUBLE.items():
        if step == known_step and isinstance(problem, kind):
            return [Mistake(field, visit.words.say(text))]
    rule = visit.words.say(mark("We could not accept what you wrote. Check it and try again"))
    fields = sorted({error.get("pointer", "").strip("/") for error in problem.errors} & _FIELDS)
    return [Mistake(name, rule) for name in fields or [""]]
