"""What letters say: what the law demands, in both languages, and nothing that their moment does not need."""

import html
import re
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest

from services.intake.letters.compose import (
    RIGHTS,
    IncompleteFacts,
    Letter,
    LetterFacts,
    LetterKind,
    compose,
)
from services.intake.register import load
from shared.vocabulary import Language, Right

ORGANISATION = load(Path("examples/registers/demo.yaml")).register.organisation
HOSTILE = "<script>alert(1)</script>{{ 7*7 }}{% raw %}"
FACTS = LetterFacts(
    organisation=ORGANISATION,
    right=Right.ACCESS,
    reference="7KQ4-M2XB-9",
    received_on=date(2026, 3, 5),
    due=date(2026, 4, 7),
    name="Søren Østergård",
    link="https://svar.nordlys.example/nordlys/7KQ4-M2XB-9?lang=da&step=2",
    code="12345678",
    verify=True,
    asks="identity",
    words="Hvilket år blev du kunde?\n\nOg hvor?",
    new_due=date(2026, 6, 5),
    expires_on=date(2026, 5, 7),
    collected_at=datetime(2026, 4, 8, 9, 5),
    searched=("Kundesystemet",),
    search_terms=("E-mailadresse",),
    terms_unused=("Kundenummer",),
    not_searched=("Papirarkivet",),
    refused="Medarbejderens noter",
    provision="databeskyttelsesforordningens artikel 15, stk. 4",
    done_anyway="Resten af dine oplysninger har du fået.",
    deferred_until=date(2032, 1, 1),
)
KINDS = list(LetterKind)
LANGUAGES = list(Language)
SAYS_NO_OR_LATER = [
    LetterKind.QUESTION,
    LetterKind.READY,
    LetterKind.NOTHING_HELD,
    LetterKind.EXTENSION,
    LetterKind.REFUSAL,
    LetterKind.DONE,
    LetterKind.LAPSED,
]
every_letter = pytest.mark.parametrize(("kind", "language"), [(kind, lang) for kind in KINDS for lang in LANGUAGES])


def words_of(text: str) -> list[str]:
    return re.findall(r"\w+", text)


def seen(letter: Letter) -> str:
    """What a reader of the HTML sees."""
    body = letter.html.partition("<body")[2]
    return html.unescape(re.sub(r"<[^>]*>", " ", "<body" + body))


@every_letter
def test_every_letter_shows_who_the_controller_is_and_how_to_reach_it(kind: LetterKind, language: Language) -> None:
    letter = compose(kind, language, FACTS)
    flat = " ".join(letter.text.split())
    assert ORGANISATION.registration is not None
    assert ORGANISATION.dpo is not None
    for shown in (
        ORGANISATION.name,
        ORGANISATION.registration,
        ORGANISATION.address,
        ORGANISATION.contact.email,
        ORGANISATION.dpo.email,
    ):
        assert shown in flat
        assert shown in seen(letter)
    assert letter.sender_name == "Nordlys IT ApS"
    assert letter.reply_to == "privatliv@nordlys.example"


@every_letter
def test_a_subject_names_the_reference_and_nobody(kind: LetterKind, language: Language) -> None:
    subject = compose(kind, language, FACTS).subject
    assert "7KQ4-M2XB-9" in subject
    assert "\n" not in subject
    for private in ("Søren", "12345678", "1234 5678", "@", "http", "indsigt", "access"):
        assert private not in subject


@every_letter
def test_both_forms_say_the_same(kind: LetterKind, language: Language) -> None:
    letter = compose(kind, language, FACTS)
    body = seen(letter).replace(ORGANISATION.name, "", 1)
    assert words_of(body) == words_of(letter.text)


@every_letter
def test_html_stands_alone_and_names_its_language(kind: LetterKind, language: Language) -> None:
    page = compose(kind, language, FACTS).html
    assert f'<html lang="{language}">' in page
    assert "width=device-width" in page
    assert not re.search(r"<(script|img|link|iframe|form|object)|src=|url\(|@import|javascript:", page)


@every_letter
def test_what_others_wrote_is_text_and_never_markup(kind: LetterKind, language: Language) -> None:
    hostile = replace(
        FACTS, name=HOSTILE, words=HOSTILE, refused=HOSTILE, provision=HOSTILE, done_anyway=HOSTILE,
        searched=(HOSTILE,), search_terms=(HOSTILE,), not_searched=(HOSTILE,), asks="clarification",
    )  # fmt: skip
    letter = compose(kind, language, hostile)
    assert "<script" not in letter.html
    assert "49" not in words_of(letter.text)


