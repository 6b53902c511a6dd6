"""Which addresses has Habeas, and who may call them? One table; what does not stand in it does not exist.

A row says where a call goes and what it may bring. Nothing is forwarded because it looks like something: methods,
path parameters, query names, content types and callers are all listed here, and anything else is refused.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal
from urllib.parse import parse_qsl, urlencode

from gateway.bodies import BodyKind
from gateway.callers import ANONYMOUS, COLLECT, SUBJECT
from gateway.keys import Scope
from shared.ids import parse_reference
from shared.problems import Invalid, NotFound, Problem
from shared.vocabulary import Role

Service = Literal["gateway", "intake", "locator", "exporter"]
Once = Literal["no", "optional", "inner"]
"""Whether an Idempotency-Key counts. `inner`: the service keeps it itself, in the transaction that creates; machines
and staff must then send one."""
Rule = Literal["open", "prove", "read", "sign-in"]
"""Which allowance an anonymous call draws on (`limits.Floodgate`)."""

ANYONE = frozenset({ANONYMOUS})
PERSON = frozenset({SUBJECT})
COLLECTOR = frozenset({COLLECT})
STAFF = frozenset({Role.HANDLER.value, Role.DPO.value})
READERS = STAFF | {Role.AUDITOR.value, Role.ADMINISTRATOR.value}
TASKS = STAFF | {Role.RESPONDENT.value}
ADMINISTRATORS = frozenset({Role.ADMINISTRATOR.value})
AUDITORS = frozenset({Role.AUDITOR.value, Role.DPO.value})
ACCOUNTS = frozenset(role.value for role in Role)
EVERYBODY = ANYONE | PERSON | ACCOUNTS | {scope.value for scope in Scope}
EVENTS = frozenset({Role.ADMINISTRATOR.value, Role.AUDITOR.value, Scope.EVENTS.value})

PAGE = ("limit", "after")


@dataclass(frozen=True, slots=True)
class Route:
    """One row of the table."""

    method: str
    path: str
    """Public template under `/v1/{organisation}`, or from the root if it begins with `//`."""
    service: Service
    inner: str
    """The service's own path, or the name of the door's own action. `{package}` is asked of intake first."""
    who: frozenset[str]
    body: BodyKind = "none"
    once: Once = "no"
    keeps: tuple[str, ...] | None = None
    """Fields of the answer that a repeated call gets again; None: the answer holds a secret and is not kept."""
    query: tuple[str, ...] = ()
    rule: Rule = "read"
    then: Literal["", "verified", "collect", "collected"] = ""
    """What a successful answer does besides: open a session at a level, or count a package as collected."""

    @property
    def template(self) -> str:
        """The whole public template, as logs and the API description show it."""
        return self.path[1:] if self.is_of_the_house else f"/v1/{{organisation}}{self.path}"

    @property
    def is_of_the_house(self) -> bool:
        """Whether the address belongs to no organisation; credentials, which do, mean nothing there."""
        return self.path.startswith("//")

    @property
    def is_local(self) -> bool:
        return self.service == "gateway"


CASE_VERBS = frozenset(
    {
        "confirm-identity", "ask-identity", "ask-clarification", "resume", "extend", "plan", "approve", "refuse",
        "close", "withdraw", "lapse", "collection-code",
    }
)  # fmt: skip

REQUESTS = (
    Route("GET", "", "intake", "/organisation", EVERYBODY),
    Route("POST", "/requests", "intake", "/requests", ANYONE | {Scope.REQUESTS.value}, "json", "inner", rule="open"),
    Route("POST", "/requests/{reference}/code", "intake", "/requests/{reference}/code", ANYONE, rule="prove"),
    Route("POST", "/requests/{reference}/verification", "intake", "/requests/{reference}/verification",
          ANYONE | PERSON, "json", rule="prove", then="verified"),
    Route("GET", "/requests/{reference}", "intake", "/requests/{reference}", ANYONE | PERSON, query=("lang",)),
    Route("DELETE", "/requests/{reference}", "intake", "/requests/{reference}", PERSON),
    Route("POST", "/requests/{reference}/identifiers", "intake", "/requests/{reference}/identifiers", PERSON, "json"),
    Route("POST", "/requests/{reference}/collection", "intake", "/requests/{reference}/collection", PERSON, "json",
          then="collect"),
    Route("GET", "/requests/{reference}/answer", "exporter", "/packages/{package}/answer", COLLECTOR, query=("lang",)),
    Route("GET", "/requests/{reference}/package", "exporter", "/packages/{package}/archive", COLLECTOR,
          then="collected"),
)  # fmt: skip

CASES = (
    Route("GET", "/cases", "intake", "/cases", READERS, query=("state", "right", "urgent", "due_before", *PAGE)),
    Route("POST", "/cases", "intake", "/cases", STAFF, "json", "inner"),
    Route("GET", "/cases/{case}", "intake", "/cases/{case}", STAFF),
    Route("POST", "/cases/{case}/{verb}", "intake", "/cases/{case}/{verb}", STAFF, "json"),
    Route("GET", "/cases/{case}/letters/{letter}", "intake", "/cases/{case}/letters/{letter}", STAFF),
    Route("POST", "/cases/{case}/letters/{letter}/bounced", "intake", "/cases/{case}/letters/{letter}/bounced", STAFF),
    Route("GET", "/cases/{case}/review", "exporter", "/packages/{package}/review", STAFF),
    Route("GET", "/cases/{case}/records", "exporter", "/packages/{package}/records", STAFF,
          query=("system", "entity", *PAGE)),
    Route("GET", "/cases/{case}/files/{file}", "exporter", "/packages/{package}/files/{file}", STAFF),
    Route("POST", "/cases/{case}/marks", "exporter", "/packages/{package}/marks", STAFF, "json"),
    Route("GET", "/cases/{case}/package", "exporter", "/packages/{package}/archive", STAFF),
    Route("POST", "/cases/{case}/collected", "exporter", "/packages/{package}/collected", STAFF),
    Route("GET", "/tasks", "locator", "/tasks", TASKS, query=("state", "system", "case", *PAGE)),
    Route("GET", "/tasks/{task}", "locator", "/tasks/{task}", TASKS),
    Route("POST", "/tasks/{task}/complete", "locator", "/tasks/{task}/complete", TASKS, "json"),
    Route("PUT", "/tasks/{task}/uploads/{number}", "locator", "/tasks/{task}/uploads/{number}", TASKS, "stream"),
)  # fmt: skip

HOUSE = (
    Route("GET", "/systems", "locator", "/systems", ADMINISTRATORS),
    Route("POST", "/systems/{system}/check", "locator", "/systems/{system}/check", ADMINISTRATORS, "json"),
    Route("GET", "/webhooks", "intake", "/webhooks", ADMINISTRATORS),
    Route("POST", "/webhooks", "intake", "/webhooks", ADMINISTRATORS, "json", "optional"),
    Route("DELETE", "/webhooks/{hook}", "intake", "/webhooks/{hook}", ADMINISTRATORS),
    Route("GET", "/events", "intake", "/events", EVENTS, query=PAGE),
    Route("GET", "/audit", "intake", "/audit", AUDITORS, query=("case", *PAGE)),
    Route("GET", "/audit/verify", "intake", "/audit/verify", AUDITORS),
)

OWN = (
    Route("POST", "/token", "gateway", "sign_in", ANYONE, "json", rule="sign-in"),
    Route("DELETE", "/token", "gateway", "sign_out", ACCOUNTS | PERSON),
    Route("GET", "/account", "gateway", "show_account", ACCOUNTS),
    Route("PUT", "/account/password", "gateway", "change_password", ACCOUNTS, "json"),
    Route("GET", "/accounts", "gateway", "list_accounts", ADMINISTRATORS),
    Route("POST", "/accounts", "gateway", "create_account", ADMINISTRATORS, "json", "optional", ("id", "roles")),
    Route("POST", "/accounts/{account}/disable", "gateway", "disable_account", ADMINISTRATORS),
    Route("POST", "/accounts/{account}/enable", "gateway", "enable_account", ADMINISTRATORS),
    Route("PUT", "/accounts/{account}/password", "gateway", "set_password", ADMINISTRATORS, "json"),
    Route("GET", "/keys", "gateway", "list_keys", ADMINISTRATORS),
    Route("POST", "/keys", "gateway", "create_key", ADMINISTRATORS, "json", "optional"),
    Route("DELETE", "/keys/{key}", "gateway", "revoke_key", ADMINISTRATORS),
    Route("GET", "//health/live", "gateway", "live", ANYONE),
    Route("GET", "//health/ready", "gateway", "ready", ANYONE),
    Route("GET", "//health", "gateway", "ready", ANYONE),
    Route("GET", "//.well-known/habeas-jwks.json", "exporter", "/jwks", ANYONE, query=("organisation",)),
)

ROUTES = REQUESTS + CASES + HOUSE + OWN


class NoSuchAddress(NotFound):
    """There is no such thing here."""


class WrongMethod(Problem):
    """This address takes other methods."""

    status, title, code = 405, "Method not allowed", "method-not-allowed"

    def __init__(self, allow: Iterable[str]) -> None:
        """`allow` are the methods that it takes (RFC 9110 §15.5.6)."""
        super().__init__()
        self.allow = frozenset(allow)


class UnknownQuery(Invalid):
    """The query has a name that this address does not know, one twice, or a value that is no plain text."""


_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[1-8][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", re.ASCII)
_ORGANISATION = re.compile(r"[a-z][a-z0-9-]{1,62}", re.ASCII)
_REFERENCE = re.compile(r"[A-Za-z0-9-]{9,13}", re.ASCII)
_VALUE = re.compile(r"[\x20-\x7e]{0,200}", re.ASCII)

Parse = Callable[[str], str | None]
"""Return the canonical form of a path segment, or None if it is not one."""


def _matching(pattern: re.Pattern[str]) -> Parse:
    return lambda text: text if pattern.fullmatch(text) else None


_uuid = _matching(_UUID)
_PARSERS: dict[str, Parse] = {
    "organisation": _matching(_ORGANISATION),
    "reference": lambda text: parse_reference(text) if _REFERENCE.fullmatch(text) else None,
    "system": _matching(re.compile(r"[a-z][a-z0-9_]{0,62}", re.ASCII)),
    "verb": lambda text: text if text in CASE_VERBS else None,
    "file": _matching(re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}:[0-9]{1,9}:[0-9]{1,9}", re.ASCII)),
    "number": _matching(re.compile(r"[1-9][0-9]{0,4}", re.ASCII)),
}


class Template:
    """One compiled public template."""

    def __init__(self, template: str) -> None:
        self._segments = [_segment(text) for text in template.split("/")[1:]]

    def __len__(self) -> int:
        return len(self._segments)

    def match(self, segments: list[str]) -> dict[str, str] | None:
        """Return the canonical path parameters, or None. `segments` are as many as the template's."""
        found = {}
        for (name, parse), text in zip(self._segments, segments, strict=True):
            value = parse(text)
            if value is None:
                return None
            if name:
                found[name] = value
        return found


