"""Where is to be searched next? The register, what is known of the person and what was searched give the next tasks.

A system is searched for the identifiers that it accepts; identifiers which the controller assigned, found on the way,
open further systems, round by round, until nothing new comes (a fixpoint; hops and identifiers are bounded). A system
that could never be opened is told too: nothing to search for is not the same as a source that was not searched.
Pure: no clock, no database, no network.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from services.locator.connectors.base import Code
from shared.register import Register, System
from shared.vocabulary import FINAL_TASK_STATES, Assurance, TaskState

NEGATIVE = frozenset({TaskState.NOT_SEARCHED, TaskState.CANCELLED})


@dataclass(frozen=True, slots=True)
class Known:
    """An identifier of the order: given (`hop` 0) or discovered. `id` is its row."""

    id: str
    type: str
    assurance: int
    hop: int

    @property
    def locates(self) -> bool:
        """A claimed identifier never finds anybody (design §1.8)."""
        return self.assurance >= Assurance.CONTROLLED


@dataclass(frozen=True, slots=True)
class Standing:
    """A task as planning sees it."""

    id: str
    system: str
    round: int
    state: TaskState
    identifiers: frozenset[str]
    doubtful: int = 0
    """Records in doubt that would yield identifiers once confirmed."""

    @property
    def is_open(self) -> bool:
        return self.state not in FINAL_TASK_STATES


@dataclass(frozen=True, slots=True)
class NewTask:
    """A task to be made. Queued ones go to a connector, the others are a person's or final at once."""

    system: str
    round: int
    state: TaskState
    identifiers: tuple[str, ...]
    code: Code | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What planning changes."""

    tasks: tuple[NewTask, ...] = ()
    absorbed: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Open person's task → identifiers that came up meanwhile."""
    located: bool = False
    """Nothing is left to search."""


class Atlas:
    """What one version of a register says about where identifiers lead; worked out once."""

    def __init__(self, register: Register) -> None:
        self.systems: Mapping[str, System] = register.systems
        self.accepts = {name: accepts(system) for name, system in register.systems.items()}
        """System → the identifier types by which it can be searched."""
        self._yields = {name: yields(register, system) for name, system in register.systems.items()}
        self.sources = {name: self._sources(name) for name in register.systems}
        """System → the other systems that discover identifiers which it accepts."""

    def opens(self, name: str, identifier: Known) -> bool:
        """Whether `identifier` is something to search the system called `name` for."""
        return identifier.locates and identifier.type in self.accepts[name]

    def _sources(self, name: str) -> frozenset[str]:
        wanted = self.accepts[name]
        return frozenset(other for other, found in self._yields.items() if other != name and found & wanted)


@dataclass(frozen=True, slots=True)
class Limits:
    """How far the search may go before a person takes over."""

    rounds: int = 5
    identifiers: int = 200


def plan_person(atlas: Atlas, known: Collection[Known], tasks: Sequence[Standing]) -> Plan:
    """Plan an order that people carry out: one task for each system, whatever is known."""
    if tasks:
        return Plan(located=not any(task.is_open for task in tasks))
    everything = tuple(identifier.id for identifier in known)
    return Plan(tuple(NewTask(system, 1, TaskState.NEEDS_PERSON, everything, Code.PERSON) for system in atlas.systems))


def plan_search(atlas: Atlas, known: Collection[Known], tasks: Sequence[Standing], limits: Limits) -> Plan:
    """Plan the next tasks of an order that connectors carry out."""
    new: list[NewTask] = []
    absorbed: dict[str, tuple[str, ...]] = {}
    by_system: dict[str, list[Standing]] = {name: [] for name in atlas.systems}
    for task in tasks:
        by_system[task.system].append(task)
    for name, own in by_system.items():
        system = atlas.systems[name]
        fresh = [item for item in known if atlas.opens(name, item) and not _covered(item, own)]
        waiting = next((task for task in own if task.state is TaskState.NEEDS_PERSON), None)
        if waiting is not None and fresh:
            absorbed[waiting.id] = tuple(identifier.id for identifier in fresh)
        elif not any(task.is_open for task in own) and (fresh or (not own and _asks_anyway(system))):
            new.append(_task(name, system, own, fresh, limits, len(known)))
    new += _undetermined(atlas, tasks, new)
    still_open = any(task.is_open for task in tasks) or any(task.state not in FINAL_TASK_STATES for task in new)
    return Plan(tuple(new), absorbed, located=not still_open)


def accepts(system: System) -> set[str]:
    """Return the identifier types by which a system can be searched."""
    return {kind for entity in system.entities.values() for kind in entity.find_by}


def yields(register: Register, system: System) -> set[str]:
    """Return the identifier types that a system discovers and that may open others: those the controller assigns."""
    found = {kind for entity in system.entities.values() for kind in entity.yields}
    return {kind for kind in found if hops(register, kind)}


def hops(register: Register, kind: str) -> bool:
    """Whether an identifier of this type may be followed: only one that the controller assigned (design §1.8)."""
    rule = register.identifiers.get(kind)
    return rule is not None and rule.assigned_by == "controller"


def _covered(identifier: Known, own: Sequence[Standing]) -> bool:
    return any(identifier.id in task.identifiers for task in own)


def _asks_anyway(system: System) -> bool:
    """A person who searches by hand needs no identifier if the register names none: the name will do."""
    return system.connector.kind == "manual" and not accepts(system)


def _task(
    name: str, system: System, own: Sequence[Standing], fresh: Sequence[Known], limits: Limits, known: int
) -> NewTask:
    hop = max((identifier.hop for identifier in fresh), default=0)
    round_ = max(hop + 1, 1 + max((task.round for task in own), default=0))
    state, code = TaskState.QUEUED, None
    if system.connector.kind == "manual":
        state, code = TaskState.NEEDS_PERSON, Code.MANUAL
    elif hop >= limits.rounds:
        state, code = TaskState.NEEDS_PERSON, Code.TOO_MANY_ROUNDS
    elif known >= limits.identifiers:
        state, code = TaskState.NEEDS_PERSON, Code.TOO_MANY_IDENTIFIERS
    return NewTask(name, round_, state, tuple(identifier.id for identifier in fresh), code)


def _undetermined(atlas: Atlas, tasks: Sequence[Standing], new: Sequence[NewTask]) -> Iterator[NewTask]:
    """Yield the end of every system that no task has and that nothing still under way can open."""
    had = {task.system for task in tasks} | {task.system for task in new}
    moving = {task.system for task in tasks if task.is_open}
    moving |= {task.system for task in new if task.state not in FINAL_TASK_STATES}
    never = [name for name in atlas.systems if name not in had]
    while opened := {name for name in never if name not in moving and atlas.sources[name] & moving}:
        moving |= opened
    yield from (_end(name, atlas.sources[name], tasks) for name in never if name not in moving)


def _end(name: str, sources: Collection[str], tasks: Sequence[Standing]) -> NewTask:
    theirs = [task for task in tasks if task.system in sources]
    if any(task.doubtful for task in theirs):
        return NewTask(name, 1, TaskState.NEEDS_PERSON, (), Code.DOUBTFUL_SOURCE)
    searched = {task.system for task in theirs if task.state not in NEGATIVE}
    failed = {task.system for task in theirs if task.state in NEGATIVE} - searched
    if failed:
        return NewTask(name, 1, TaskState.NOT_SEARCHED, (), Code.SOURCE_NOT_SEARCHED)
    return NewTask(name, 1, TaskState.NOTHING, (), Code.NO_IDENTIFIER)
