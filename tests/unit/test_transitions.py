import pytest

from services.intake.transitions import CLOSED, OPEN, TRANSITIONS, WrongState, target
from shared.vocabulary import CaseState


@pytest.mark.parametrize("verb", TRANSITIONS)
@pytest.mark.parametrize("state", CaseState)
def test_every_state_and_verb_either_has_a_place_in_the_table_or_is_refused(verb: str, state: CaseState) -> None:
    rule = TRANSITIONS[verb]
    wanted = min(rule.targets) if len(rule.targets) > 1 else None
    if state in rule.sources:
        assert target(state, verb, wanted) in (rule.targets or {state})
    else:
        with pytest.raises(WrongState):
            target(state, verb, wanted)


def test_a_closed_case_opens_again_only_for_who_offers_more_to_be_found_by() -> None:
    for verb, rule in TRANSITIONS.items():
        if verb == "reopen":
            continue
        for state in CLOSED & rule.sources:
            assert target(state, verb) in CLOSED


def test_every_state_can_be_reached_from_the_beginning() -> None:
    reached = {CaseState.RECEIVED}
    for _ in CaseState:
        for rule in TRANSITIONS.values():
            if rule.sources & reached:
                reached |= rule.targets
    assert reached == set(CaseState)


def test_every_open_state_can_end() -> None:
    for state in OPEN:
        assert any(state in rule.sources and rule.targets & CLOSED for rule in TRANSITIONS.values())


def test_a_step_with_several_ends_must_be_told_which() -> None:
    with pytest.raises(WrongState):
        target(CaseState.IN_PROGRESS, "release")


def test_a_step_cannot_lead_where_the_table_does_not() -> None:
    with pytest.raises(WrongState):
        target(CaseState.IN_PROGRESS, "release", CaseState.REFUSED)