def _segment(text: str) -> tuple[str, Parse]:
    if not text.startswith("{"):
        return "", lambda given: given if given == text else None
    name = text.strip("{}")
    return name, _PARSERS.get(name, _uuid)


class Table:
    """The routes, ready to be asked."""

    def __init__(self, routes: Iterable[Route] = ROUTES) -> None:
        self._by_length: dict[int, list[tuple[Template, dict[str, Route]]]] = {}
        methods: dict[str, dict[str, Route]] = {}
        for route in routes:
            methods.setdefault(route.template, {})[route.method] = route
        for template, known in methods.items():
            compiled = Template(template)
            self._by_length.setdefault(len(compiled), []).append((compiled, known))

    def find(self, method: str, path: str) -> tuple[Route, dict[str, str]]:
        """Return the route and its path parameters. Raises `NoSuchAddress` or `WrongMethod`."""
        segments = path.split("/")[1:]
        allowed: set[str] = set()
        for template, known in self._by_length.get(len(segments), ()):
            params = template.match(segments)
            if params is None:
                continue
            if method in known:
                return known[method], params
            allowed.update(known)
        if allowed:
            raise WrongMethod(allowed)
        raise NoSuchAddress


def check_query(raw: bytes, known: tuple[str, ...]) -> dict[str, str]:
    """Return the query's parameters; refuse names that are not `known`, repeated ones and odd values."""
    if not raw:
        return {}
    try:
        pairs = parse_qsl(raw.decode("ascii"), keep_blank_values=True, strict_parsing=True, max_num_fields=20)
    except ValueError:
        raise UnknownQuery from None
    query = dict(pairs)
    plain = all(_VALUE.fullmatch(value) for value in query.values())
    if len(query) != len(pairs) or not query.keys() <= set(known) or not plain:
        raise UnknownQuery
    return query


def inner_path(route: Route, params: Mapping[str, str], query: Mapping[str, str]) -> str:
    """Return the service's path and query. Every parameter was parsed, so none can hold a slash or a question mark."""
    path = route.inner.format(**params)
    return f"{path}?{urlencode(query)}" if query else path
