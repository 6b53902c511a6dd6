"""What may happen to a case, and when? The one table of states and transitions; tests walk it."""

from dataclasses import dataclass
from typing import Final

from shared.problems import Conflict
from shared.vocabulary import CaseState

RECEIVED, IN_PROGRESS = CaseState.RECEIVED, CaseState.IN_PROGRESS
OPEN: Final = frozenset({RECEIVED, IN_PROGRESS})
CLOSED: Final = frozenset(CaseState) - OPEN


class WrongState(Conflict):
    """The case's state does not allow this step."""

    code = "wrong-state"


@dataclass(frozen=True)
class Transition:
    """`verb` may happen in `sources` and leads to one of `targets`; an empty `targets` leaves the state."""

    sources: frozenset[CaseState]
    targets: frozenset[CaseState] = frozenset()


def _to(*targets: CaseState) -> frozenset[CaseState]:
    return frozenset(targets)


TRANSITIONS: Final[dict[str, Transition]] = {
    # identity: Art. 12(6); a light check (a code) never pauses the clock, a recorded doubt does
    "verify": Transition(OPEN, _to(IN_PROGRESS)),
    "confirm-identity": Transition(OPEN, _to(IN_PROGRESS)),
    "ask-identity": Transition(OPEN),
    "offer-identifiers": Transition(OPEN),
    # clarity: recital 63
    "ask-clarification": Transition(OPEN),
    "resume": Transition(OPEN),
    # time: Art. 12(3)
    "extend": Transition(OPEN),
    # the work
    "plan": Transition(_to(IN_PROGRESS)),
    "locate": Transition(_to(IN_PROGRESS)),
    "decide": Transition(_to(IN_PROGRESS)),
    "approve": Transition(_to(IN_PROGRESS)),
    "return": Transition(_to(IN_PROGRESS)),
    "release": Transition(_to(IN_PROGRESS), _to(CaseState.FULFILLED, CaseState.PARTLY_FULFILLED)),
    "close": Transition(_to(IN_PROGRESS), _to(CaseState.FULFILLED, CaseState.PARTLY_FULFILLED, CaseState.REFUSED)),
    # endings
    "refuse": Transition(OPEN, _to(CaseState.REFUSED)),
    "withdraw": Transition(OPEN, _to(CaseState.WITHDRAWN)),
    "lapse": Transition(_to(RECEIVED), _to(CaseState.LAPSED)),
    # after the end: the package lives on; and who offers more to be found by, is looked for again (11(2), 12(2))
    "reopen": Transition(_to(CaseState.FULFILLED, CaseState.PARTLY_FULFILLED), _to(IN_PROGRESS)),
    "collect": Transition(_to(CaseState.FULFILLED, CaseState.PARTLY_FULFILLED)),
    "collection-code": Transition(_to(IN_PROGRESS, CaseState.FULFILLED, CaseState.PARTLY_FULFILLED)),
}


def target(state: CaseState, verb: str, to: CaseState | None = None) -> CaseState:
    """Return the state after `verb`. Raises `WrongState` if it may not happen now or may not lead to `to`."""
    transition = TRANSITIONS[verb]
    if state not in transition.sources:
        raise WrongState
    if not transition.targets:
        return state
    if to is None:
        if len(transition.targets) != 1:
            raise WrongState("this step needs to be told which state it leads to")
        return next(iter(transition.targets))
    if to not in transition.targets:
        raise WrongState
    return to
