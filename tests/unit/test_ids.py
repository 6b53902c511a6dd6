"""Are ids in order and unlike one another, and does a reference catch what people mistype?"""

import random
import re
import threading
import time
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import ids
from shared.ids import ALPHABET, new_id, new_reference, parse_reference

BODY = st.text(ALPHABET, min_size=8, max_size=8)


def reference(body: str) -> str:
    return f"{body[:4]}-{body[4:]}-{ids._check(body)}"


def test_an_id_is_a_uuid_of_version_7_and_of_the_rfcs_variant() -> None:
    for _ in range(200):
        id = UUID(new_id())
        assert id.version == 7
        assert str(id)[19] in "89ab"


def test_an_id_begins_with_the_milliseconds_since_1970() -> None:
    before = time.time_ns() // 1_000_000
    made = UUID(new_id()).int >> 80
    assert before - 1 <= made <= time.time_ns() // 1_000_000 + 1


def test_ids_of_one_process_sort_in_the_order_they_were_made() -> None:
    made = [new_id() for _ in range(20_000)]
    assert made == sorted(made)
    assert len(set(made)) == len(made)


def test_ids_stay_in_order_when_the_clock_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    first = new_id()
    monkeypatch.setattr(time, "time_ns", lambda: 0)
    assert first < new_id() < new_id()


def test_ids_stay_in_order_when_the_random_part_overflows(monkeypatch: pytest.MonkeyPatch) -> None:
    before = time.time_ns() // 1_000_000 + 10_000
    monkeypatch.setattr(ids, "_last", (before, (1 << 74) - 1))
    made = UUID(new_id())
    assert made.int >> 80 == before + 1
    assert made.version == 7


def test_ids_made_by_many_threads_at_once_are_all_different() -> None:
    made: list[str] = []
    threads = [threading.Thread(target=lambda: made.extend([new_id() for _ in range(2000)])) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 16_000


def test_the_random_part_is_random() -> None:
    """Two processes share no counter: 62 bits of the low half differ from id to id."""
    tails = {UUID(new_id()).int & ((1 << 32) - 1) for _ in range(2000)}
    assert len(tails) > 1990


def test_a_reference_has_no_letters_that_are_taken_for_one_another() -> None:
    assert not set("01OILU") & set(ALPHABET)
    for _ in range(200):
        assert re.fullmatch(rf"[{ALPHABET}]{{4}}-[{ALPHABET}]{{4}}-[{ALPHABET}]", new_reference())


def test_a_reference_is_its_own_canonical_form() -> None:
    for _ in range(200):
        made = new_reference()
        assert parse_reference(made) == made


@given(BODY)
def test_a_reference_is_read_however_it_was_typed(body: str) -> None:
    right = reference(body)
    for typed in (
        right.lower(),
        right.replace("-", ""),
        right.replace("-", " "),
        f"  {right}\n",
        right.replace("-", "–"),
    ):
        assert parse_reference(typed) == right


@given(BODY, st.integers(0, 8), st.sampled_from(ALPHABET))
def test_every_single_wrong_character_is_caught(body: str, place: int, wrong: str) -> None:
    raw = reference(body).replace("-", "")
    if raw[place] != wrong:
        assert parse_reference(raw[:place] + wrong + raw[place + 1 :]) is None


def test_nearly_all_swapped_neighbours_are_caught() -> None:
    dice, swapped, missed = random.Random(7), 0, 0
    for _ in range(5000):
        raw = reference("".join(dice.choices(ALPHABET, k=8))).replace("-", "")
        place = dice.randrange(8)
        if raw[place] != raw[place + 1]:
            swapped += 1
            missed += parse_reference(raw[:place] + raw[place + 1] + raw[place] + raw[place + 2 :]) is not None
    assert missed / swapped < 0.01


@given(st.text(max_size=40))
def test_anything_else_is_no_reference(text: str) -> None:
    found = parse_reference(text)
    assert found is None or re.fullmatch(r"\w{4}-\w{4}-\w", found, re.ASCII)


@pytest.mark.parametrize("text", ["", "-", "7KQ4-M2XB", "7KQ4-M2XB-99", str(uuid4())])
def test_too_short_or_too_long_is_no_reference(text: str) -> None:
    assert parse_reference(text) is None


def test_a_million_guesses_meet_no_reference_by_chance() -> None:
    """30^8 bodies, so a guess among a million open cases meets one in about 650,000 tries; the door counts tries."""
    assert len(ALPHABET) ** 8 > 6.5e11
