"""How does a page become bytes? Templates, style sheet, security headers, and the page that tells of an error."""

import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from math import ceil
from urllib.parse import urlencode

from jinja2 import Environment, PackageLoader, PrefixLoader
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from gateway.portal.door import OrganisationInfo
from gateway.portal.languages import Words, mark, words_in
from shared.problems import (
    Conflict,
    Forbidden,
    Gone,
    Malformed,
    NotFound,
    Problem,
    TooLarge,
    TooMany,
    Unavailable,
    WrongType,
)
from shared.vocabulary import Language

CONTENT_SECURITY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
"""No script at all, nothing from another host, and nobody frames us."""

DOCUMENT_SECURITY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'none'; frame-ancestors 'none';"
    " base-uri 'none'; sandbox allow-popups allow-popups-to-escape-sandbox"
)
"""For whole documents that others wrote (the answer, a letter): no script, no form, an origin of its own."""

HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": CONTENT_SECURITY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    # Not `no-referrer`: browsers would then send `Origin: null` with our own forms (Fetch §3.2).
    "referrer-policy": "same-origin",
    "vary": "accept-language, cookie",
    "x-content-type-options": "nosniff",
    "x-robots-tag": "noindex",
}


@dataclass(frozen=True)
class Visit:
    """One request of one visitor: the path, the language and, once known, the organisation."""

    request: Request
    words: Words
    organisation: OrganisationInfo | None = None

    def link(self, *segments: str, **query: str) -> str:
        """Return the address of a page of this organisation in this language. Nothing personal goes into it."""
        home = [self.organisation.organisation.id] if self.organisation else []
        return "/" + "/".join([*home, *segments]) + "?" + urlencode({**query, "lang": self.words.language})

    def in_other(self, language: Language) -> str:
        """Return the address of this very page in another language."""
        kept = {name: value for name, value in self.request.query_params.items() if name in {"right", "done"}}
        return str(self.request.scope["path"]) + "?" + urlencode({**kept, "lang": language})


@dataclass(frozen=True)
class Asset:
    """A file of ours in memory: served under a name that carries its hash, so it may be kept for ever."""

    media_type: str
    plain: bytes
    packed: bytes

    def response(self, request: Request) -> Response:
        packed = "gzip" in request.headers.get("accept-encoding", "")
        headers = {
            "cache-control": "public, max-age=31536000, immutable",
            "vary": "accept-encoding",
            "x-content-type-options": "nosniff",
            **({"content-encoding": "gzip"} if packed else {}),
        }
        return Response(self.packed if packed else self.plain, media_type=self.media_type, headers=headers)


_SOURCES = {"portal.css": "text/css; charset=utf-8", "mark.svg": "image/svg+xml"}


class Renderer:
    """Templates, compiled once a language, and the assets they name."""

    def __init__(self, *, demo: bool, demo_person: tuple[str, str] | None) -> None:
        """`demo_person` is the name and e-mail that the demo suggests to ask as."""
        self.assets: dict[str, Asset] = {}
        self._paths = {name: self._load(name, media_type) for name, media_type in _SOURCES.items()}
        self._demo = {"demo": demo, "demo_person": demo_person}

    def _load(self, name: str, media_type: str) -> str:
        body = files("gateway.portal").joinpath("static", name).read_bytes()
        stem, _, ending = name.partition(".")
        hashed = f"{stem}.{hashlib.sha256(body).hexdigest()[:12]}.{ending}"
        self.assets[hashed] = Asset(media_type, body, gzip.compress(body, mtime=0))
        return f"/static/{hashed}"

    def page(self, template: str, visit: Visit, status: int = 200, **context: object) -> HTMLResponse:
        """Return the page. `context` is what the template shows; everything in it is escaped."""
        html = (
            _environment(visit.words.language)
            .get_template(f"portal/{template}")
            .render(visit=visit, words=visit.words, assets=self._paths, **self._demo, **context)
        )
        return HTMLResponse(html, status, headers={**HEADERS, "content-language": visit.words.language})

    def error(self, problem: Problem, visit: Visit) -> HTMLResponse:
        """Return the page that tells of `problem`, in words for a person and without its details."""
        told = next((words for kind, words in _TOLD if isinstance(problem, kind)), _UNKNOWN)
        wait = waiting(problem, visit.words) if isinstance(problem, TooMany) else None
        response = self.page("error.html", visit, problem.status, title=told[0], advice=told[1], wait=wait)
        if problem.retry_after is not None:
            response.headers["retry-after"] = str(problem.retry_after)
        return response


def waiting(problem: TooMany, words: Words) -> str:
    """Return how long to wait, in whole minutes."""
    minutes = max(1, ceil((problem.retry_after or 60) / 60))
    return words.count("Wait %(num)s minute, then try again.", "Wait %(num)s minutes, then try again.", minutes) % {
        "num": minutes
    }


_UNREADABLE = (
    mark("We could not read what you sent"),
    mark("Go back and try again. If your message is very long, make it shorter and send the rest by e-mail."),
)
_TOLD: tuple[tuple[type[Problem], tuple[str, str]], ...] = (
    (Malformed, _UNREADABLE),
    (TooLarge, _UNREADABLE),
    (WrongType, _UNREADABLE),
    (
        NotFound,
        (
            mark("We cannot find that page"),
            mark("Check the address or your reference. It looks like 7KQ4-M2XB-R."),
        ),
    ),
    (
        Gone,
        (
            mark("This is no longer here"),
            mark(
                "Your files have either been downloaded already, or were deleted when the time to collect them ran "
                "out. Write to us if you still need them."
            ),
        ),
    ),
    (
        TooMany,
        (
            mark("Too many tries"),
            mark("We pause for a while so that nobody can guess their way to your data."),
        ),
    ),
    (
        Conflict,
        (
            mark("That cannot be done now"),
            mark("Your request has moved on since you opened the page. Look at where it stands."),
        ),
    ),
    (
        Forbidden,
        (
            mark("We could not accept that"),
            mark("Go back, load the page again and try once more. We only accept forms that were sent from this site."),
        ),
    ),
    (
        Unavailable,
        (
            mark("We have a problem right now"),
            mark("It is our fault, not yours. Try again in a few minutes. Write to us if it is urgent."),
        ),
    ),
)
_UNKNOWN = (
    mark("Something went wrong"),
    mark("It is our fault, not yours. Try again in a few minutes, or write to us."),
)


@cache
def _environment(language: Language) -> Environment:
    environment = Environment(
        loader=PrefixLoader(
            {
                "portal": PackageLoader("gateway.portal"),
                "govuk_frontend_jinja": PackageLoader("govuk_frontend_jinja"),
            }
        ),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.i18n"],
    )
    environment.policies["ext.i18n.trimmed"] = True
    environment.install_gettext_translations(words_in(language).catalogue, newstyle=True)  # type: ignore[attr-defined]
    return environment
