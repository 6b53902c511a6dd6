"""Does the person read, in every state and both languages, what is true, what comes next and by when?"""

import string
from datetime import UTC, date, datetime
from typing import Any

import pytest

from services.intake.status import HEADLINES, PARAGRAPHS, Status, compose, long_date, received_on
from services.intake.tables import Case
from shared.vocabulary import CaseState, Language, Outcome
from tests.support import registers

DA, EN = Language.DANISH, Language.ENGLISH
REGISTER = registers.register({"crm": registers.manual({"person": registers.entity(["name"])})})
DUE = date(2026, 4, 7)


def case(**changes: Any) -> Case:
    values: dict[str, Any] = {
        "id": "c1", "organisation_id": "nordlys", "reference": "7KQ4-M2XB-9", "right": "access", "state": "received",
        "channel": "web", "language": "da", "register_version": "1", "received_at": datetime(2026, 3, 5, 9, tzinfo=UTC),
        "recorded_at": datetime(2026, 3, 5, 9, tzinfo=UTC), "recorded_by": "anonymous", "due": DUE, "plan_date": DUE,
        "person": b"", "contact_index": "i",
    }  # fmt: skip
    return Case(**(values | changes))


def in_progress(**changes: Any) -> Case:
    return case(state="in_progress", identity="proven", **changes)


def answered(package: str, outcome: Outcome = Outcome.GRANTED, **changes: Any) -> Case:
    state = "fulfilled" if outcome is Outcome.GRANTED else "partly_fulfilled"
    expires = date(2026, 5, 1)
    return case(
        identity="proven", package=package, package_expires=expires, outcome=outcome.value, state=state, **changes
    )


EVERY = {
    "unproven": case(),
    "unproven, asked by letter": case(contact_index=None),
    "working": in_progress(),
    "working, promised": in_progress(promise_due=date(2026, 3, 19)),
    "waived": case(state="in_progress", identity="waived"),
    "identity asked": case(identity="asked", due=None),
    "identity asked while the clock runs": case(identity="asked"),
    "clarification asked while the clock runs": in_progress(awaits_clarification=True),
    "urgent": case(state="in_progress", identity="waived", right="marketing_objection", urgent=True),
    "clarification asked": in_progress(due=None, awaits_clarification=True),
    "ready": answered("sealed"),
    "partly": answered("sealed", Outcome.PARTLY_GRANTED),
    "nothing held": answered("sealed", Outcome.NOT_FOUND),
    "collected": answered("collected", package_collected_at=datetime(2026, 4, 1, tzinfo=UTC)),
    "destroyed": answered("destroyed"),
    "fulfilled by a person": case(state="fulfilled", identity="waived", outcome="granted"),
    "partly fulfilled by a person": case(state="partly_fulfilled", identity="waived", outcome="partly_granted"),
    "refused": case(state="refused", outcome="refused"),
    "withdrawn": case(state="withdrawn", outcome="withdrawn"),
    "lapsed": case(state="lapsed"),
}


def text(told: Status) -> str:
    return "\n".join((told.headline, *told.paragraphs))


@pytest.mark.parametrize("language", Language)
@pytest.mark.parametrize("name", EVERY)
def test_every_situation_has_words_in_both_languages(name: str, language: Language) -> None:
    told = compose(EVERY[name], REGISTER, language)
    assert told.headline in HEADLINES[language.value].values()
    assert told.paragraphs
    assert not set(text(told)) & set("{}")
    assert all(paragraph.endswith(".") for paragraph in told.paragraphs)


def test_every_state_of_the_vocabulary_is_told() -> None:
    assert {item.state for item in EVERY.values()} == {state.value for state in CaseState}


@pytest.mark.parametrize("name", EVERY)
def test_both_languages_tell_the_same(name: str) -> None:
    danish, english = (compose(EVERY[name], REGISTER, language) for language in (DA, EN))
    assert len(danish.paragraphs) == len(english.paragraphs)
    assert danish.outstanding == english.outstanding
    assert danish.headline != english.headline


@pytest.mark.parametrize("name", EVERY)
def test_dates_are_in_words_and_never_in_figures_alone(name: str) -> None:
    for language in Language:
        written = text(compose(EVERY[name], REGISTER, language))
        assert not any(mark in written for mark in ("2026-", "/2026", ".2026", "None"))


def test_what_the_brief_promises_is_what_the_person_reads() -> None:
    told = compose(EVERY["working"], REGISTER, DA)
    assert told == Status(
        "Vi har modtaget din anmodning", ("Du får svar senest 7. april 2026.", "Du skal ikke gøre mere nu."), ()
    )
    assert compose(EVERY["working"], REGISTER, EN).paragraphs == (
        "You will have an answer by 7 April 2026.",
        "There is nothing more for you to do now.",
    )


