"""What does the person read about their request? Plain words, in their language, never more than is true."""

from dataclasses import dataclass
from datetime import date
from zoneinfo import ZoneInfo

from babel.dates import format_date

from services.intake.tables import Case
from shared.register import Register
from shared.vocabulary import CaseState, Language, Outcome


@dataclass(frozen=True)
class Status:
    """A headline, some paragraphs, and codes of what is outstanding and on whose side."""

    headline: str
    paragraphs: tuple[str, ...]
    outstanding: tuple[str, ...]


HEADLINES = {
    "da": {
        "verify": "Bekræft, at det er dig",
        "asked": "Vi har brug for et svar fra dig",
        "working": "Vi har modtaget din anmodning",
        "ready": "Dit svar er klar",
        "nothing": "Vi har ikke fundet oplysninger om dig",
        "collected": "Du har hentet dit svar",
        "destroyed": "Svaret kan ikke længere hentes",
        "done": "Din anmodning er afsluttet",
        "refused": "Vi har afslået din anmodning",
        "withdrawn": "Du har trukket din anmodning tilbage",
        "lapsed": "Vi har lukket din anmodning",
        "question": "Vi har et spørgsmål til dig",
    },
    "en": {
        "verify": "Confirm that it is you",
        "asked": "We need an answer from you",
        "working": "We have received your request",
        "ready": "Your answer is ready",
        "nothing": "We found no data about you",
        "collected": "You have collected your answer",
        "destroyed": "The answer can no longer be collected",
        "done": "Your request is closed",
        "refused": "We have refused your request",
        "withdrawn": "You have withdrawn your request",
        "lapsed": "We have closed your request",
        "question": "We have a question for you",
    },
}

PARAGRAPHS = {
    "da": {
        "verify": "Vi har sendt en kode på otte cifre til din e-mailadresse. Skriv den her på siden, så går vi i gang.",
        "due": "Du får svar senest {due}.",
        "promise": "Vi har lovet at svare allerede senest {promise}.",
        "paused": "Svarfristen står stille, indtil du har svaret. Vores spørgsmål står i den besked, vi har sendt dig. Svar på den.",
        "question": "Vores spørgsmål står i den besked, vi har sendt dig. Svar på den, så kan vi bedre hjælpe dig.",
        "at_once": "Det gælder med det samme. Vi skriver til dig, når det er gjort.",
        "nothing_to_do": "Du skal ikke gøre mere nu.",
        "ready": "Du kan læse og hente det til og med {expires}. Du skal bruge den afhentningskode, du fik vist her på siden.",
        "nothing": "Det gælder kun de steder, hvor vi har søgt, og det, vi har søgt med. Begge dele står i svaret. Du kan oplyse mere, hvis du tror, vi kender dig under noget andet.",
        "nothing_answer": "Du kan læse og hente svaret til og med {expires}.",
        "partly": "Noget er udeladt eller kunne ikke søges. I svaret står hvad og hvorfor.",
        "collected": "Svaret kan kun hentes én gang. Skriv til {contact}, hvis noget gik galt.",
        "destroyed": "Det blev slettet, da fristen for at hente det var gået. Du kan når som helst sende en ny anmodning.",
        "letter": "Vi har skrevet til dig om, hvad vi har gjort eller besluttet. Er du uenig, kan du klage til {authority} eller gå til domstolene.",
        "lapsed": "Det blev ikke bekræftet, hvem der har sendt den. Derfor har vi ikke søgt efter oplysninger. Er du uenig, kan du klage til {authority} eller gå til domstolene.",
        "again": "Du kan når som helst sende en ny anmodning.",
    },
    "en": {
        "verify": "We have sent an eight-digit code to your e-mail address. Enter it on this page and we begin.",
        "due": "You will have an answer by {due}.",
        "promise": "We have promised to answer by {promise} already.",
        "paused": "The time limit stands still until you have answered. Our question is in the message that we sent you. Reply to it.",
        "question": "Our question is in the message that we sent you. Reply to it, and we can help you better.",
        "at_once": "It takes effect at once. We write to you when it has been done.",
        "nothing_to_do": "There is nothing more for you to do now.",
        "ready": "You can read and collect it until {expires}. You need the collection code that was shown on this page.",
        "nothing": "That covers only the places where we searched and what we searched by. The answer names both. You can tell us more if we may know you under something else.",
        "nothing_answer": "You can read and collect the answer until {expires}.",
        "partly": "Something is left out or could not be searched. The answer says what and why.",
        "collected": "The answer can be collected only once. Write to {contact} if something went wrong.",
        "destroyed": "It was deleted when the time to collect it was over. You can send a new request at any time.",
        "letter": "We have written to you about what we did or decided. If you disagree, you can complain to {authority} or go to court.",
        "lapsed": "It was not confirmed who sent it. Therefore we have not searched for any data. If you disagree, you can complain to {authority} or go to court.",
        "again": "You can send a new request at any time.",
    },
}  # fmt: skip


