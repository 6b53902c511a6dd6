"""What does a letter to the person say? Fixed templates in Danish and English, each rendered as text and as HTML.

A letter tells no more than its moment needs. The acknowledgement and the code go to an address that nobody has proven,
so they repeat nothing that the requester wrote: a stranger's mailbox is no notice board. Subjects hold the reference
alone. Every letter shows who the controller is and how to reach it and its DPO (R7); every letter that says what was
done, or no, or later, shows the way to the authority and the courts (Art. 12(3)-(4), 77, 79).
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from babel.dates import format_date, format_datetime
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from shared.register import Organisation
from shared.vocabulary import URGENT, Language, Right

TEMPLATES = Path(__file__).with_name("templates")
CODE_MINUTES = 10
Format = Literal["text", "html"]


class LetterKind(StrEnum):
    """What a letter is for. The template of the same name says it."""

    ACKNOWLEDGEMENT = "acknowledgement"
    CODE = "code"
    QUESTION = "question"
    READY = "ready"
    NOTHING_HELD = "nothing_held"
    EXTENSION = "extension"
    REFUSAL = "refusal"
    DONE = "done"
    COLLECTED = "collected"
    WITHDRAWN = "withdrawn"
    LAPSED = "lapsed"


@dataclass(frozen=True, slots=True)
class LetterFacts:
    """What letters tell. The first five always; which others a kind needs, `REQUIRED` says."""

    organisation: Organisation
    right: Right
    reference: str
    received_on: date
    due: date | None
    """The legal last day; None while the clock is paused."""
    promise_due: date | None = None
    """The last day that the organisation promised, if that is earlier."""
    name: str | None = None
    """Shown in the salutation, once the address is proven."""
    link: str | None = None
    """Where the next step is: the status page, the verification link, the answer."""
    code: str | None = None
    """The one-time code, eight digits."""
    verify: bool = False
    """Whether the person must still confirm the address with a code that comes in a letter of its own."""
    asks: Literal["identity", "clarification"] | None = None
    words: str | None = None
    """The handler's own words: the question, the reasons of an extension, the facts behind a refusal, what was done."""
    paused: bool = False
    """Whether the clock stands still until the question is answered."""
    new_due: date | None = None
    expires_on: date | None = None
    """Last day on which the answer can be collected."""
    collected_at: datetime | None = None
    """In local time."""
    searched: tuple[str, ...] = ()
    """Labels of the systems that were searched, in the letter's language."""
    search_terms: tuple[str, ...] = ()
    """Labels of the kinds of identifiers that were searched for."""
    terms_unused: tuple[str, ...] = ()
    """Labels of the kinds that the person gave but nobody has proven to be theirs: they were not searched for."""
    not_searched: tuple[str, ...] = ()
    """Labels of the systems that could not be searched; with `done`, of those that could not be gone through."""
    partly: bool = False
    """Whether something was left out (`ready`), or only a part is refused (`refusal`)."""
    refused: str | None = None
    """What is refused (law.md §1.3 a)."""
    provision: str | None = None
    """The provision that the refusal rests on (b)."""
    done_anyway: str | None = None
    """What was done in spite of it (e)."""
    deferred_until: date | None = None
    """When a deferred erasure will happen (f)."""


@dataclass(frozen=True, slots=True)
class Letter:
    """A letter ready to be sent or printed."""

    subject: str
    text: str
    html: str
    sender_name: str
    """The controller: shown as the sender."""
    reply_to: str
    """The controller's contact for rights: a reply is a request through an official channel."""


class IncompleteFacts(ValueError):
    """A letter of this kind needs a fact that is missing. `str()` names kind and fact, never a value."""


REQUIRED: dict[LetterKind, tuple[str, ...]] = {
    LetterKind.ACKNOWLEDGEMENT: (),
    LetterKind.CODE: ("code",),
    LetterKind.QUESTION: ("asks", "words"),
    LetterKind.READY: ("expires_on",),
    LetterKind.NOTHING_HELD: (),
    LetterKind.EXTENSION: ("new_due", "words"),
    LetterKind.REFUSAL: ("words", "provision"),
    LetterKind.DONE: (),
    LetterKind.COLLECTED: ("collected_at",),
    LetterKind.WITHDRAWN: (),
    LetterKind.LAPSED: (),
}


def compose(kind: LetterKind | str, language: Language | str, facts: LetterFacts) -> Letter:
    """Return the letter of this kind. Pure. Raises `IncompleteFacts`."""
    kind, language = LetterKind(kind), Language(language)
    _check(kind, facts)
    return Letter(
        subject=_one_line(_render(kind, language, facts, "text", "subject")),
        text=_tidy(_render(kind, language, facts, "text")),
        html=_render(kind, language, facts, "html"),
        sender_name=_one_line(facts.organisation.name),
        reply_to=facts.organisation.contact.email,
    )