def test_whoever_must_still_prove_who_they_are_is_told_so_and_by_when_the_answer_comes() -> None:
    told = compose(EVERY["unproven"], REGISTER, DA)
    assert told.headline == "Bekræft, at det er dig"
    assert "otte cifre" in told.paragraphs[0]
    assert "7. april 2026" in told.paragraphs[1]
    assert told.outstanding == ("identity",)


def test_whoever_asked_without_an_address_need_not_prove_anything_online() -> None:
    assert compose(EVERY["unproven, asked by letter"], REGISTER, DA).outstanding == ()


def test_a_promise_is_told_beside_the_laws_date() -> None:
    written = text(compose(EVERY["working, promised"], REGISTER, EN))
    assert "7 April 2026" in written
    assert "19 March 2026" in written


@pytest.mark.parametrize(
    ("name", "outstanding"), [("identity asked", "identity"), ("clarification asked", "clarification")]
)
def test_a_paused_clock_shows_no_date_and_says_whose_turn_it_is(name: str, outstanding: str) -> None:
    told = compose(EVERY[name], REGISTER, DA)
    assert told.headline == "Vi har brug for et svar fra dig"
    assert "står stille" in text(told)
    assert "2026" not in text(told)
    assert told.outstanding == (outstanding,)


def test_a_ready_answer_says_until_when_and_with_what_it_is_collected() -> None:
    told = compose(EVERY["ready"], REGISTER, DA)
    assert told.headline == "Dit svar er klar"
    assert "1. maj 2026" in told.paragraphs[0]
    assert "afhentningskode" in told.paragraphs[0]
    assert told.outstanding == ("collection",)


def test_a_partial_answer_is_never_told_as_a_whole_one() -> None:
    assert "udeladt" in text(compose(EVERY["partly"], REGISTER, DA))
    assert "udeladt" not in text(compose(EVERY["ready"], REGISTER, DA))


def test_nothing_held_says_what_was_searched_and_that_more_may_be_offered() -> None:
    written = text(compose(EVERY["nothing held"], REGISTER, DA))
    assert written.startswith("Vi har ikke fundet oplysninger om dig")
    assert "kun de steder, hvor vi har søgt, og det, vi har søgt med" in written
    assert "oplyse mere" in written


@pytest.mark.parametrize("name", ["identity asked", "clarification asked"])
def test_who_was_asked_while_the_clock_runs_is_not_told_that_there_is_nothing_to_do(name: str) -> None:
    told = compose(EVERY[f"{name} while the clock runs"], REGISTER, DA)
    assert told.headline == "Vi har et spørgsmål til dig"
    assert "Du skal ikke gøre mere" not in text(told)
    assert "7. april 2026" in text(told)


def test_an_urgent_right_takes_effect_at_once_and_is_not_said_to_be_done() -> None:
    written = text(compose(EVERY["urgent"], REGISTER, DA))
    assert "gælder med det samme" in written
    assert "når det er gjort" in written


def test_a_refusal_shows_the_way_to_complain() -> None:
    for name in ("refused", "fulfilled by a person", "lapsed"):
        assert "Datatilsynet" in text(compose(EVERY[name], REGISTER, DA))


def test_whoever_collected_is_told_whom_to_write_to() -> None:
    assert "privatliv@nordlys.example" in text(compose(EVERY["collected"], REGISTER, EN))


def test_both_languages_have_the_same_sentences_with_the_same_blanks() -> None:
    assert HEADLINES["da"].keys() == HEADLINES["en"].keys()
    assert PARAGRAPHS["da"].keys() == PARAGRAPHS["en"].keys()
    for key, danish in PARAGRAPHS["da"].items():
        blanks = [{name for _, name, _, _ in string.Formatter().parse(words[key]) if name}
                  for words in (PARAGRAPHS["da"], PARAGRAPHS["en"])]  # fmt: skip
        assert blanks[0] == blanks[1], danish


def test_every_sentence_is_used() -> None:
    used = "".join(text(compose(item, REGISTER, DA)) for item in EVERY.values())
    for key, words in (HEADLINES["da"] | PARAGRAPHS["da"]).items():
        assert max(words.split("{")[0], words.rpartition("}")[2], key=len) in used, key


@pytest.mark.parametrize(
    ("day", "danish", "english"),
    [
        (date(2026, 4, 7), "7. april 2026", "7 April 2026"),
        (date(2026, 12, 24), "24. december 2026", "24 December 2026"),
        (None, "", ""),
    ],
)
def test_a_date_is_written_as_a_person_writes_it(day: date | None, danish: str, english: str) -> None:
    assert (long_date(day, "da"), long_date(day, "en")) == (danish, english)


def test_the_day_of_receipt_is_the_organisations_own() -> None:
    """23:30 UTC is already the next day in Copenhagen."""
    late = case(received_at=datetime(2026, 3, 5, 23, 30, tzinfo=UTC))
    assert received_on(late, REGISTER) == date(2026, 3, 6)
