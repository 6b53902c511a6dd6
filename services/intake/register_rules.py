"""Does the register hang together? What a schema cannot say: names that must exist, and what a person must look at.

Rules are generators of (key path, rule, severity); none holds a value of the file. An error makes the register
unusable; a warning means that somebody who knows the law or the organisation must decide.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from ipaddress import ip_network
from itertools import chain
from typing import Literal
from urllib.parse import urlsplit

from jsonpath import JSONPathError
from jsonpath import compile as compile_jsonpath

from services.intake.deadlines import BadDeadlineInput, zone
from services.intake.public_holidays import STATES, UnknownPlace, check_place, is_day_of_year
from services.intake.register_plan import plan
from services.intake.register_yaml import KeyPath
from shared.identifiers import BadIdentifier, normalise
from shared.register import Entity, Finder, HttpAuth, HttpConnector, Purpose, Register, System
from shared.vocabulary import EXECUTED, Assurance, LegalBasis, Right

Severity = Literal["error", "warning"]
Found = tuple[KeyPath, str, Severity]
Rule = Callable[[Register], Iterator[Found]]


def findings(register: Register) -> Iterator[Found]:
    """Return everything wrong or remarkable in a register that has the right shape."""
    return chain.from_iterable(rule(register) for rule in RULES)


def _error(path: KeyPath, rule: str) -> Found:
    return path, rule, "error"


def _warning(path: KeyPath, rule: str) -> Found:
    return path, rule, "warning"


# --- who we are ------------------------------------------------------------------------------------------------------


def _place(register: Register) -> Iterator[Found]:
    organisation = register.organisation
    try:
        zone(organisation.timezone)
    except BadDeadlineInput as bad:
        yield _error(("organisation", "timezone"), str(bad))
    try:
        check_place(organisation.country, organisation.region)
    except UnknownPlace as unknown:
        yield _error(("organisation", "region" if organisation.region else "country"), str(unknown))
    for index, day in enumerate(register.policy.extra_holidays):
        if not is_day_of_year(day):
            yield _error(("policy", "extra_holidays", index), "must be a day of the year as MM-DD, in quotes")


def _contacts(register: Register) -> Iterator[Found]:
    organisation = register.organisation
    emails = {
        ("organisation", "contact", "email"): organisation.contact.email,
        ("organisation", "dpo", "email"): organisation.dpo and organisation.dpo.email,
        ("organisation", "authority", "email"): organisation.authority.email,
    }
    for path, email in emails.items():
        try:
            normalise("email", email or "name@example.dk")
        except BadIdentifier as bad:
            yield _error(path, str(bad))


_PLACEHOLDER = re.compile(r"[<\[{(].*[>\]})]|[xX?.…_-]{2,}|\?|n/?a|tbd|todo|udfyldes", re.IGNORECASE)
_IDENTITY = ("name", "registration", "address")


def _placeholders(register: Register) -> Iterator[Found]:
    for key in _IDENTITY:
        if _PLACEHOLDER.fullmatch((getattr(register.organisation, key) or "").strip()):
            yield _error(("organisation", key), "is still a placeholder: no answer may leave with it (Art. 12(1))")


_OWNER = re.compile(r"\b(owner|ceo|director|founder|ejer|indehaver|direktør|adm\. dir)", re.IGNORECASE)


def _independent_dpo(register: Register) -> Iterator[Found]:
    dpo, contact = register.organisation.dpo, register.organisation.contact
    if dpo is None:
        return
    same = dpo.person is not None and _folded(dpo.person) == _folded(contact.person or "")
    owner = _OWNER.search(dpo.person or "") or _is_named_after(register.organisation.name, dpo.person)
    if same or owner:
        rule = (
            "the DPO looks like the owner or the person who runs this: a person must rule out a conflict (Art. 38(6))"
        )
        yield _warning(("organisation", "dpo"), rule)


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())


def _is_named_after(organisation: str, person: str | None) -> bool:
    surname = _folded(person or "").rpartition(" ")[2]
    return len(surname) > 3 and surname in _folded(organisation).split()


def _policy(register: Register) -> Iterator[Found]:
    for right, who in register.policy.approval.items():
        path: KeyPath = ("policy", "approval", str(right))
        if who == "automatic" and right == "not_found":
            yield _warning(path, "a negative answer leaves without a person having seen it")
        elif who == "automatic" and Right(right) not in EXECUTED:
            yield _warning(path, "has no effect: a person carries out this right")


# --- what we know of people, and why ---------------------------------------------------------------------------------


def _categories(register: Register) -> Iterator[Found]:
    for name, category in register.categories.items():
        if category.special and category.level <= Assurance.CONTROLLED:
            rule = "special categories are opened by a light check: a stronger `assurance` is wise (Art. 9, 32)"
            yield _warning(("categories", name), rule)


def _purposes(register: Register) -> Iterator[Found]:
    for name, purpose in register.purposes.items():
        path: KeyPath = ("purposes", name)
        yield from _missing((*path, "recipients"), purpose.recipients, register.recipients, "recipient")
        yield from _basis((*path, "legal_basis"), purpose)
        if purpose.role == "processor" and purpose.controller is None:
            yield _warning(path, "name the `controller` to whom requests are forwarded (Art. 28(3)(e))")
        if purpose.retention.period and not purpose.retention.anchor:
            yield _warning((*path, "retention"), "a period needs an `anchor`: the event from which it runs")


def _basis(path: KeyPath, purpose: Purpose) -> Iterator[Found]:
    basis = purpose.legal_basis
    if basis.normalised is LegalBasis.UNKNOWN:
        yield _warning((*path, "normalised"), "no basis is known: a person must decide every case under this purpose")
    stated = _stated(basis.stated)
    if stated and basis.normalised not in stated:
        yield _warning(path, "stated and normalised basis differ: rights follow `normalised`; a person must confirm it")
    if basis.normalised is LegalBasis.LEGITIMATE_INTEREST and basis.interest is None:
        yield _warning(path, "name the `interest` that is pursued (Art. 13(1)(d))")
    if basis.normalised is LegalBasis.LEGAL_OBLIGATION and basis.law is None:
        yield _warning(path, "name the `law` that obliges (Art. 6(3))")


_ARTICLE = re.compile(
    r"(?<!\d)(6|9)\W{0,3}(?:stk\.?|para\.?|abs\.?)?\W{0,2}([12])\W{0,3}(?:litra|lit\.?|bogstav|letter)?\W{0,2}([a-j])\b",
    re.IGNORECASE,
)


def _stated(text: str) -> frozenset[str]:
    """Return the bases that a policy's words cite, by DPV local name: `6(1)(b)`, `artikel 6, stk. 1, litra b`."""
    return frozenset(f"A{article}-{para}-{letter.lower()}" for article, para, letter in _ARTICLE.findall(text))


