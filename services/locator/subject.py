"""Who is being looked for? The person of an order, sealed under a key that is destroyed when the order closes."""

import base64
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import delete, insert
from sqlmodel import col, select

from services.locator.desk import Desk
from services.locator.rounds import Known
from services.locator.tables import Identifier, Order
from shared import messages
from shared.database import ReadSession, WriteSession
from shared.identifiers import digest
from shared.ids import new_id
from shared.problems import Gone, Invalid
from shared.sealing import KEY_BYTES, DataSealer, new_data_key
from shared.vocabulary import Assurance

PURPOSE = "locator.order"


class BadBindingKey(Invalid):
    """The binding key has 32 bytes, in base64."""

    code = "bad-binding-key"


class OrderClosed(Gone):
    """The order is closed, and what it knew of the person is destroyed."""

    code = "order-closed"


@dataclass(frozen=True)
class Held:
    """One identifier of an open order, opened."""

    id: str
    hop: int
    value: messages.Identifier

    @property
    def known(self) -> Known:
        return Known(self.id, self.value.type, int(self.value.assurance), self.hop)


@dataclass(frozen=True)
class Person:
    """The person of an open order."""

    name: str = field(repr=False)
    binding_key: bytes = field(repr=False)
    sealer: DataSealer = field(repr=False)
    held: tuple[Held, ...] = field(repr=False)

    @property
    def proofs(self) -> tuple[str, ...]:
        """Digests of every identifier that ties a record to the person."""
        return tuple(sorted(proof(self, item.value) for item in self.proven))

    @property
    def proven(self) -> tuple[Held, ...]:
        return tuple(item for item in self.held if item.known.locates)


def seal(desk: Desk, order_id: str, message: messages.Order) -> tuple[bytes, bytes, DataSealer]:
    """Return a new wrapped data key, the sealed person, and the sealer of the order's fields."""
    data_key = new_data_key()
    wrapped = desk.sealer.wrap(message.organisation_id, PURPOSE, order_id, data_key)
    sealer = DataSealer(data_key)
    facts = {"name": message.name, "binding_key": message.binding_key}
    return wrapped, sealer.seal(f"person:{order_id}", json.dumps(facts).encode()), sealer


def binding_key(text: str) -> bytes:
    """Return the key of an order's digests. Raises `BadBindingKey`."""
    try:
        key = base64.b64decode(text, validate=True)
    except ValueError:
        raise BadBindingKey from None
    if len(key) != KEY_BYTES:
        raise BadBindingKey
    return key


async def unseal(desk: Desk, session: ReadSession | WriteSession, order: Order) -> Person:
    """Return the person of an open order. Raises `OrderClosed`."""
    if order.data_key is None or order.person is None:
        raise OrderClosed
    sealer = DataSealer(desk.sealer.unwrap(order.organisation_id, PURPOSE, order.id, order.data_key))
    facts: dict[str, Any] = json.loads(sealer.open(f"person:{order.id}", order.person))
    query = select(Identifier).where(Identifier.order_id == order.id).order_by(col(Identifier.id))
    rows: Sequence[Identifier] = (await session.exec(query)).all()
    held = tuple(
        Held(
            row.id,
            row.hop,
            messages.Identifier(
                type=row.type,
                value=sealer.open(f"identifier:{row.id}", row.value).decode(),
                assurance=Assurance(row.assurance),
            ),
        )
        for row in rows
    )
    return Person(facts["name"], binding_key(facts["binding_key"]), sealer, held)


def proof(person: Person, identifier: messages.Identifier) -> str:
    """Return the digest by which an identifier ties records to the person."""
    return digest(person.binding_key, identifier.type, identifier.value)


async def add(
    session: WriteSession, order: Order, person: Person, found: Iterable[tuple[messages.Identifier, int]]
) -> Person:
    """Keep identifiers with their hops, each once; return the person as now known."""
    seen = {(item.value.type, item.value.value) for item in person.held}
    new = []
    for identifier, hop in found:
        if (identifier.type, identifier.value) not in seen:
            seen.add((identifier.type, identifier.value))
            new.append(Held(new_id(), hop, identifier))
    if new:
        await session.exec(insert(Identifier), params=[_row(order, person, item) for item in new])
    return replace(person, held=(*person.held, *new))


def _row(order: Order, person: Person, item: Held) -> dict[str, Any]:
    value = item.value
    return {
        "id": item.id,
        "organisation_id": order.organisation_id,
        "order_id": order.id,
        "type": value.type,
        "value": person.sealer.seal(f"identifier:{item.id}", value.value.encode()),
        "value_digest": digest(person.binding_key, value.type, value.value),
        "assurance": int(value.assurance),
        "hop": item.hop,
    }


async def forget(session: WriteSession, order_id: str) -> None:
    """Delete the identifiers of an order; the caller deletes its key in the same transaction."""
    await session.exec(delete(Identifier).where(col(Identifier.order_id) == order_id))
