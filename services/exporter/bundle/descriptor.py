"""How is the package described to programs? Data Package v2, Table Schemas, decisions as JSON and processing in DPV."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from services.exporter import words
from services.exporter.contents import (
    BundlePlan,
    StoredFile,
    Tally,
    not_portable,
    outside_portability,
    recipients,
)
from shared.messages import was_searched
from shared.register import Entity, Purpose, Recipient, Text
from shared.vocabulary import ARTICLE, CONSENTS, DPV_RIGHT, OBJECTABLE_BASES, PORTABLE, PORTABLE_BASES, LegalBasis

KEY = "_key"
"""The column of the record's key. A register field cannot be called so: its names begin with a letter."""

Resource = dict[str, Any]
Row = Sequence[object]

MEDIA_TYPE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,60}/[a-z0-9][a-z0-9.+-]{0,60}")

_ENCODER = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table of ours: name, title, Table Schema type."""

    name: str
    da: str
    en: str
    type: str = "string"
    required: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """One table of ours, with its description."""

    name: str
    path: str
    title: str
    columns: tuple[Column, ...]
    rows: Iterable[Row]
    language: str

    def header(self) -> list[str]:
        """The column names."""
        return [column.name for column in self.columns]

    def schema(self) -> bytes:
        """The Table Schema."""
        fields = []
        for column in self.columns:
            field: dict[str, Any] = {"name": column.name, "type": column.type}
            field["title"] = column.da if self.language == "da" else column.en
            if column.required:
                field["constraints"] = {"required": True}
            fields.append(field)
        return _json({"fields": fields})

    def resource(self, schema: str) -> Resource:
        """What the data package says about it."""
        return _table(schema, self.title)


def data_package(plan: BundlePlan, resources: Sequence[Resource], now: datetime) -> bytes:
    """Return datapackage.json (Data Package v2, readable as v1)."""
    article = ARTICLE[plan.package.right]
    titles = {
        "da": f"Svar efter databeskyttelsesforordningens artikel {article}",
        "en": f"Answer under GDPR Article {article}",
    }
    return _json(
        {
            "$schema": "https://datapackage.org/profiles/2.0/datapackage.json",
            "name": plan.name,
            "id": f"urn:habeas:{plan.register.organisation.id}:{plan.name}",
            "title": titles[plan.package.language],
            "created": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "version": "1.0.0",
            "contributors": [{"title": plan.register.organisation.name, "roles": ["publisher"]}],
            "resources": list(resources),
        }
    )


def resource(path: str, about: Resource, size: int, sha256: str) -> Resource:
    """Return the entry of one written file in the data package."""
    return {"name": path.replace("/", "-"), "path": path, **about, "bytes": size, "hash": f"sha256:{sha256}"}


# --- records -------------------------------------------------------------------------------------------------------


def record_schema(plan: BundlePlan, system: str, entity: str, columns: Iterable[str]) -> bytes:
    """Return the Table Schema of one group: the record's key, then the declared fields as text."""
    rules = plan.register.systems[system].entities[entity].fields
    fields: list[dict[str, Any]] = [{"name": KEY, "type": "string", "constraints": {"required": True, "unique": True}}]
    for name in columns:
        label = rules[name].label
        fields.append({"name": name, "type": "string", "title": _in(label, plan) if label else name})
    return _json({"fields": fields, "primaryKey": [KEY]})


def record_table(plan: BundlePlan, system: str, entity: str, schema: str) -> Resource:
    """Describe the table of one group, and the rule by which its cells differ from the verbatim values."""
    rules = {
        "da": "Celler, som et regneark kunne køre som formler, har en apostrof foran. De ordrette værdier står i raw/.",
        "en": "Cells that a spreadsheet might run as formulas have an apostrophe in front. Verbatim values: see raw/.",
    }
    return _table(schema, _group_title(plan, system, entity)) | {"description": rules[plan.package.language]}


def raw(plan: BundlePlan, system: str, entity: str) -> Resource:
    """Describe the verbatim records of one group: one JSON object a line."""
    return {
        "title": _group_title(plan, system, entity),
        "format": "json-lines",  # "ndjson" would make some readers want a schema; each line may differ
        "mediatype": "application/x-ndjson",
        "encoding": "utf-8",
    }


# --- tables of ours ------------------------------------------------------------------------------------------------