def _transfers(register: Register) -> Iterator[Found]:
    for name, recipient in register.recipients.items():
        if recipient.country not in STATES and recipient.transfer is None:
            yield _warning(
                ("recipients", name), "lies outside the EEA: name the `transfer` and its safeguard (Art. 46)"
            )


# --- where it is -----------------------------------------------------------------------------------------------------


def _systems(register: Register) -> Iterator[Found]:
    for name, system in register.systems.items():
        path: KeyPath = ("systems", name)
        if system.processor is not None:
            yield from _missing((*path, "processor"), [system.processor], register.recipients, "recipient")
        if isinstance(system.connector, HttpConnector):
            yield from _http((*path, "connector"), system.connector)
        for entity in system.entities:
            yield from _entity(register, system, (*path, "entities", entity))


def _http(path: KeyPath, connector: HttpConnector) -> Iterator[Found]:
    url = urlsplit(connector.base_url)
    if url.username or url.password or url.query or url.fragment:
        yield _error((*path, "base_url"), "must be scheme, host, port and path only: secrets are named in `auth`")
    if url.scheme != "https" and not connector.allow_private:
        yield _error((*path, "base_url"), "must be https; http is for systems inside a network in `allow_private`")
    for index, network in enumerate(connector.allow_private):
        if not _is_network(network):
            yield _error((*path, "allow_private", index), "must be a network such as 10.1.2.0/24")
    for header in connector.headers:
        if header.lower() in _SECRET_HEADERS:
            yield _error((*path, "headers"), "must not carry credentials: name the secret in `auth`")
    yield from _auth((*path, "auth"), connector.auth)


