"""What does the organisation hold, why, and how is a person found there? The register's shape (GDPR Art. 30).

The file is YAML; `services.intake.register` reads, checks and versions it. The locator and the exporter get the
version that a case was opened under, as JSON of this model (docs/decisions/0002).
"""

import re
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from shared.vocabulary import Assurance, Language, LegalBasis, Provided, Right

Slug = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
OrganisationId = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{1,62}$")]
HttpsUrl = Annotated[str, Field(pattern=r"^https://[^\s]+$", max_length=500)]
JsonPath = Annotated[str, Field(pattern=r"^\$", max_length=200)]


class Part(BaseModel):
    """Base of every block: closed (an unknown key is an error) and frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Text(Part):
    """A text in both languages that Habeas speaks."""

    da: str = Field(min_length=1)
    en: str = Field(min_length=1)

    def in_(self, language: Language | str) -> str:
        """Return the text in `language` (`da` or `en`)."""
        return self.da if language == "da" else self.en


class Contact(Part):
    """Whom a person writes to about their rights (R1, R7)."""

    email: str
    phone: str | None = None
    person: str | None = None


class Authority(Part):
    """The supervisory authority, as data: addresses change (R9)."""

    name: str
    email: str | None = None
    phone: str | None = None
    address: str | None = None
    url: HttpsUrl


class Organisation(Part):
    """The tenant: controller (or processor) in whose name Habeas answers."""

    id: OrganisationId
    name: str = Field(min_length=1)
    registration: str | None = None
    """Company number, shown in letters: CVR in Denmark."""
    address: str = Field(min_length=1)
    country: Annotated[str, Field(pattern=r"^[A-Z]{2}$")]
    region: str | None = None
    """Subdivision for public holidays, as the `holidays` library names it."""
    timezone: str
    contact: Contact
    dpo: Contact | None = None
    authority: Authority
    privacy_policy: HttpsUrl | None = None


class Policy(Part):
    """What the organisation has chosen or promised, where the law leaves a choice."""

    approval: dict[Right | Literal["not_found"], Literal["automatic", "person"]] = Field(default_factory=dict)
    """Who approves an answer. Missing means a person: nothing negative is ever automatic (law.md §9)."""
    answer_within_days: int | None = Field(default=None, ge=1, le=31)
    """A promise shorter than the law, counted in calendar days without roll (deadlines.md rule 8)."""
    extra_holidays: tuple[str, ...] = ()
    """Further public holidays `MM-DD` that move the last day (deadlines.md §3). The strict default is none."""
    package_days: int = Field(default=30, ge=1, le=365)
    """Days that a sealed package can be collected before it is destroyed."""


class IdentifierType(Part):
    """Something that finds a person. Only one assigned by the controller may open further systems (design §1.8)."""

    kind: Literal["email", "phone", "cpr", "exact", "casefold"] = "exact"
    label: Text
    assigned_by: Literal["controller", "person", "state"] = "person"
    ask: bool = False
    """Whether the public form offers a field for it."""
    pattern: str | None = None

    @model_validator(mode="after")
    def _pattern_compiles(self) -> Self:
        try:
            re.compile(self.pattern or "")
        except re.error:
            raise ValueError("the pattern must be a regular expression") from None
        return self


class Category(Part):
    """A kind of personal data, and what a person must prove before it is handed over."""

    label: Text
    special: bool = False
    assurance: Literal["controlled", "on_file", "identity_provider", "documented"] = "controlled"

    @property
    def level(self) -> Assurance:
        """The assurance that this category demands."""
        return Assurance[self.assurance.upper()]


class Basis(Part):
    """The legal basis as the policy states it, and as it truly is (R40): rights follow `normalised`."""

    stated: str
    normalised: LegalBasis
    interest: Text | None = None
    law: str | None = None


class Retention(Part):
    """How long, from which event; either a period or a criterion that a person can check (Art. 15(1)(d))."""

    anchor: Slug | None = None
    period: Annotated[str, Field(pattern=r"^P(\d+Y)?(\d+M)?(\d+D)?$")] | None = None
    law: str | None = None
    label: Text


class Purpose(Part):
    """Why data is processed (Art. 15(1)(a)). A record group is an entity under one purpose."""

    label: Text
    role: Literal["controller", "joint", "processor"] = "controller"
    controller: str | None = None
    legal_basis: Basis
    automated: bool = True
    recipients: tuple[Slug, ...] = ()
    retention: Retention
    automated_decision: Text | None = None
    """Logic, significance and consequences of an Art. 22 decision, if one is taken under this purpose."""


class Transfer(Part):
    """A transfer to a third country and its safeguard (Art. 15(2), 46)."""

    country: str
    safeguard: Literal["adequacy", "scc", "bcr", "derogation"]
    copy_at: str | None = None


class Recipient(Part):
    """Somebody who gets the data: named, as C-154/21 demands."""

    name: str
    role: Literal["processor", "controller", "joint", "authority"]
    for_what: Text | None = None
    country: str = "DK"
    transfer: Transfer | None = None
    link: HttpsUrl | None = None


class FieldRule(Part):
    """One field of an entity."""

    category: Slug
    label: Text | None = None
    provided: Provided | None = None
    free_text: bool = False
    """Free text may name others: a person opens it before it is released."""
    on_file: bool = False
    """The person cannot change this field alone: a proven identifier that stands in it counts as on file (design §1.8)."""
    path: JsonPath | None = None
    """Where the value lies in an HTTP answer; the field's own name when missing."""
    column: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """SQL: the column's name; the field's own name when missing."""