FIELDS = (
    Column("system", "System", "System", required=True),
    Column("entity", "Tabel", "Table", required=True),
    Column("field", "Felt", "Field", required=True),
    Column("label", "Betegnelse", "Label"),
    Column("category", "Kategori", "Category", required=True),
    Column("category_label", "Kategori i ord", "Category in words"),
    Column("purposes", "Formål", "Purposes", required=True),
    Column("legal_basis", "Retsgrundlag (DPV)", "Legal basis (DPV)", required=True),
    Column("data_source", "Kilde", "Source", required=True),
    Column(
        "provided_by_subject", "Givet af dig (også ved brug)", "Provided by you (also by use)", "boolean", required=True
    ),
    Column("retention", "Opbevaring", "Retention"),
    Column("retention_period", "Periode (ISO 8601)", "Period (ISO 8601)"),
    Column("retention_from", "Regnet fra", "Counted from"),
    Column("recipients", "Modtagere", "Recipients"),
)


def fields_table(plan: BundlePlan, tally: Tally) -> Table:
    """Say of every field in the package why it is held, for how long, from whom and who gets it."""
    rows = [
        row
        for system, entity, group in plan.groups()
        if tally.counts.get((system, entity))
        for row in _field_rows(plan, system, entity, group)
    ]
    title = {"da": "Felterne: hvorfor, hvor længe, fra hvem", "en": "The fields: why, for how long, from whom"}
    return _our_table("fields", "records/fields.csv", title, FIELDS, rows, plan)


def _field_rows(plan: BundlePlan, system: str, entity: str, group: Entity) -> Iterable[Row]:
    purposes = [plan.register.purposes[name] for name in group.purposes]
    retentions = [purpose.retention for purpose in purposes]
    shared = (
        " | ".join(_in(retention.label, plan) for retention in retentions),
        " ".join(dict.fromkeys(retention.period for retention in retentions if retention.period)),
        " ".join(dict.fromkeys(retention.anchor for retention in retentions if retention.anchor)),
        " | ".join(recipient.name for recipient in recipients(plan, system, purposes)),
    )
    for name in plan.released_fields(system, entity):
        rule = group.fields[name]
        yield (
            system,
            entity,
            name,
            _in(rule.label, plan) if rule.label else name,
            rule.category,
            _in(plan.register.categories[rule.category].label, plan),
            " ".join(group.purposes),
            " ".join(dict.fromkeys(basis_term(purpose) for purpose in purposes)),
            words.source_kind(group, rule),
            (rule.provided or group.provided) in PORTABLE,
            *shared,
        )


SEARCHED = (
    Column("system", "System", "System", required=True),
    Column("label", "Betegnelse", "Label"),
    Column("state", "Status", "State", required=True),
    Column("records", "Poster fundet", "Records found", "integer"),
    Column("code", "Kode", "Code"),
    Column("explanation", "Forklaring", "Explanation"),
)


def searched_table(plan: BundlePlan) -> Table:
    """Say which systems were searched, which were not, and why."""
    language = plan.package.language
    rows = []
    for found in plan.release.searched:
        searched = was_searched(found.state, found.code)
        why = words.searched(found.state, found.code, language)
        if not searched:
            why = f"{why}. {words.not_searched_why(found.code, language)}"
        label = _in(plan.register.systems[found.system].label, plan)
        rows.append((found.system, label, found.state.value, found.records if searched else None, found.code, why))
    title = {"da": "Hvor der er søgt", "en": "Where we searched"}
    return _our_table("searched", "meta/searched.csv", title, SEARCHED, rows, plan)


REDACTIONS = (
    Column("system", "System", "System", required=True),
    Column("entity", "Tabel", "Table", required=True),
    Column("record", "Post (tom: alle, eller en andens)", "Record (empty: all, or somebody else's)"),
    Column("field", "Felt (tomt: hele posten)", "Field (empty: the whole record)"),
    Column("reason", "Kode", "Code", required=True),
    Column("provision", "Bestemmelse", "Provision"),
    Column("explanation", "Begrundelse", "Explanation"),
)


def redactions_table(plan: BundlePlan, tally: Tally) -> Table:
    """Say what was left out and why; never the content."""
    title = {"da": "Hvad der er udeladt, og hvorfor", "en": "What is left out, and why"}
    return _our_table("redactions", "meta/redactions.csv", title, REDACTIONS, _redactions(plan, tally), plan)