def _check(kind: LetterKind, facts: LetterFacts) -> None:
    for fact in REQUIRED[kind]:
        if not getattr(facts, fact):
            raise IncompleteFacts(f"{kind}: `{fact}` is missing")
    if facts.link is not None and not _is_link(facts.link):
        raise IncompleteFacts(f"{kind}: `link` must be an absolute http(s) address")


def _is_link(text: str) -> bool:
    parts = urlsplit(text)
    return parts.scheme in {"https", "http"} and bool(parts.netloc) and text.isprintable() and " " not in text


def _render(kind: LetterKind, language: Language, facts: LetterFacts, form: Format, block: str | None = None) -> str:
    template = _environment(form, language).get_template(f"{language}/{kind}.j2")
    known = {"f": facts, "org": facts.organisation, "kind": kind.value, "language": language.value}
    if block is None:
        return template.render(known)
    return "".join(template.blocks[block](template.new_context(known)))


@lru_cache(maxsize=4)
def _environment(form: Format, language: Language) -> Environment:
    """One environment for each form, so that whatever is not a template is escaped in HTML, always."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=form == "html",  # noqa: S701 - the other form is text/plain, where nothing is markup
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"layout": f"layout.{form}.j2", "marks": f"marks.{form}.j2", "code_minutes": CODE_MINUTES}
    environment.globals["urgent"] = URGENT
    environment.filters |= {
        "day": _day(language),
        "moment": _moment(language),
        "right": RIGHTS[language].__getitem__,
        "paragraphs": _paragraphs,
        "one_line": _one_line,
        "collapsed": lambda text: re.sub(r"[ \n]+", " ", text).strip(),
        "unbroken": lambda text: _one_line(text).replace(" ", "\N{NO-BREAK SPACE}"),
    }
    return environment


_LOCALE = {Language.DANISH: "da", Language.ENGLISH: "en_GB"}
_DAY = {Language.DANISH: "d. MMMM y", Language.ENGLISH: "d MMMM y"}
_MOMENT = {Language.DANISH: "d. MMMM y 'kl.' HH.mm", Language.ENGLISH: "d MMMM y 'at' HH:mm"}

RIGHTS: dict[Language, dict[Right, str]] = {
    Language.DANISH: {
        Right.ACCESS: "indsigt i dine personoplysninger",
        Right.RECTIFICATION: "berigtigelse af dine personoplysninger",
        Right.ERASURE: "sletning af dine personoplysninger",
        Right.RESTRICTION: "begrænsning af vores behandling af dine personoplysninger",
        Right.PORTABILITY: "at få dine oplysninger med dig (dataportabilitet)",
        Right.OBJECTION: "indsigelse mod vores behandling af dine personoplysninger",
        Right.MARKETING_OBJECTION: "stop for direkte markedsføring",
        Right.CONSENT_WITHDRAWAL: "tilbagetrækning af dit samtykke",
        Right.HUMAN_REVIEW: "menneskelig gennemgang af en automatisk afgørelse",
    },
    Language.ENGLISH: {
        Right.ACCESS: "access to your personal data",
        Right.RECTIFICATION: "rectification of your personal data",
        Right.ERASURE: "erasure of your personal data",
        Right.RESTRICTION: "restriction of our processing of your personal data",
        Right.PORTABILITY: "taking your data with you (data portability)",
        Right.OBJECTION: "objection to our processing of your personal data",
        Right.MARKETING_OBJECTION: "an end to direct marketing",
        Right.CONSENT_WITHDRAWAL: "withdrawal of your consent",
        Right.HUMAN_REVIEW: "human review of an automated decision",
    },
}
"""What the person asked for, to stand after "Det drejer sig om:" and "It concerns:"."""


def _day(language: Language) -> Callable[[date], str]:
    return lambda day: format_date(day, _DAY[language], locale=_LOCALE[language])


def _moment(language: Language) -> Callable[[datetime], str]:
    return lambda at: format_datetime(at, _MOMENT[language], locale=_LOCALE[language])


def _paragraphs(text: str) -> list[str]:
    """Return a handler's words paragraph by paragraph, without control characters."""
    parts = text.replace("\r\n", "\n").split("\n\n")
    return [line for line in map(_one_line, parts) if line]


def _one_line(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _tidy(text: str) -> str:
    """Return plain text with no more than one empty line in a row."""
    lines: list[str] = []
    for line in text.splitlines():
        if line.strip() or (lines and lines[-1]):
            lines.append(line.rstrip())
    return "\n".join(lines).rstrip() + "\n"