class Finder(Part):
    """How an entity is asked for one identifier type. In YAML a bare string is `field`."""

    field: Slug | None = None
    """The field (column) that must equal the identifier; also what binds the record to the person."""
    path: str | None = None
    """HTTP: path with `{value}`; the value is percent-encoded."""
    query: dict[str, str] = Field(default_factory=dict)
    """HTTP: query parameters; `{value}` is replaced."""
    exact: bool = False
    """SQL: the column holds normal forms only (an e-mail in lower case, +45…), so that its plain index serves."""

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: object) -> object:
        return {"field": value} if isinstance(value, str) else value


class Via(Part):
    """SQL: the entity has no identifier itself and is reached through its parent's rows."""

    entity: Slug
    parent_field: Slug
    field: Slug


class Paging(Part):
    """HTTP: how the next page is asked for."""

    kind: Literal["none", "page", "offset", "cursor", "link"] = "none"
    parameter: str = "page"
    size_parameter: str | None = None
    size: int = Field(default=100, ge=1, le=10_000)
    start: int = 1
    next: JsonPath | None = None
    """JSONPath of the next cursor in the answer (kind `cursor`)."""


class Source(Part):
    """Where the data comes from, told when it is not the person (Art. 15(1)(g))."""

    kind: Literal["person", "observed", "controller", "third_party", "public"]
    label: Text | None = None


class Entity(Part):
    """One table, endpoint or drawer of a system."""

    label: Text
    table: str | None = None
    key: Slug | None = None
    records: JsonPath | None = None
    paging: Paging = Paging()
    absent: tuple[int, ...] = (404,)
    """HTTP status codes that mean "no such person here"."""
    find_by: dict[Slug, Finder] = Field(default_factory=dict)
    via: Via | None = None
    yields: dict[Slug, Slug] = Field(default_factory=dict)
    """Identifier type → field: what a record of this entity discovers."""
    name_fields: tuple[Slug, ...] = ()
    """Fields that together hold the person's name; compared with the requester's (design §1.8)."""
    stands_for_person: bool | None = None
    """Whether each row is one person, so that two rows under one identifier are two persons (a customer is, a ticket is
    not). Missing: if it has name fields, and yields identifiers or has other entities hanging under it."""
    purposes: tuple[Slug, ...] = Field(min_length=1)
    source: Source = Source(kind="person")
    provided: Provided = Provided.PROVIDED
    fields: dict[Slug, FieldRule] = Field(min_length=1)


class SqlConnector(Part):
    """Any database that SQLAlchemy reaches. The URL is a secret: the register only names it."""

    kind: Literal["sql"]
    url_secret: Slug
    schema_name: str | None = None


class HttpAuth(Part):
    """How the HTTP connector proves itself; the secret is named, never written."""

    kind: Literal["none", "bearer", "basic", "header", "oauth2_client_credentials"] = "none"
    secret: Slug | None = None
    username: str | None = None
    header: str | None = None
    token_url: str | None = None
    scope: str | None = None


class HttpConnector(Part):
    """A JSON API, declared."""

    kind: Literal["http"]
    base_url: Annotated[str, Field(pattern=r"^https?://[^\s{}]+$")]
    allow_private: tuple[str, ...] = ()
    """Networks (CIDR) outside the public internet that this system may lie in; an administrator's explicit entry."""
    auth: HttpAuth = HttpAuth()
    headers: dict[str, str] = Field(default_factory=dict)


class ManualConnector(Part):
    """A system that only a person can search."""

    kind: Literal["manual"]
    instructions: Text
    respondent: str | None = None


class System(Part):
    """What one connector reaches."""

    label: Text
    connector: Annotated[SqlConnector | HttpConnector | ManualConnector, Field(discriminator="kind")]
    processor: Slug | None = None
    """The recipient that runs the system for us, if another does."""
    rate_per_second: float = Field(default=20, gt=0)
    concurrency: int = Field(default=4, ge=1, le=64)
    timeout_seconds: float = Field(default=30, gt=0, le=600)
    repeat: Literal["natural", "keyed", "check", "never"] = "natural"
    tries: int = Field(default=5, ge=1, le=20)
    entities: dict[Slug, Entity] = Field(min_length=1)


class Register(Part):
    """The controller's record of processing, executable."""

    habeas: Literal[1]
    organisation: Organisation
    policy: Policy = Policy()
    identifiers: dict[Slug, IdentifierType] = Field(min_length=1)
    categories: dict[Slug, Category] = Field(min_length=1)
    purposes: dict[Slug, Purpose] = Field(min_length=1)
    recipients: dict[Slug, Recipient] = Field(default_factory=dict)
    systems: dict[Slug, System] = Field(min_length=1)
