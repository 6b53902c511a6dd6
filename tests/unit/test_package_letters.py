"""The letter and the answer to read: what Art. 15(1) asks for stands there, nothing more is promised, nothing runs."""

import re
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any

import pytest

from services.exporter import answer, words
from services.exporter.answer import render_answer, render_letter
from services.exporter.contents import StoredFile, Tally, Withheld
from shared.messages import Decision, Searched
from shared.vocabulary import REASONS, Language, LegalBasis, Outcome, Right, TaskState
from tests.support.packages import CONTRACT, CUSTOMER, INVOICE, MESSAGE, changed, line, person, plan, source, tally

DA, EN = Language.DANISH, Language.ENGLISH
ALL = person() | {INVOICE: [line(INVOICE, "1", {"id": 1, "amount": 5})]}
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{ 7*7 }}"


class Text(HTMLParser):
    """What a person sees, and which tags and attributes carry it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self._hidden = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        self._hidden = tag in {"style", "title"}

    def handle_endtag(self, tag: str) -> None:
        self._hidden = False

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.words.append(data)

    @property
    def seen(self) -> str:
        return " ".join(" ".join(self.words).split())


def letter(language: Language = DA, **about: Any) -> str:
    lines = about.pop("lines", ALL)
    facts = plan(about.pop("right", Right.ACCESS), language, **about)
    return Text(render_letter(facts, language, tally(lines))).seen


def page(language: Language = DA, *, packaged: bool = False, **about: Any) -> str:
    lines = about.pop("lines", ALL)
    count = about.pop("count", tally(lines))
    facts = plan(about.pop("right", Right.ACCESS), language, **about)
    return b"".join(render_answer(facts, source(lines), language, count, packaged=packaged)).decode()


# --- Art. 15(1) ----------------------------------------------------------------------------------------------------

ARTICLE_15 = {
    "confirmation": ("Ja, vi behandler oplysninger om dig", "Yes, we process personal data about you"),
    "a: purposes": ("At sende dig vores nyhedsbrev", "To send you our newsletter"),
    "b: categories": ("Navn og kontaktoplysninger", "Name and contact details"),
    "c: recipients by name": ("Brevdue Mail Inc.", "Brevdue Mail Inc."),
    "c: whoever runs the system": ("Hilfetisch GmbH", "Hilfetisch GmbH"),
    "d: storage period": ("5 år efter at kundeforholdet er slut", "5 years after the customer relationship has ended"),
    "d: storage criterion": ("Så længe du er tilmeldt", "As long as you subscribe"),
    "e: rectification": ("artikel 16", "Article 16"),
    "e: erasure": ("artikel 17", "Article 17"),
    "e: restriction": ("artikel 18", "Article 18"),
    "e: objection": ("artikel 21, stk. 1", "Article 21(1)"),
    "f: complaint": ("Datatilsynet (artikel 77)", "Datatilsynet (Article 77)"),
    "f: own country's authority": ("dit eget lands myndighed", "your own country's authority"),
    "g: source": ("Vi har selv dannet oplysningerne", "We produced the data ourselves"),
    "h: automated decisions": (
        "ingen afgørelser om dig, som alene er truffet",
        "no decisions about you that are taken",
    ),
    "2: transfer": ("Overførsel til USA", "Transfer to United States"),
    "2: safeguard": ("standardkontrakter (artikel 46, stk. 2, litra c)", "contractual clauses (Article 46(2)(c))"),
    "2: copy of the safeguard": ("Kopi fås hos privatliv@nordlys.example", "For a copy: privatliv@nordlys.example"),
    "legal basis": ("Dit samtykke (artikel 6, stk. 1, litra a)", "Your consent (Article 6(1)(a))"),
    "withdrawal": ("artikel 7, stk. 3", "Article 7(3)"),
    "court": ("artikel 79", "Article 79"),
    "controller": ("Nordlys IT ApS, CVR 99 00 00 01 Polarvej 7, 9990 Skagen", "CVR 99 00 00 01"),
    "contact": ("privatliv@nordlys.example", "+45 70 00 00 01"),
    "dpo": ("dpo@nordlys.example", "Asger Østergaard"),
    "date": ("21. november 2026", "21 November 2026"),
    "reference": ("7KQ4-M2XB-9", "7KQ4-M2XB-9"),
    "version in force": ("3f2a9c1be07d", "3f2a9c1be07d"),
}


@pytest.mark.parametrize("item", ARTICLE_15)
def test_the_letter_tells_in_danish_and_english(item: str) -> None:
    danish, english = ARTICLE_15[item]
    assert danish in letter(DA)
    assert english in letter(EN)


def test_the_letter_tells_only_of_purposes_under_which_something_was_found() -> None:
    told = letter(lines={CONTRACT: person()[CONTRACT]})
    assert "At levere de it-ydelser" in told
    assert "nyhedsbrev" not in told
    assert "Brevdue" not in told
    assert "artikel 7, stk. 3" not in told
    assert "Vores fortegnelse nævner ingen overførsel" in told


def test_an_automated_decision_is_explained_with_the_rights_that_go_with_it() -> None:
    def decides(document: dict[str, Any]) -> None:
        document["purposes"]["delivery"]["automated_decision"] = {
            "da": "Kreditvurdering efter en model",
            "en": "Scoring",
        }

    told = letter(register=changed(decides))
    assert "Kreditvurdering efter en model" in told
    assert "artikel 22, stk. 3" in told
    assert "nævner ingen afgørelser" not in told


def test_another_controller_is_named() -> None:
    def shared(document: dict[str, Any]) -> None:
        document["purposes"]["delivery"] |= {"role": "joint", "controller": "Fælles A/S"}
        document["purposes"]["marketing"] |= {"role": "processor", "controller": "Kunden A/S"}

    told = letter(register=changed(shared))
    assert "sammen med Fælles A/S" in told
    assert "på vegne af Kunden A/S, som er dataansvarlig" in told


def test_an_unknown_legal_basis_is_told_as_stated_and_not_improved() -> None:
    def unknown(document: dict[str, Any]) -> None:
        document["purposes"]["delivery"]["legal_basis"] = {"stated": "Se politikken", "normalised": LegalBasis.UNKNOWN}

    assert "Se politikken" in letter(register=changed(unknown))


def test_authorities_are_named_only_if_a_person_released_the_answer() -> None:
    assert "Skattestyrelsen" in letter()
    assert "Skattestyrelsen" not in letter(released_by="automatic")


def test_data_that_the_law_keeps_are_said_to_stand_against_erasure() -> None:
    assert "Noget kræver loven, at vi gemmer" in letter()
    assert "Noget kræver loven" not in letter(lines={MESSAGE: person()[MESSAGE]})


# --- what is missing -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", sorted(REASONS))
@pytest.mark.parametrize("language", Language)
def test_every_reason_has_words_and_a_provision(reason: str, language: Language) -> None:
    told = letter(language, withheld=[Withheld(*MESSAGE, "3", None, reason)])
    why, provision = words.reason(reason, language)
    assert why in told
    assert provision in told
    assert why != words.UNKNOWN_REASON.in_(language)
    assert "habeas:" not in told


def test_a_reason_without_words_is_told_as_a_code_with_an_offer_to_explain() -> None:
    assert words.reason("habeas:new", EN) == ("Ask us if you want the reason explained.", "habeas:new")


def test_withheld_fields_and_records_are_counted_and_named() -> None:
    marks = [Withheld(*CUSTOMER, str(key), "note", "habeas:A15-4-third-party") for key in range(3)]
    told = letter(EN, withheld=[*marks, Withheld(*MESSAGE, "9", None, "habeas:A15-4-trade-secret")])
    assert "Customer record – the field Note by staff (3 records)" in told
    assert "The support system: Message in a support ticket (1 record)" in told
    assert "Article 15(4)" in told


def test_records_that_cannot_be_tied_to_the_person_are_counted_only() -> None:
    assert "2 poster, som måske er om dig" in letter(held_back=2)
    assert "1 record that may be about you" in letter(EN, held_back=1)


def test_a_decision_that_gives_less_is_told() -> None:
    decision = Decision(
        system="crm",
        entity="customer",
        purpose="delivery",
        outcome=Outcome.REFERRED,
        article="28(3)(e)",
        reason="habeas:processor-forward",
    )
    assert "kun på vegne af en anden, som er dataansvarlig" in letter(decisions=[decision])


def test_who_is_controller_of_what_is_processed_for_others_is_named_and_nothing_is_said_to_be_passed_on() -> None:
    def processor(document: dict[str, Any]) -> None:
        document["purposes"]["delivery"] |= {"role": "processor", "controller": "Kunden A/S"}

    decision = Decision(
        system="crm", entity="customer", purpose="delivery", outcome=Outcome.REFERRED, article="28(3)(e)",
        reason="habeas:processor-forward", records=1,
    )  # fmt: skip
    found = [Searched(system="crm", state=TaskState.FOUND, records=1)]
    told = letter(decisions=[decision], register=changed(processor), lines={}, searched=found)
    assert "Vi har fundet oplysninger om dig, men vi behandler dem kun på vegne af andre" in told
    assert "på vegne af Kunden A/S, som er dataansvarlig og skal svare dig om det. Send din anmodning dertil" in told
    assert "videre" not in told


def test_what_staff_wrote_is_not_said_to_come_from_the_person() -> None:
    assert "Dig selv; Os selv: vi har lavet oplysningerne" in letter()
    assert "You yourself; Ourselves: we made the data" in letter(EN)


def test_a_reason_of_access_stands_under_article_20_in_an_answer_on_portability() -> None:
    mark = Withheld(*CUSTOMER, "17", "name", "habeas:A15-4-third-party")
    told = letter(right=Right.PORTABILITY, lines=person(), withheld=[mark])
    assert "artikel 20, stk. 4" in told
    assert "artikel 15, stk. 4" not in told


def test_what_is_only_perhaps_about_the_person_is_not_said_to_be_about_them() -> None:
    decision = Decision(
        system="crm", entity="customer", purpose="delivery", outcome=Outcome.PARTLY_GRANTED, article="20(1)",
        reason="habeas:A20-not-provided", records=1,
    )  # fmt: skip
    found = [Searched(system="crm", state=TaskState.FOUND, records=1)]
    told = letter(right=Right.PORTABILITY, lines={}, searched=found, decisions=[decision], held_back=1)
    assert "oplysninger, som måske er om dig" in told
    assert "Vi har oplysninger om dig, men" not in told


def test_systems_that_were_not_searched_are_named_at_the_top_and_explained() -> None:
    told = letter()
    assert "Vi har ikke søgt overalt. Ikke med i svaret: Papirarkivet." in told
    assert "ingen bekræftet oplysning fra dig" in told


@pytest.mark.parametrize("state", [TaskState.NEEDS_PERSON, TaskState.RETRY, TaskState.CANCELLED, TaskState.QUEUED])
def test_a_system_that_is_not_done_counts_as_not_searched(state: TaskState) -> None:
    told = letter(EN, searched=[Searched(system="crm", state=state, code="timeout")], lines={})
    assert "We could not search any of our systems" in told
    assert "we do not know whether it holds data about you" in told


# --- no promise ----------------------------------------------------------------------------------------------------

NOTHING = [Searched(system="crm", state=TaskState.NOTHING), Searched(system="archive", state=TaskState.NOT_SEARCHED)]


@pytest.mark.parametrize("language", Language)
def test_an_answer_that_found_nothing_claims_only_what_was_searched(language: Language) -> None:
    told = letter(language, lines={}, searched=NOTHING)
    claims = {DA: "der, hvor vi har søgt. Svaret gælder kun", EN: "where we searched. This answer covers only"}
    assert claims[language] in told
    assert {DA: "e-mailadresse og kundenummer", EN: "e-mail address and customer number"}[language] in told
    assert {DA: "Papirarkivet", EN: "The paper archive"}[language] in told
    assert {DA: "så kan vi søge igen", EN: "we can search again"}[language] in told


@pytest.mark.parametrize("language", Language)
def test_a_system_that_nothing_proven_led_to_counts_as_not_searched(language: Language) -> None:
    unopened = Searched(system="archive", state=TaskState.NOTHING, code="no-identifier")
    told = letter(language, lines={}, searched=[NOTHING[0], unopened])
    assert {DA: "Vi har ikke søgt overalt.", EN: "We did not search everywhere."}[language] in told
    assert {DA: "som systemet kan søges med", EN: "that the system can be searched by"}[language] in told


@pytest.mark.parametrize(
    ("lines", "about"),
    [
        (ALL, {}),
        ({}, {"searched": NOTHING}),
        ({}, {"searched": NOTHING, "held_back": 2}),
        ({}, {"withheld": [Withheld(*MESSAGE, "3", None, "habeas:A15-4-ipr")]}),
        ({}, {"searched": []}),
        (ALL, {"right": Right.PORTABILITY}),
    ],
)
def test_no_letter_promises_completeness(lines: dict[Any, Any], about: dict[str, Any]) -> None:
    for language in Language:
        told = letter(language, lines=lines, **about).casefold()
        for promise in (
            "vi har ingen",
            "alle oplysninger om dig",
            "intet om dig",
            "we hold no",
            "all data about you",
            "none about you",
        ):
            assert promise not in told
        assert "none" not in re.findall(r"\w+", told) or language is EN


@pytest.mark.parametrize(
    ("about", "danish"),
    [
        ({"held_back": 2, "searched": NOTHING}, "Vi har fundet oplysninger, som måske er om dig"),
        ({"withheld": [Withheld(*MESSAGE, "3", None, "habeas:A15-4-ipr")]}, "men vi udleverer dem ikke"),
        (
            {"withheld": [Withheld(*MESSAGE, "3", None, "habeas:not-the-person")], "searched": NOTHING},
            "Vi har ikke fundet",
        ),
        ({"searched": []}, "Vi har ikke kunnet søge i nogen af vores systemer"),
    ],
)
def test_the_first_sentence_fits_what_happened(about: dict[str, Any], danish: str) -> None:
    assert danish in letter(lines={}, **about)


# --- portability ---------------------------------------------------------------------------------------------------


def test_a_portability_letter_tells_what_is_not_covered_and_nothing_of_article_15() -> None:
    told = letter(right=Right.PORTABILITY, lines=person())
    assert "Svar på din anmodning om dataportabilitet" in told
    assert "felterne Internt id; Kundenummer; Medarbejderens note" in told
    assert "artikel 20, stk. 2" in told
    assert "Retsgrundlag" not in told
    assert "Brevdue" not in told
    assert "Datatilsynet" in told


def test_data_of_which_nothing_is_portable_is_not_denied() -> None:
    searched = [Searched(system="invoices", state=TaskState.FOUND, records=3)]
    told = letter(right=Right.PORTABILITY, lines={}, searched=searched)
    assert "ingen af dem er omfattet af retten til dataportabilitet" in told
    assert "et andet grundlag end dit samtykke" in told


# --- the answer to read --------------------------------------------------------------------------------------------


def test_the_answer_shows_every_value_with_its_label() -> None:
    seen = Text(page()).seen
    for shown in (
        "Navn Søren Æblegård",
        "Rødgrødvej 3 9990 Skagen",
        "Tilmeldt nyhedsbrev Ja",
        "Min router <b>blinker</b>",
    ):
        assert shown in seen


def test_a_withheld_field_is_shown_as_left_out() -> None:
    lines = {CUSTOMER: [line(CUSTOMER, "17", {"name": "Søren", "note": "hemmeligt"}, ["note"])]}
    seen = Text(page(lines=lines)).seen
    assert "Medarbejderens note Udeladt" in seen
    assert "hemmeligt" not in seen


def test_a_marked_field_is_left_out_even_if_the_record_comes_whole() -> None:
    lines = {CUSTOMER: [line(CUSTOMER, "17", {"name": "Søren", "note": "hemmeligt"})]}
    marks = [Withheld(*CUSTOMER, "17", "note", "habeas:A15-4-ipr")]
    assert "hemmeligt" not in page(lines=lines, withheld=marks)


def test_at_most_two_hundred_records_are_shown_and_the_rest_is_said_to_be_in_the_files() -> None:
    lines = {MESSAGE: [line(MESSAGE, str(key), {"id": key, "body": f"besked {key}."}) for key in range(1234)]}
    seen = Text(page(lines=lines)).seen
    assert "1.234 poster. Her vises de første 200. Resten ligger i pakkens filer." in seen
    assert "besked 199." in seen
    assert "besked 200." not in seen


def test_a_long_value_is_cut_with_a_word_and_structures_are_indented() -> None:
    lines = {MESSAGE: [line(MESSAGE, "1", {"body": "x" * 5000, "direction": {"to": ["<a>"]}, "sent_at": None})]}
    seen = Text(page(EN, lines=lines)).seen
    assert "x" * 2000 in seen
    assert "x" * 2001 not in seen
    assert "The rest is in the files of the package." in seen
    assert '{ "to": [ "<a>" ] }' in seen
    assert "(empty)" in seen


def test_the_files_of_the_package_are_explained_in_the_package_alone() -> None:
    assert 'href="records/fields.csv"' in page(packaged=True)
    assert "records/fields.csv" not in page()
    stored = StoredFile(
        path="files/tickets/000001.pdf",
        name="a.pdf",
        media_type="application/pdf",
        bytes=1,
        sha256="0" * 64,
        system="tickets",
        entity="message",
        key="3",
    )
    count = Tally(tally(ALL).counts, files=[stored])
    assert 'href="meta/files.json"' in page(packaged=True, count=count)


def test_the_answer_streams_in_pieces() -> None:
    lines = {MESSAGE: [line(MESSAGE, str(key), {"body": "x" * 1000}) for key in range(150)]}
    pieces = list(render_answer(plan(), source(lines), DA, tally(lines)))
    assert len(pieces) > 5
    assert max(map(len, pieces)) < 100_000


# --- safety --------------------------------------------------------------------------------------------------------


def hostile_page(*, packaged: bool) -> str:
    def everywhere(document: dict[str, Any]) -> None:
        document["organisation"] |= {"name": HOSTILE, "address": HOSTILE, "registration": HOSTILE}
        document["organisation"]["contact"]["person"] = HOSTILE
        document["systems"]["crm"]["label"] = {"da": HOSTILE, "en": HOSTILE}
        document["recipients"]["hosting"]["name"] = HOSTILE
        document["purposes"]["delivery"]["label"] = {"da": HOSTILE, "en": HOSTILE}

    lines = {CUSTOMER: [line(CUSTOMER, HOSTILE, {"name": HOSTILE, "note": {HOSTILE: [HOSTILE]}})]}
    marks = [Withheld(*CUSTOMER, HOSTILE, HOSTILE, HOSTILE)]
    return page(register=changed(everywhere), lines=lines, name=HOSTILE, withheld=marks, packaged=packaged)


@pytest.mark.parametrize("packaged", [True, False])
def test_hostile_values_stay_text(packaged: bool) -> None:
    found = hostile_page(packaged=packaged)
    parsed = Text(found)
    assert not {"script", "img", "iframe", "object", "form", "link", "base"} & set(parsed.tags)
    assert not [name for name, _ in parsed.attributes if name.startswith("on") or name == "style"]
    assert "<script>alert(1)</script>" in parsed.seen
    assert "49" not in re.findall(r">([^<]*)<", found)


def test_a_page_asks_nobody_for_anything() -> None:
    parsed = Text(page(packaged=True))
    loading = [
        value for name, value in parsed.attributes if name in {"src", "srcset", "action", "poster", "background"}
    ]
    assert not loading
    assert "url(" not in answer.STYLE
    assert "@import" not in answer.STYLE
    for name, value in parsed.attributes:
        if name == "href":
            assert value
            assert value.startswith(("#", "https://", "mailto:", "tel:", "records/", "letter/", "meta/"))


def test_the_style_sheet_is_the_one_that_the_policy_allows() -> None:
    found = page()
    style = re.search(r"<style>(.*?)</style>", found, re.DOTALL)
    assert style
    assert style[1] == answer.STYLE
    assert found.count("<style") == 1
    assert answer.STYLE_SOURCE in answer.POLICY
    assert answer.POLICY.startswith("default-src 'none'")


@pytest.mark.parametrize("language", Language)
@pytest.mark.parametrize("right", [Right.ACCESS, Right.PORTABILITY])
def test_a_page_is_well_formed_for_a_screen_reader(language: Language, right: Right) -> None:
    found = page(language, right=right, packaged=True)
    parsed = Text(found)
    assert f'<html lang="{language}">' in found
    levels = [int(tag[1]) for tag in parsed.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    ids = [value for name, value in parsed.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    anchors = [value[1:] for name, value in parsed.attributes if name == "href" and value and value.startswith("#")]
    assert set(anchors) <= set(ids)
    labelled = [value for name, value in parsed.attributes if name == "aria-labelledby"]
    assert set(labelled) <= set(ids)
    assert parsed.tags.count("main") == 1


def test_no_english_is_left_in_a_danish_letter_and_no_danish_in_an_english_one() -> None:
    assert not re.search(r"\b(the|you|and|we)\b", letter(DA), re.IGNORECASE)
    assert not re.search(r"\b(og|du|vi|ikke|efter)\b", letter(EN), re.IGNORECASE)