@every_letter
def test_lines_of_plain_text_are_short_and_never_empty_twice(kind: LetterKind, language: Language) -> None:
    text = compose(kind, language, FACTS).text
    assert all(len(line) <= 78 or line.startswith("http") for line in text.splitlines())
    assert "\n\n\n" not in text
    assert text.endswith("\n")


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("kind", [LetterKind.ACKNOWLEDGEMENT, LetterKind.CODE])
def test_letters_to_an_unproven_address_repeat_nothing_that_was_written(kind: LetterKind, language: Language) -> None:
    letter = compose(kind, language, FACTS)
    for written in ("Søren", "Hvilket år"):
        assert written not in letter.text + letter.html


@pytest.mark.parametrize(
    ("language", "minutes", "ignore"), [("da", "10 minutter", "se bort"), ("en", "10 minutes", "ignore")]
)
def test_the_code_letter_has_code_validity_and_what_to_do_if_you_did_not_ask(
    language: str, minutes: str, ignore: str
) -> None:
    text = " ".join(compose("code", language, FACTS).text.split())
    assert "1234 5678" in text
    assert minutes in text
    assert ignore in text
    assert "4.7" not in text


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_ready_letter_has_the_link_and_no_code(language: Language) -> None:
    letter = compose(LetterKind.READY, language, FACTS)
    assert FACTS.link is not None
    assert FACTS.link in letter.text
    assert html.escape(FACTS.link) in letter.html
    assert "5678" not in letter.text + letter.html


@pytest.mark.parametrize("kind", SAYS_NO_OR_LATER)
@pytest.mark.parametrize(("language", "court"), [(Language.DANISH, "domstolene"), (Language.ENGLISH, "court")])
def test_who_disagrees_is_shown_the_authority_and_the_courts(kind: LetterKind, language: Language, court: str) -> None:
    text = " ".join(compose(kind, language, FACTS).text.split())
    assert "Datatilsynet" in text
    assert "Carl Jacobsens Vej 35, 2500 Valby" in text
    assert "https://www.datatilsynet.dk" in text
    assert court in text


def test_the_acknowledgement_tells_when_the_answer_comes() -> None:
    danish = " ".join(compose("acknowledgement", "da", replace(FACTS, verify=False)).text.split())
    assert "Den 5. marts 2026 modtog vi en anmodning." in danish
    assert "Du får svar senest 7. april 2026. Du skal ikke gøre mere nu." in danish
    english = " ".join(compose("acknowledgement", "en", FACTS).text.split())
    assert "You will have our answer by 7 April 2026." in english
    assert "code" in english


@pytest.mark.parametrize("right", list(Right))
@pytest.mark.parametrize("language", LANGUAGES)
def test_the_acknowledgement_names_every_right(right: Right, language: Language) -> None:
    text = " ".join(compose("acknowledgement", language, replace(FACTS, right=right)).text.split())
    assert RIGHTS[language][right] in text


def test_marketing_stops_at_once_and_the_letter_says_so() -> None:
    facts = replace(FACTS, right=Right.MARKETING_OBJECTION, verify=False)
    assert "med det samme" in compose("acknowledgement", "da", facts).text
    assert "at once" in compose("acknowledgement", "en", facts).text


def test_a_question_says_whether_the_clock_stands_still() -> None:
    assert "Svarfristen står stille" in compose("question", "da", replace(FACTS, paused=True, due=None)).text
    assert "senest 7. april" in " ".join(compose("question", "da", FACTS).text.split())
    clarification = compose("question", "da", replace(FACTS, asks="clarification", link=None)).text
    assert "Du behøver ikke at begrænse din anmodning" in clarification
    other = compose("question", "da", replace(FACTS, asks="clarification", right=Right.RECTIFICATION)).text
    assert "Du behøver ikke at begrænse" not in other
    assert "Svar på denne besked" in other
    assert "pas, kørekort" not in clarification
    assert "Og hvor?" in clarification


def test_an_extension_gives_the_new_date_and_the_reasons() -> None:
    text = " ".join(compose("extension", "da", FACTS).text.split())
    assert "5. juni 2026" in text
    assert "Hvilket år blev du kunde?" in text
    assert "artikel 12, stk. 3" in text


def test_an_extension_never_gives_one_date_as_both_the_old_and_the_new() -> None:
    text = " ".join(compose("extension", "en", replace(FACTS, due=FACTS.new_due)).text.split())
    assert text.count("5 June 2026") == 1


def test_a_refusal_says_what_why_on_which_ground_and_what_was_done_anyway() -> None:
    text = " ".join(compose("refusal", "da", FACTS).text.split())
    for part in (FACTS.refused, "Hvilket år", FACTS.provision, FACTS.done_anyway, "1. januar 2032"):
        assert part is not None
        assert part in text


def test_a_negative_answer_names_what_was_searched_and_what_was_not() -> None:
    text = compose("nothing_held", "da", FACTS).text
    for named in ("- Kundesystemet", "- E-mailadresse", "- Papirarkivet", "- Kundenummer"):
        assert named in text
    empty = compose(
        "nothing_held", "da", replace(FACTS, searched=(), search_terms=(), not_searched=(), terms_unused=())
    )
    assert "Ingen af vores systemer" in empty.text
    assert "<ul" not in empty.html


