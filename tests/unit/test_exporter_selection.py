"""Whatever is found and marked, nothing leaves that may not."""

import struct
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from services.exporter.parts import DOUBTFUL, HAS_FILES, TO_OPEN
from services.exporter.selection import Fate, IndexedPart, RecordMarks, Rule, select

ENTRY = struct.Struct("<15sBBH")
FLAGS = st.sampled_from([0, DOUBTFUL, TO_OPEN, TO_OPEN | HAS_FILES, DOUBTFUL | TO_OPEN])
LINES = st.lists(st.tuples(st.integers(0, 9), FLAGS, st.integers(0, 1)), max_size=30)
MARKS = st.dictionaries(
    st.integers(0, 9),
    st.builds(
        RecordMarks,
        withheld=st.none() | st.just("reason"),
        fields=st.dictionaries(st.sampled_from(["body", "note"]), st.just("reason")),
        opened=st.booleans(),
        confirmed=st.booleans(),
    ),
)
RULE = st.builds(
    Rule,
    granted=st.booleans(),
    free_text=st.sampled_from([frozenset(), frozenset({"body"}), frozenset({"body", "note"})]),
    files=st.booleans(),
)
GROUP = ("crm", "customer")


def digest(key: int) -> bytes:
    return bytes([key]) * 15


def part(lines: list[tuple[int, int, int]]) -> IndexedPart:
    index = b"".join(ENTRY.pack(digest(key), 0, flags, binding) for key, flags, binding in lines)
    facts: list[dict[str, Any]] = [
        {"entity": "customer", "records": len(lines), "bound": [[["proven"], 0], [["other"], 0]]}
    ]
    return IndexedPart("crm", facts, index)


@given(st.lists(LINES, max_size=3), MARKS, RULE)
def test_only_what_passes_every_rule_is_released_and_every_record_has_one_fate(
    parts: list[list[tuple[int, int, int]]], marks: dict[int, RecordMarks], rule: Rule
) -> None:
    by_digest = {digest(key): mark for key, mark in marks.items()}
    selection = select([part(lines) for lines in parts], by_digest, frozenset({"proven"}), {GROUP: rule})

    assert sum(selection.total(fate) for fate in Fate) == sum(map(len, parts))
    released = [(piece.part, line) for piece in selection.released.get(GROUP, []) for line in piece.lines]
    assert len(released) == selection.total(Fate.RELEASED)
    keys = [parts[number][line][0] for number, line in released]
    assert len(keys) == len(set(keys))
    for number, line in released:
        key, flags, binding = parts[number][line]
        mark = marks.get(key, RecordMarks())
        assert rule.granted
        assert binding == 0
        assert mark.withheld is None
        assert mark.confirmed or not flags & DOUBTFUL
        free_text_leaves = not rule.free_text <= mark.fields.keys()
        files_leave = flags & HAS_FILES and rule.files
        assert mark.opened or not flags & TO_OPEN or not (free_text_leaves or files_leave)
        assert (number, line) in released
        assert bool(mark.fields) == (line in selection.marked.get(number, {}))
        assert bool(files_leave) == (line in selection.with_files.get(number, []))


@given(LINES)
def test_without_marks_a_sound_record_always_leaves(lines: list[tuple[int, int, int]]) -> None:
    rule = Rule(granted=True, free_text=frozenset(), files=False)
    selection = select([part(lines)], {}, frozenset({"proven"}), {GROUP: rule})
    sound = {key for key, flags, binding in lines if binding == 0 and not flags & DOUBTFUL}
    assert selection.total(Fate.RELEASED) == len(sound)