def compose(case: Case, register: Register, language: Language) -> Status:
    """Return what the person reads, in `language`. Pure."""
    headline, paragraphs, outstanding = _parts(case)
    words, told = PARAGRAPHS[language.value], _told(case, register, language)
    return Status(
        HEADLINES[language.value][headline], tuple(words[key].format(**told) for key in paragraphs), outstanding
    )


def _parts(case: Case) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    state = CaseState(case.state)
    if case.package is not None:
        return _answered(case)
    closed = {
        CaseState.REFUSED: ("refused", ("letter",), ()),
        CaseState.WITHDRAWN: ("withdrawn", ("again",), ()),
        CaseState.LAPSED: ("lapsed", ("lapsed", "again"), ()),
        CaseState.FULFILLED: ("done", ("letter",), ()),
        CaseState.PARTLY_FULFILLED: ("done", ("letter",), ()),
    }
    if state in closed:
        return closed[state]
    if case.due is None:
        return "asked", ("paused",), ("identity" if case.identity == "asked" else "clarification",)
    if case.identity == "unproven" and case.contact_index is not None:
        return "verify", ("verify", "due"), ("identity",)
    return _working(case)


def _working(case: Case) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    promise = ("promise",) if case.promise_due else ()
    if case.identity == "asked" or case.awaits_clarification:
        return "question", ("question", "due", *promise), ("identity" if case.identity == "asked" else "clarification",)
    if case.urgent:
        return "working", ("at_once", "due", *promise, "nothing_to_do"), ()
    return "working", ("due", *promise, "nothing_to_do"), ()


def _answered(case: Case) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    if case.package == "collected":
        return "collected", ("collected",), ()
    if case.package == "destroyed":
        return "destroyed", ("destroyed",), ()
    if case.outcome == Outcome.NOT_FOUND:
        return "nothing", ("nothing", "nothing_answer"), ("collection",)
    partly = ("partly",) if case.outcome == Outcome.PARTLY_GRANTED else ()
    return "ready", ("ready", *partly), ("collection",)


def _told(case: Case, register: Register, language: Language) -> dict[str, str]:
    return {
        "due": long_date(case.due, language),
        "promise": long_date(case.promise_due, language),
        "expires": long_date(case.package_expires, language),
        "contact": register.organisation.contact.email,
        "authority": register.organisation.authority.name,
    }


def long_date(day: date | None, language: str) -> str:
    """Return a date as a person writes it: `7. april 2026`, `7 April 2026`."""
    return format_date(day, "long", locale="da_DK" if language == "da" else "en_GB") if day else ""


def received_on(case: Case, register: Register) -> date:
    """The local day of receipt, which the time limit counts from."""
    return case.received_at.astimezone(ZoneInfo(register.organisation.timezone)).date()