_SECRET_HEADERS = frozenset({"authorization", "proxy-authorization", "cookie", "x-api-key"})
_AUTH_NEEDS: dict[str, tuple[str, ...]] = {
    "none": (),
    "bearer": ("secret",),
    "basic": ("secret", "username"),
    "header": ("secret", "header"),
    "oauth2_client_credentials": ("secret", "username", "token_url"),
}


def _auth(path: KeyPath, auth: HttpAuth) -> Iterator[Found]:
    for key in _AUTH_NEEDS[auth.kind]:
        if getattr(auth, key) is None:
            yield _error(path, f"this kind needs `{key}`")


def _is_network(text: str) -> bool:
    try:
        ip_network(text)
    except ValueError:
        return False
    return True


def _entity(register: Register, system: System, path: KeyPath) -> Iterator[Found]:
    entity = system.entities[str(path[-1])]
    yield from _missing((*path, "purposes"), entity.purposes, register.purposes, "purpose")
    yield from _missing((*path, "name_fields"), entity.name_fields, entity.fields, "field of this entity")
    yield from _fields(register, system, path)
    yield from _yields(register, entity, path)
    for kind, finder in entity.find_by.items():
        here: KeyPath = (*path, "find_by", kind)
        yield from _missing(here, [kind], register.identifiers, "identifier")
        yield from _finder(here, system.connector.kind, entity, finder)
    yield from _via(system, path)
    yield from _shape(system.connector.kind, entity, path)


def _fields(register: Register, system: System, path: KeyPath) -> Iterator[Found]:
    for name, rule in system.entities[str(path[-1])].fields.items():
        here = (*path, "fields", name)
        yield from _missing((*here, "category"), [rule.category], register.categories, "category")
        if rule.path is not None and system.connector.kind != "http":
            yield _error((*here, "path"), "only an http system has paths")
        yield from _jsonpath((*here, "path"), rule.path)


def _yields(register: Register, entity: Entity, path: KeyPath) -> Iterator[Found]:
    for kind, field in entity.yields.items():
        here: KeyPath = (*path, "yields", kind)
        yield from _missing(here, [kind], register.identifiers, "identifier")
        yield from _missing(here, [field], entity.fields, "field of this entity")
        if kind in register.identifiers and register.identifiers[kind].assigned_by != "controller":
            yield _warning(here, "opens no further system: it is not assigned by the controller (design §1.8)")


def _finder(path: KeyPath, kind: str, entity: Entity, finder: Finder) -> Iterator[Found]:
    if finder.field is not None and finder.field != entity.key:
        yield from _missing((*path, "field"), [finder.field], entity.fields, "field of this entity")
    if kind == "http":
        yield from _http_finder(path, finder)
    elif finder.path is not None or finder.query:
        yield _error(path, "only an http system is asked by `path` and `query`")
    elif finder.field is None:
        yield _error(path, "needs the `field` that must equal the identifier")


def _http_finder(path: KeyPath, finder: Finder) -> Iterator[Found]:
    if finder.path is None:
        yield _error(path, "an http system needs a `path`")
    elif not re.fullmatch(r"/[^\s?#\\]*", finder.path) or finder.path.startswith("//") or ".." in finder.path:
        yield _error((*path, "path"), "must begin with one slash and have no `..`, `?`, `#` or space")
    if not any("{value}" in text for text in [finder.path or "", *finder.query.values()]):
        yield _error(path, "`path` or `query` must contain {value}, or everybody is found")


def _via(system: System, path: KeyPath) -> Iterator[Found]:
    entity = system.entities[str(path[-1])]
    here = (*path, "via")
    if entity.via is None:
        return
    parent = system.entities.get(entity.via.entity)
    if system.connector.kind != "sql":
        yield _error(here, "only an sql system joins entities")
    if parent is None:
        yield _error((*here, "entity"), "no entity of this system has this name")
        return
    if entity.via.parent_field != parent.key:
        yield from _missing((*here, "parent_field"), [entity.via.parent_field], parent.fields, "field of that entity")
    if _is_circular(system, str(path[-1])):
        yield _error(here, "goes round in a circle")


def _is_circular(system: System, name: str) -> bool:
    seen, entity = {name}, system.entities[name]
    while entity.via is not None and entity.via.entity in system.entities:
        if entity.via.entity in seen:
            return True
        seen.add(entity.via.entity)
        entity = system.entities[entity.via.entity]
    return False


