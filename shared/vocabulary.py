"""Which words does Habeas use? Every closed list that crosses a service boundary stands here once."""

from enum import IntEnum, StrEnum


class Right(StrEnum):
    """A right of the data subject. Values are what the API speaks; articles are in `ARTICLE`."""

    ACCESS = "access"
    RECTIFICATION = "rectification"
    ERASURE = "erasure"
    RESTRICTION = "restriction"
    PORTABILITY = "portability"
    OBJECTION = "objection"
    MARKETING_OBJECTION = "marketing_objection"
    CONSENT_WITHDRAWAL = "consent_withdrawal"
    HUMAN_REVIEW = "human_review"


ARTICLE: dict[Right, str] = {
    Right.ACCESS: "15",
    Right.RECTIFICATION: "16",
    Right.ERASURE: "17",
    Right.RESTRICTION: "18",
    Right.PORTABILITY: "20",
    Right.OBJECTION: "21(1)",
    Right.MARKETING_OBJECTION: "21(2)",
    Right.CONSENT_WITHDRAWAL: "7(3)",
    Right.HUMAN_REVIEW: "22",
}

DPV_RIGHT: dict[Right, str] = {
    Right.ACCESS: "A15",
    Right.RECTIFICATION: "A16",
    Right.ERASURE: "A17",
    Right.RESTRICTION: "A18",
    Right.PORTABILITY: "A20",
    Right.OBJECTION: "A21",
    Right.MARKETING_OBJECTION: "A21",
    Right.CONSENT_WITHDRAWAL: "A7-3",
    Right.HUMAN_REVIEW: "A22",
}
"""Local names in the DPV `eu-gdpr:` module. DPV has one term for both kinds of objection."""

EXECUTED = frozenset({Right.ACCESS, Right.PORTABILITY})
"""Rights that Habeas carries out itself today; the others become tasks for a person."""

URGENT = frozenset({Right.MARKETING_OBJECTION, Right.CONSENT_WITHDRAWAL})
"""Art. 21(3) and 7(3): effect at once, on the claimed contact point, without verification (law.md §0 step 6)."""


class CaseState(StrEnum):
    """States name law, never plumbing; the legal clock knows no `error` (design §1.2)."""

    RECEIVED = "received"
    IN_PROGRESS = "in_progress"
    FULFILLED = "fulfilled"
    PARTLY_FULFILLED = "partly_fulfilled"
    REFUSED = "refused"
    WITHDRAWN = "withdrawn"
    LAPSED = "lapsed"


OPEN_STATES = frozenset({CaseState.RECEIVED, CaseState.IN_PROGRESS})


class Outcome(StrEnum):
    """What became of one record group (law.md §0)."""

    GRANTED = "granted"
    PARTLY_GRANTED = "partly_granted"
    DEFERRED = "deferred"
    REFUSED = "refused"
    NOT_FOUND = "not_found"
    REFERRED = "referred"
    FORWARDED = "forwarded"
    NOT_APPLICABLE = "not_applicable"
    WITHDRAWN = "withdrawn"


class Channel(StrEnum):
    """How a request reached the organisation; any official one starts the clock (deadlines.md rule 1)."""

    WEB = "web"
    API = "api"
    PHONE = "phone"
    LETTER = "letter"
    EMAIL = "email"
    COUNTER = "counter"


class Language(StrEnum):
    """Everything that a person reads is in one of these, chosen by the person."""

    DANISH = "da"
    ENGLISH = "en"


class Assurance(IntEnum):
    """How well an identifier is proven to be the requester's (design §1.8). Higher is stronger."""

    CLAIMED = 0
    CONTROLLED = 10
    ASSERTED = 20
    ON_FILE = 30
    IDENTITY_PROVIDER = 40
    DOCUMENTED = 50


class Role(StrEnum):
    """Roles of handlers' accounts. `subject` and `system` are callers, not accounts."""

    HANDLER = "handler"
    DPO = "dpo"
    AUDITOR = "auditor"
    ADMINISTRATOR = "administrator"
    RESPONDENT = "respondent"


class TaskState(StrEnum):
    """Where one task stands; the last four are final and each is told to the person."""

    QUEUED = "queued"
    RUNNING = "running"
    RETRY = "retry"
    NEEDS_PERSON = "needs_person"
    FOUND = "found"
    NOTHING = "nothing"
    NOT_SEARCHED = "not_searched"
    CANCELLED = "cancelled"


FINAL_TASK_STATES = frozenset({TaskState.FOUND, TaskState.NOTHING, TaskState.NOT_SEARCHED, TaskState.CANCELLED})


class Provided(StrEnum):
    """Where data came from, as Art. 20 asks: provided and observed are portable, derived is not (WP242)."""

    PROVIDED = "provided"
    OBSERVED = "observed"
    DERIVED = "derived"
    THIRD_PARTY = "third_party"


PORTABLE = frozenset({Provided.PROVIDED, Provided.OBSERVED})


class LegalBasis(StrEnum):
    """Legal bases by DPV local name; `unknown` always goes to a person (R41)."""

    CONSENT = "A6-1-a"
    CONTRACT = "A6-1-b"
    LEGAL_OBLIGATION = "A6-1-c"
    VITAL_INTEREST = "A6-1-d"
    PUBLIC_TASK = "A6-1-e"
    LEGITIMATE_INTEREST = "A6-1-f"
    EXPLICIT_CONSENT = "A9-2-a"
    LEGAL_CLAIMS = "A9-2-f"
    UNKNOWN = "unknown"


PORTABLE_BASES = frozenset({LegalBasis.CONSENT, LegalBasis.CONTRACT, LegalBasis.EXPLICIT_CONSENT})
"""Art. 20(1)(a)."""

CONSENTS = frozenset({LegalBasis.CONSENT, LegalBasis.EXPLICIT_CONSENT})
"""What can be withdrawn (Art. 7(3))."""

OBJECTABLE_BASES = frozenset({LegalBasis.PUBLIC_TASK, LegalBasis.LEGITIMATE_INTEREST})
"""Art. 21(1)."""

REASONS = frozenset(
    {
        "habeas:A15-4-third-party",
        "habeas:A15-4-trade-secret",
        "habeas:A15-4-ipr",
        "habeas:DK-DBL-22-1",
        "habeas:DK-DBL-22-2",
        "habeas:A20-not-provided",
        "habeas:A20-basis",
        "habeas:A20-not-automated",
        "habeas:not-the-person",
    }
)
"""Reason codes with which a record or a field may be withheld (law.md §12)."""
