"""What does the measured organisation declare? One register with the systems that a measurement needs."""

from collections.abc import Mapping
from typing import Any

ORGANISATION = "maaling"

_TEXT = {"da": "Måling", "en": "Measurement"}


def register(systems: Mapping[str, Any]) -> dict[str, Any]:
    """Return a register whose access answers leave by themselves, with these systems."""
    return {
        "habeas": 1,
        "organisation": {
            "id": ORGANISATION,
            "name": "Måling ApS",
            "address": "Prøvevej 1, 9990 Skagen",
            "country": "DK",
            "timezone": "Europe/Copenhagen",
            "contact": {"email": "privatliv@maaling.example"},
            "authority": {"name": "Datatilsynet", "url": "https://www.datatilsynet.dk"},
        },
        "policy": {"approval": {"access": "automatic", "not_found": "automatic"}},
        "identifiers": {"email": {"kind": "email", "label": _TEXT, "ask": True}},
        "categories": {"customer": {"label": _TEXT}},
        "purposes": {
            "delivery": {
                "label": _TEXT,
                "legal_basis": {"stated": "Artikel 6, stk. 1, litra b", "normalised": "A6-1-b"},
                "retention": {"period": "P5Y", "label": _TEXT},
            }
        },
        "systems": dict(systems),
    }


def _entity(fields: list[str], **more: Any) -> dict[str, Any]:
    return {
        "label": _TEXT,
        "key": "id",
        "purposes": ["delivery"],
        "fields": {name: {"category": "customer", "label": _TEXT} for name in fields},
        **more,
    }


def crm() -> dict[str, Any]:
    """Return a customer database: people, and what hangs under them. Its URL is the secret `crm_url`."""
    email = {"email": {"field": "email", "exact": True}}
    return {
        "label": _TEXT,
        "connector": {"kind": "sql", "url_secret": "crm_url"},
        "entities": {
            "customer": _entity(["id", "name", "email", "address"], table="customers", find_by=email),
            "event": _entity(
                ["id", "customer_id", "at", "kind", "text"], table="events",
                via={"entity": "customer", "parent_field": "id", "field": "customer_id"},
            ),
        },
    }  # fmt: skip


def slow_api(base_url: str, number: int) -> dict[str, Any]:
    """Return one of many systems behind an HTTP API that takes its time."""
    find = {"email": {"field": "email", "path": f"/systems/{number}/people", "query": {"email": "{value}"}}}
    return {
        "label": _TEXT,
        "connector": {"kind": "http", "base_url": base_url, "allow_private": ["127.0.0.1/32"]},
        "entities": {"person": _entity(["id", "email", "name"], records="$.people", find_by=find)},
    }