_HTTP_ONLY = ("records", "paging", "absent")


def _shape(kind: str, entity: Entity, path: KeyPath) -> Iterator[Found]:
    """What each kind of connector needs of an entity."""
    if kind != "manual" and entity.key is None:
        yield _error(path, "needs a `key`: the field that tells two records apart")
    if kind == "sql" and entity.table is None:
        yield _error(path, "an sql entity needs its `table`")
    if kind != "sql" and entity.table is not None:
        yield _error((*path, "table"), "only an sql system has tables")
    if kind != "manual" and not entity.find_by and entity.via is None:
        yield _error(path, "cannot be found: it needs `find_by` or `via`")
    for key in () if kind == "http" else _HTTP_ONLY:
        if key in entity.model_fields_set:
            yield _error((*path, key), "only an http system has this")
    if kind == "http":
        yield from _http_entity(entity, path)


def _http_entity(entity: Entity, path: KeyPath) -> Iterator[Found]:
    yield from _jsonpath((*path, "records"), entity.records)
    yield from _jsonpath((*path, "paging", "next"), entity.paging.next)
    if entity.paging.kind == "cursor" and entity.paging.next is None:
        yield _error((*path, "paging"), "paging by cursor needs `next`: where the cursor lies in the answer")
    if entity.key is not None and entity.key not in entity.fields:
        yield _error((*path, "key"), "no field of this entity has this name")


def _jsonpath(path: KeyPath, text: str | None) -> Iterator[Found]:
    try:
        compile_jsonpath(text or "$")
    except JSONPathError:
        yield _error(path, "must be a JSONPath (RFC 9535) such as $.items[*]")


def _missing(path: KeyPath, names: Collection[str], known: Mapping[str, object], what: str) -> Iterator[Found]:
    for name in names:
        if name not in known:
            yield _error(path, f"no {what} has the name that stands here")


# --- does the search reach it? ---------------------------------------------------------------------------------------


def _reach(register: Register) -> Iterator[Found]:
    asked = [name for name, kind in register.identifiers.items() if kind.ask]
    if not asked:
        yield _warning(("identifiers",), "the form asks for no identifier: only a handler can start a search")
    reached = {name for each in plan(register, asked) for name in each} if _refers_soundly(register) else set()
    for name in register.systems:
        if _refers_soundly(register) and name not in reached:
            rule = "no identifier that the form asks for leads here: it is searched only if a handler adds another"
            yield _warning(("systems", name), rule)


def _refers_soundly(register: Register) -> bool:
    """Whether the search plan can be walked at all; if not, an error says so already."""
    return all(
        entity.yields.keys() <= register.identifiers.keys() and not _is_broken(system, name)
        for system in register.systems.values()
        for name, entity in system.entities.items()
    )


def _is_broken(system: System, name: str) -> bool:
    via = system.entities[name].via
    return _is_circular(system, name) or (via is not None and via.entity not in system.entities)


def _names(register: Register) -> Iterator[Found]:
    for name, system in register.systems.items():
        entities = system.entities.values()
        found_by = {kind for entity in entities for kind in entity.find_by} & register.identifiers.keys()
        shared = any(register.identifiers[kind].assigned_by == "person" for kind in found_by)
        if shared and not any(entity.name_fields for entity in entities):
            rule = "has no `name_fields`: a shared or recycled address would not be noticed"
            yield _warning(("systems", name), rule)


def _unused(register: Register) -> Iterator[Found]:
    entities = [entity for system in register.systems.values() for entity in system.entities.values()]
    used: dict[str, set[str]] = {
        "identifiers": {kind for entity in entities for kind in (*entity.find_by, *entity.yields)},
        "categories": {field.category for entity in entities for field in entity.fields.values()},
        "purposes": {purpose for entity in entities for purpose in entity.purposes},
        "recipients": {name for purpose in register.purposes.values() for name in purpose.recipients}
        | {system.processor for system in register.systems.values() if system.processor},
    }
    for block, names in used.items():
        for name in getattr(register, block):
            if name not in names:
                yield _warning((block, name), "nothing refers to this")


RULES: tuple[Rule, ...] = (
    _place,
    _contacts,
    _placeholders,
    _independent_dpo,
    _policy,
    _categories,
    _purposes,
    _transfers,
    _systems,
    _reach,
    _names,
    _unused,
)