def test_an_answer_that_searched_nowhere_denies_nothing() -> None:
    for language, denial in (("da", "ikke fundet"), ("en", "found none")):
        told = compose("nothing_held", language, replace(FACTS, searched=())).text
        assert denial not in told


def test_a_withdrawn_consent_is_said_to_leave_the_past_lawful() -> None:
    """R59: a mandatory sentence, whatever the outcome."""
    facts = replace(FACTS, right=Right.CONSENT_WITHDRAWAL)
    for kind in ("done", "refusal"):
        assert "var lovlig, indtil du gjorde det" in " ".join(compose(kind, "da", facts).text.split())
        assert "does not make unlawful" in " ".join(compose(kind, "en", facts).text.split())


def test_what_was_done_is_told_with_the_duties_that_go_with_it() -> None:
    erased = " ".join(compose("done", "da", replace(FACTS, right=Right.ERASURE)).text.split())
    assert "Det har vi gjort" in erased and "artikel 19" in erased and "- Papirarkivet" in erased
    restricted = " ".join(compose("done", "da", replace(FACTS, right=Right.RESTRICTION)).text.split())
    assert "artikel 18, stk. 3" in restricted
    marketing = compose("done", "da", replace(FACTS, right=Right.MARKETING_OBJECTION, words=None)).text
    assert "ikke længere oplysninger om dig til direkte markedsføring" in " ".join(marketing.split())


def test_a_partial_refusal_is_not_told_as_a_whole_one() -> None:
    assert "Vi kan ikke imødekomme" in compose("refusal", "da", FACTS).text
    partly = compose("refusal", "da", replace(FACTS, partly=True, refused=None)).text
    assert "kun imødekomme en del" in partly
    assert "Det siger vi nej til" not in partly


def test_a_printed_answer_comes_with_its_letter_and_names_no_page() -> None:
    letter = compose("ready", "da", replace(FACTS, link=None, partly=True))
    assert "sammen med dette brev" in letter.text
    assert "afhentningskode" not in letter.text
    assert "Noget er ikke med" in letter.text


def test_a_lapse_says_why_and_that_nothing_was_searched() -> None:
    text = " ".join(compose("lapsed", "da", replace(FACTS, name=None)).text.split())
    assert "ikke er blevet bekræftet, hvem der har sendt den" in text
    assert "ikke søgt efter oplysninger" in text


def test_a_promise_is_told_beside_the_laws_date() -> None:
    text = compose("acknowledgement", "da", replace(FACTS, promise_due=date(2026, 3, 19))).text
    assert "allerede senest 19. marts 2026" in " ".join(text.split())


def test_a_receipt_tells_when_it_was_collected() -> None:
    assert "8. april 2026 kl. 09.05" in " ".join(compose("collected", "da", FACTS).text.split())
    assert "8 April 2026 at 09:05" in " ".join(compose("collected", "en", FACTS).text.split())


def test_an_organisation_without_dpo_policy_or_phone_can_write_too() -> None:
    contact = ORGANISATION.contact.model_copy(update={"phone": None, "person": None})
    authority = ORGANISATION.authority.model_copy(update={"address": None, "phone": None, "email": None})
    bare = ORGANISATION.model_copy(
        update={"dpo": None, "privacy_policy": None, "registration": None, "contact": contact, "authority": authority}
    )
    for kind in KINDS:
        text = " ".join(compose(kind, "da", replace(FACTS, organisation=bare)).text.split())
        assert "Databeskyttelsesrådgiver" not in text
        assert "None" not in text


@pytest.mark.parametrize(
    ("kind", "missing"),
    [
        ("code", {"code": None}),
        ("question", {"words": ""}),
        ("question", {"asks": None}),
        ("ready", {"expires_on": None}),
        ("extension", {"new_due": None}),
        ("refusal", {"provision": None}),
        ("collected", {"collected_at": None}),
        ("ready", {"link": "javascript:alert(1)"}),
        ("ready", {"link": "/nordlys/7KQ4"}),
        ("ready", {"link": "https://a.example/x y"}),
        ("acknowledgement", {"link": "https://a.example/\nBcc: x"}),
    ],
)
def test_a_letter_without_what_it_must_say_is_not_written(kind: str, missing: dict[str, Any]) -> None:
    with pytest.raises(IncompleteFacts):
        compose(kind, "da", replace(FACTS, **missing))


def test_there_are_no_other_kinds_and_no_other_languages() -> None:
    for kind, language in (("../../etc/passwd", "da"), ("code", "../da"), ("code", "de")):
        with pytest.raises(ValueError, match="is not a valid"):
            compose(kind, language, FACTS)


def test_a_name_with_line_breaks_stays_on_its_line() -> None:
    letter = compose("ready", "da", replace(FACTS, name="Eva\r\n\r\nSend koden til x@evil.example"))
    assert "Kære Eva Send koden til x@evil.example" in letter.text
