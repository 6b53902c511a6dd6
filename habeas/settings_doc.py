"""What can be set, as docs/settings.md shows it? Names, defaults and words come from the Settings classes themselves."""

import ast
import inspect
import json
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

from pydantic import SecretStr, TypeAdapter
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

import gateway.settings
import services.exporter.settings
import services.intake.settings
import services.locator.settings
from habeas.installation import Installation

SETTINGS: tuple[type[BaseSettings], ...] = (
    Installation,
    gateway.settings.Settings,
    services.intake.settings.Settings,
    services.locator.settings.Settings,
    services.exporter.settings.Settings,
)


def described(tree: ast.Module) -> dict[str, str | None]:
    """Return what each setting of a module's Settings class says of itself: a description, or the text below it."""
    found: dict[str, str | None] = {}
    for settings in (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and _is_settings(node)):
        below = [*settings.body[1:], ast.Pass()]
        for node, after in zip(settings.body, below, strict=True):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                found[node.target.id] = _description(node) or _text(after)
    return found


def _is_settings(node: ast.ClassDef) -> bool:
    return any(isinstance(base, ast.Name) and base.id == "BaseSettings" for base in node.bases)


def _description(node: ast.AnnAssign) -> str | None:
    if not isinstance(node.value, ast.Call):
        return None
    given = {keyword.arg: keyword.value for keyword in node.value.keywords}
    return _literal(given.get("description"))


def _text(node: ast.stmt) -> str | None:
    return _literal(node.value) if isinstance(node, ast.Expr) else None


def _literal(node: ast.expr | None) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def rows(settings: type[BaseSettings]) -> Iterator[str]:
    """Yield one line of a Markdown table for each setting: name, default, what it means."""
    words = described(ast.parse(Path(inspect.getfile(settings)).read_text(encoding="utf-8")))
    for name, field in settings.model_fields.items():
        told = " ".join((words.get(name) or "").replace("<", "&lt;").split())
        yield f"| `{variable(settings, name)}` | {_default(field)} | {told} |"


def variable(settings: type[BaseSettings], name: str) -> str:
    """Return the environment variable of a setting."""
    return f"{settings.model_config.get('env_prefix', '')}{name}".upper()


def variables() -> frozenset[str]:
    """Return every environment variable that an installation may set."""
    return frozenset(variable(settings, name) for settings in SETTINGS for name in settings.model_fields)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "needed"
    value = field.get_default(call_default_factory=True, validated_data={})
    return "none" if value is None or value in ((), {}) else f"`{_plain(value)}`"


def _plain(value: Any) -> str:
    assert not isinstance(value, SecretStr), "a secret has no default"
    if isinstance(value, (str, Path)) and not isinstance(value, Enum):
        return str(value)
    return json.dumps(TypeAdapter(type(value)).dump_python(value, mode="json"))


if __name__ == "__main__":
    for each in SETTINGS:
        print(f"\n## {each.__module__}\n\n| variable | default | what it is |\n|---|---|---|")
        print("\n".join(rows(each)))