def _redactions(plan: BundlePlan, tally: Tally) -> Iterable[Row]:
    for mark in plan.withheld:
        # Somebody else's record: its key may be their number, so that it is not told.
        key = None if mark.reason == "habeas:not-the-person" else mark.key
        yield _redaction(plan, mark.system, mark.entity, key, mark.field, mark.reason)
    for system, entity, field in sorted(tally.undeclared):
        yield _redaction(plan, system, entity, None, field, "habeas:not-described")
    for system, entity in outside_portability(plan):
        for field, reason in not_portable(plan.register, system, entity).items():
            yield _redaction(plan, system, entity, None, field, reason)


def _redaction(plan: BundlePlan, system: str, entity: str, key: str | None, field: str | None, reason: str) -> Row:
    why, provision = words.reason(reason, plan.package.language, portability=plan.portability)
    return system, entity, key, field, reason, provision, why


# --- documents -----------------------------------------------------------------------------------------------------


def decisions(plan: BundlePlan, tally: Tally) -> bytes:
    """Return meta/decisions.json: outcome and reason code of each record group."""
    return _json(
        {
            "package": plan.name,
            "reference": plan.package.reference,
            "right": f"eu-gdpr:{DPV_RIGHT[plan.package.right]}",
            "article": ARTICLE[plan.package.right],
            "received_on": plan.release.received_on,
            "answered_on": plan.release.answered_on,
            "register_version": plan.package.register_version,
            "searched_by": list(plan.release.search_terms),
            "decided": [decision.model_dump(mode="json") for decision in plan.release.decisions],
            "released": [
                {"system": system, "entity": entity, "records": count}
                for (system, entity), count in tally.counts.items()
            ],
            "held_back": plan.held_back,
        }
    )


def file_list(files: Sequence[StoredFile]) -> bytes:
    """Return meta/files.json: what each stored file was called at its source, and the record that it belongs to."""
    return _json([msgspec.to_builtins(file) for file in files])


def json_about(title_da: str, title_en: str) -> Callable[[BundlePlan], Resource]:
    """Return what the data package says about a JSON document of ours."""

    def about(plan: BundlePlan) -> Resource:
        title = title_da if plan.package.language == "da" else title_en
        return {"title": title, "format": "json", "mediatype": "application/json", "encoding": "utf-8"}

    return about


decisions_about = json_about("Afgørelserne", "The decisions")
files_about = json_about("Filernes oprindelige navne", "The original names of the files")


def processing_about(plan: BundlePlan) -> Resource:
    """Say what the data package says about the DPV document."""
    about = json_about("Behandlingen i DPV", "The processing in DPV")(plan)
    return about | {"format": "jsonld", "mediatype": "application/ld+json"}


def page(name: str, plan: BundlePlan) -> Resource:
    """Describe a page that a person reads."""
    titles = {
        "letter": {"da": "Brevet med svaret", "en": "The letter with the answer"},
        "index": {"da": "Begynd her: svaret til at læse", "en": "Start here: the answer to read"},
    }
    return {
        "title": titles[name][plan.package.language],
        "format": "html",
        "mediatype": "text/html",
        "encoding": "utf-8",
    }


def file(media_type: str) -> Resource:
    """Describe a file of the person, by the media type that the source claims if it is one at all.

    Its format is said to be its own, so that no reader takes somebody's broken CSV for a table of ours.
    """
    claimed = media_type if MEDIA_TYPE.fullmatch(media_type) else "application/octet-stream"
    return {"format": "original", "mediatype": claimed}


# --- DPV -----------------------------------------------------------------------------------------------------------

CONTEXT = {
    "dpv": "https://w3id.org/dpv#",
    "eu-gdpr": "https://w3id.org/dpv/legal/eu/gdpr#",
    "dct": "http://purl.org/dc/terms/",
}
SAFEGUARDS = {"adequacy": "A45-3", "scc": "A46-2-c", "bcr": "A46-2-b", "derogation": "A49-1-g"}


