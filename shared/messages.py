"""What do the services say to one another? Every body that crosses between two of them.

Forward go identifiers and records; back go only ids, counts, hashes, times and enums (design §1.1).
Control messages are pydantic (checked at the door); records are msgspec (a person may have a million).
"""

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from pydantic import BaseModel, ConfigDict, Field

from shared.vocabulary import Assurance, Language, Outcome, Right, TaskState


class Message(BaseModel):
    """Base: closed and frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True)


# --- forward: intake → locator -------------------------------------------------------------------------------------


class Identifier(Message):
    """One identifier with its proof. `value` is normalised (`shared.identifiers.normalise`)."""

    type: str
    value: str
    assurance: Assurance


class Order(Message):
    """`PUT /orders/{id}` at the locator: find this person. The same id twice is the same order."""

    organisation_id: str
    case_id: str
    right: Right
    verb: Literal["export", "person"]
    """`export`: connectors find and hand over. `person`: each system becomes a task that a person carries out."""
    language: Language
    register_version: str
    package_id: str
    name: str
    """The name that the requester gave; records that carry another are doubtful."""
    identifiers: tuple[Identifier, ...]
    binding_key: str
    """Base64 of 32 bytes: the key of the digests by which the exporter binds records to the person."""


class Accepted(Message):
    """Answer to an order."""

    order_id: str
    state: Literal["open", "located", "cancelled"]


# --- forward: locator → exporter -----------------------------------------------------------------------------------


class Record(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, gc=False):
    """One record as a connector found it: one line of NDJSON in a part. Closed: nothing unseen rides along."""

    system: str
    entity: str
    key: str
    """The record's key in its system; unique within (system, entity)."""
    bound: dict[str, str]
    """Identifier type → the normalised value in the row, join or request path that ties the record to the person."""
    evidence: Literal["field", "join", "path", "manual"]
    fields: dict[str, Any]
    doubt: Literal["name_mismatch", "ambiguous"] | None = None
    files: tuple[str, ...] = ()
    """Names of file parts of the same attempt that belong to this record."""


class PartStored(Message):
    """Answer to `PUT /packages/{id}/tasks/{task}/attempts/{a}/parts/{n}`."""

    bytes: int
    sha256: str


class Commit(Message):
    """`PUT /packages/{id}/tasks/{task}/attempts/{a}`: only a committed attempt is packaged."""

    system: str
    state: Literal[TaskState.FOUND, TaskState.NOTHING, TaskState.NOT_SEARCHED]
    parts: tuple[str, ...] = ()
    """SHA-256 of each part, in order."""
    records: Annotated[int, Field(ge=0)] = 0
    proofs: tuple[str, ...] = ()
    """Digests (`shared.identifiers.digest`) of identifiers that this order proved or discovered so far."""
    code: str | None = None
    """Why a system was not searched, as an enumerated code."""


# --- forward: intake → exporter ------------------------------------------------------------------------------------


class PackagePlan(Message):
    """`PUT /packages/{id}` at the exporter: a package that parts may be sent to."""

    organisation_id: str
    case_id: str
    reference: str
    right: Right
    language: Language
    register_version: str
    binding_key: str
    proofs: tuple[str, ...]


NO_IDENTIFIER = "no-identifier"
"""Code of a system that holds nothing as far as anybody can know: nothing proven led to it, so nobody looked there."""


def was_searched(state: TaskState, code: str | None) -> bool:
    """Whether an answer may say that a system was searched."""
    return state in {TaskState.FOUND, TaskState.NOTHING} and code != NO_IDENTIFIER


class Searched(Message):
    """What became of one system, for the answer. Never silent (issue: a failing system is named)."""

    system: str
    state: TaskState
    records: int = 0
    code: str | None = None


class Decision(Message):
    """What was decided for one record group (entity × purpose), and why."""

    system: str
    entity: str
    purpose: str
    outcome: Outcome
    article: str
    reason: str | None = None
    records: int = 0


class Release(Message):
    """`PUT /packages/{id}/release`: seal what is not withheld and make it collectable."""

    released_by: str
    """`automatic` or `handler:<account id>`."""
    name: str
    received_on: str
    answered_on: str
    searched: tuple[Searched, ...]
    decisions: tuple[Decision, ...]
    search_terms: tuple[str, ...]
    """Identifier types that were searched, not their values."""


class Sealed(Message):
    """Answer to a release."""

    package_id: str
    records: int
    withheld: int
    """Left out by a person's mark, whole or in part."""
    unbound: int
    doubtful: int = 0
    """Held back because nobody confirmed that they are about this person."""
    bytes: int
    sha256: str
    sealed_at: datetime
    expires_at: datetime


# --- back: locator → intake ----------------------------------------------------------------------------------------


class GroupFacts(Message):
    """Facts on one entity: counts only."""

    entity: str
    records: int
    doubtful: int = 0
    to_open: int = 0
    """Records with free text or files, that a person must open before release."""


class Receipt(Message):
    """`PUT /orders/{id}/receipts/{task}/{attempt}` at intake. Order of arrival does not matter."""

    organisation_id: str
    case_id: str
    system: str
    round: int
    state: TaskState
    groups: tuple[GroupFacts, ...] = ()
    code: str | None = None
    identifier_types: tuple[str, ...] = ()
    on_file: tuple[str, ...] = ()
    """Identifier types that this system holds in a field which the person cannot edit alone."""
    order_state: Literal["open", "located"]
    tasks: int | None = None
    """With `located`: how many tasks the order had in all, since receipts arrive in any order."""
    finished_at: datetime
