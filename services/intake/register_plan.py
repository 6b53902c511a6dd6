"""Where will be looked, given what is known of a person? A preview: what is really there, only the search shows."""

from collections.abc import Collection, Iterator, Mapping
from types import MappingProxyType

from shared.register import Entity, Register, System

Round = Mapping[str, frozenset[str]]
"""System → the identifier types with which it can be asked in this round."""


def plan(register: Register, identifier_types: Collection[str]) -> tuple[Round, ...]:
    """Return in which round each system can first be asked, and with what, given these types of identifiers.

    A record may discover further identifiers; only those that the controller assigned lead on (design §1.8).
    """
    known, asked, rounds = frozenset(identifier_types), set[str](), list[Round]()
    while True:
        found = {name: _accepted(system, known) for name, system in register.systems.items() if name not in asked}
        opened = {name: types for name, types in found.items() if types is not None}
        if not opened:
            return tuple(rounds)
        rounds.append(MappingProxyType(opened))
        asked |= opened.keys()
        known |= {kind for name in opened for kind in _hops(register, register.systems[name], known)}


def _accepted(system: System, known: frozenset[str]) -> frozenset[str] | None:
    """Return the known types that find somebody in this system; None if it cannot be asked yet."""
    types = known & {kind for entity in system.entities.values() for kind in entity.find_by}
    by_name = system.connector.kind == "manual" and any(not entity.find_by for entity in system.entities.values())
    return types if types or (by_name and known) else None


def _hops(register: Register, system: System, known: frozenset[str]) -> Iterator[str]:
    for name in system.entities:
        if _is_reached(system, name, known):
            for kind in system.entities[name].yields:
                if register.identifiers[kind].assigned_by == "controller":
                    yield kind


def _is_reached(system: System, name: str, known: frozenset[str]) -> bool:
    entity: Entity | None = system.entities[name]
    while entity is not None:
        if known & entity.find_by.keys():
            return True
        entity = system.entities[entity.via.entity] if entity.via else None
    return False