def processing(plan: BundlePlan, tally: Tally) -> bytes:
    """Return meta/processing.jsonld: each purpose in use with basis, data, recipients, storage and rights (DPV 2)."""
    used: dict[str, list[tuple[str, str, Entity]]] = {}
    for system, entity, group in plan.groups():
        if tally.counts.get((system, entity)):
            for name in group.purposes:
                used.setdefault(name, []).append((system, entity, group))
    return _json(
        {
            "@context": CONTEXT,
            "@id": f"urn:habeas:{plan.register.organisation.id}:{plan.name}",
            "@type": "dpv:Process",
            "dpv:hasDataController": {"@type": "dpv:DataController", "dct:title": plan.register.organisation.name},
            "dpv:hasProcess": [_process(plan, name, groups) for name, groups in used.items()],
        }
    )


def _process(plan: BundlePlan, name: str, groups: Sequence[tuple[str, str, Entity]]) -> dict[str, Any]:
    purpose = plan.register.purposes[name]
    categories = dict.fromkeys(rule.category for _, _, group in groups for rule in group.fields.values())
    receivers = {who.name: who for system, _, _ in groups for who in recipients(plan, system, [purpose])}
    base = f"urn:habeas:{plan.register.organisation.id}"
    process: dict[str, Any] = {
        "@type": "dpv:Process",
        "dpv:hasPurpose": {
            "@id": f"{base}:purpose:{name}",
            "@type": "dpv:Purpose",
            "dct:title": _in(purpose.label, plan),
        },
        "dpv:hasPersonalData": [
            {"@id": f"{base}:category:{category}", "dct:title": _in(plan.register.categories[category].label, plan)}
            for category in categories
        ],
        "dpv:hasDataSource": sorted({group.source.kind for _, _, group in groups}),
        "dpv:hasRecipient": [_receiver(who) for who in receivers.values()],
        "dpv:hasStorageCondition": {"@type": "dpv:StorageCondition", "dct:title": _in(purpose.retention.label, plan)},
        "dpv:hasRight": [{"@id": f"eu-gdpr:{right}"} for right in _rights(purpose)],
    }
    if purpose.role != "controller" and purpose.controller:
        process["dpv:hasDataController"] = {"@type": "dpv:DataController", "dct:title": purpose.controller}
    if purpose.legal_basis.normalised is not LegalBasis.UNKNOWN:
        process["dpv:hasLegalBasis"] = {"@id": basis_term(purpose)}
    return process


def _rights(purpose: Purpose) -> list[str]:
    """Which rights a purpose's basis gives beside access (law: right × basis); complaint always."""
    basis = purpose.legal_basis.normalised
    tied = {
        "A20": basis in PORTABLE_BASES and purpose.automated,
        "A21": basis in OBJECTABLE_BASES,
        "A22": purpose.automated_decision is not None,
        "A7-3": basis in CONSENTS,
    }
    return ["A16", "A17", "A18", *(right for right, given in tied.items() if given), "A77"]


def _receiver(recipient: Recipient) -> dict[str, Any]:
    receiver: dict[str, Any] = {"@type": "dpv:Recipient", "dct:title": recipient.name, "dct:spatial": recipient.country}
    if transfer := recipient.transfer:
        receiver["dpv:hasDataTransferTool"] = {"@id": f"eu-gdpr:{SAFEGUARDS[transfer.safeguard]}"}
    return receiver


def basis_term(purpose: Purpose) -> str:
    """Return the legal basis as a DPV term, or `unknown`."""
    basis = purpose.legal_basis.normalised
    return basis.value if basis is LegalBasis.UNKNOWN else f"eu-gdpr:{basis.value}"


# --- helpers -------------------------------------------------------------------------------------------------------


def _our_table(
    name: str, path: str, titles: Mapping[str, str], columns: tuple[Column, ...], rows: Iterable[Row], plan: BundlePlan
) -> Table:
    language = plan.package.language
    return Table(name, path, titles[language], columns, rows, language)


def _table(schema: str, title: str) -> Resource:
    return {
        "title": title,
        "type": "table",
        "format": "csv",
        "mediatype": "text/csv",
        "encoding": "utf-8",
        "schema": schema,
    }


def _group_title(plan: BundlePlan, system: str, entity: str) -> str:
    where = plan.register.systems[system]
    return f"{_in(where.label, plan)}: {_in(where.entities[entity].label, plan)}"


def _in(text: Text, plan: BundlePlan) -> str:
    return text.in_(plan.package.language)


def _json(value: object) -> bytes:
    return msgspec.json.format(_ENCODER.encode(value), indent=1) + b"\n"
