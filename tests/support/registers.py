"""Small registers for tests: what is not the point of a test is filled in."""

from typing import Any

from shared.register import Register

ORG = "nordlys"


def text(words: str = "tekst") -> dict[str, str]:
    return {"da": words, "en": words}


def entity(fields: list[str] | dict[str, dict[str, Any]], **rest: Any) -> dict[str, Any]:
    """One entity; `fields` by name, or with their rules."""
    named = {name: {} for name in fields} if isinstance(fields, list) else fields
    return {
        "label": text(),
        "purposes": ["delivery"],
        "fields": {name: {"category": "contact", **rule} for name, rule in named.items()},
        **rest,
    }


def sql(entities: dict[str, Any], *, secret: str = "crm_url", schema: str | None = None, **rest: Any) -> dict[str, Any]:
    connector = {"kind": "sql", "url_secret": secret, "schema_name": schema}
    return {"label": text(), "connector": connector, "entities": entities, **rest}


def http(entities: dict[str, Any], *, base_url: str, auth: dict[str, Any] | None = None, **rest: Any) -> dict[str, Any]:
    connector = {
        "kind": "http", "base_url": base_url, "allow_private": ["127.0.0.1/32"], "auth": auth or {"kind": "none"},
        "headers": rest.pop("headers", {}),
    }  # fmt: skip
    return {"label": text(), "connector": connector, "entities": entities, **rest}


def manual(entities: dict[str, Any], *, respondent: str | None = None, **rest: Any) -> dict[str, Any]:
    connector = {"kind": "manual", "instructions": text("Se i skabet"), "respondent": respondent}
    return {"label": text(), "connector": connector, "entities": entities, **rest}


def register(systems: dict[str, Any], **rest: Any) -> Register:
    """A register of one organisation with these systems."""
    return Register.model_validate(document(systems, **rest))


def document(systems: dict[str, Any], **rest: Any) -> dict[str, Any]:
    """The same as it stands in a file."""
    return {
        "habeas": 1,
        "organisation": {
            "id": ORG, "name": "Nordlys IT ApS", "address": "Polarvej 7", "country": "DK",
            "timezone": "Europe/Copenhagen", "contact": {"email": "privatliv@nordlys.example"},
            "authority": {"name": "Datatilsynet", "url": "https://www.datatilsynet.dk"},
        },
        "identifiers": {
            "email": {"kind": "email", "label": text()},
            "phone": {"kind": "phone", "label": text()},
            "cpr": {"kind": "cpr", "label": text(), "assigned_by": "state"},
            "login": {"kind": "casefold", "label": text()},
            "customer_number": {"kind": "exact", "label": text(), "assigned_by": "controller"},
            "account": {"kind": "exact", "label": text(), "assigned_by": "controller"},
        },
        "categories": {"contact": {"label": text()}},
        "purposes": {
            "delivery": {
                "label": text(), "legal_basis": {"stated": "aftale", "normalised": "A6-1-b"},
                "retention": {"label": text()},
            }
        },
        "systems": systems,
        **rest,
    }  # fmt: skip
