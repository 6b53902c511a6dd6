"""How is a YAML file read that somebody may have got wrong, or made to hurt? Plainly, with a line for every key.

Only mappings, lists, texts, numbers, `true`, `false` and null exist; `NO` is Norway, not false. Refused are tags, merge
keys, duplicate keys, more aliases, depth or nodes than any register needs, and files over 2 MB.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

MAX_BYTES = 2_000_000
MAX_DEPTH = 24
MAX_NODES = 100_000
MAX_ALIASES = 200

TEXT = "tag:yaml.org,2002:str"

KeyPath = tuple[str | int, ...]
SHOWABLE = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,62}")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, or that a person must look at. Never holds a value of the file."""

    line: int
    key: str
    """Where: keys joined by dots; empty for the file as a whole."""
    rule: str
    severity: Literal["error", "warning"] = "error"

    def at(self, path: Path | str) -> str:
        """Return the message as editors read it: `file:line: key: rule`."""
        where = f"{self.key}: " if self.key else ""
        warning = "warning: " if self.severity == "warning" else ""
        return f"{path}:{self.line}: {warning}{where}{self.rule}"


class Unreadable(ValueError):
    """The file is no YAML that we read."""

    def __init__(self, line: int, rule: str, key: str = "") -> None:
        self.finding = Finding(line, key, rule)
        super().__init__(rule)


@dataclass(frozen=True, slots=True)
class Document:
    """What the file says, and on which line each key path stands."""

    value: Any
    lines: dict[KeyPath, int]

    def line(self, path: KeyPath) -> int:
        """Return the line of `path`, or of the nearest block around it."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


def read(path: Path) -> Document:
    """Return the document in `path`. Raises `Unreadable` with the line and the rule."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise Unreadable(0, f"the file cannot be read ({type(error).__name__})") from None
    if len(raw) > MAX_BYTES:
        raise Unreadable(0, "the file must have at most 2 MB")
    try:
        return parse(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise Unreadable(raw.count(b"\n", 0, error.start) + 1, "the file must be UTF-8 text") from None


def parse(text: str) -> Document:
    """Return the document in `text`. Raises `Unreadable`."""
    try:
        node = yaml.compose(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise Unreadable(mark.line + 1 if mark else 1, f"this is not YAML: {_without_values(error.problem)}") from None
    except yaml.YAMLError:
        raise Unreadable(1, "the file must not contain control characters") from None
    if node is None:
        raise Unreadable(1, "the file is empty")
    builder = _Builder()
    return Document(builder.build(node, ()), builder.lines)


def shown(path: KeyPath) -> str:
    """Return a key path for people. A key that looks like text in the wrong place is not shown: it may be anything."""
    return ".".join(str(key) if isinstance(key, int) or SHOWABLE.fullmatch(key) else "(key)" for key in path)


def _without_values(problem: str | None) -> str:
    return re.sub(r"'[^<'][^']*'|\"[^\"]*\"", "…", problem or "unexpected text")


class _Loader(yaml.SafeLoader):
    """Composes nodes and counts on the way. `SafeLoader` is the base, and even its constructors are not used."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.depth = self.aliases = self.nodes = 0

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        """Compose one node, refusing what a register never needs before it grows."""
        event: yaml.Event = self.peek_event()  # type: ignore[no-untyped-call]
        line = event.start_mark.line + 1 if event.start_mark else 1
        self.nodes += 1
        self.aliases += isinstance(event, yaml.AliasEvent)
        if self.nodes > MAX_NODES or self.aliases > MAX_ALIASES:
            raise Unreadable(line, f"the file may say {MAX_NODES:,} things and have {MAX_ALIASES} aliases at most")
        if getattr(event, "tag", None) is not None:
            raise Unreadable(line, "tags (!name) are not read")
        if self.depth >= MAX_DEPTH:
            raise Unreadable(line, f"blocks may be nested {MAX_DEPTH} deep at most")
        self.depth += 1
        node: Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node


for _tag, _pattern, _first in (
    ("bool", r"^(?:true|false)$", "tf"),
    ("null", r"^(?:~|null|)$", "~n\0"),
    ("int", r"^-?(?:0|[1-9][0-9]{0,17})$", "-0123456789"),
    ("float", r"^-?(?:0|[1-9][0-9]{0,17})\.[0-9]{1,17}$", "-0123456789"),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), [*_first, *([""] * (_tag == "null"))]
    )

_SCALARS: dict[str, Callable[[str], Any]] = {
    "bool": lambda text: text == "true",
    "null": lambda _text: None,
    "int": int,
    "float": float,
    "str": str,
}


@dataclass(slots=True)
class _Builder:
    """Turns nodes into values and remembers the lines. Aliases are written out, so nodes are counted again here."""

    lines: dict[KeyPath, int] = field(default_factory=dict)
    nodes: int = 0

    def build(self, node: Node, path: KeyPath) -> Any:
        line = node.start_mark.line + 1
        self.lines.setdefault(path, line)
        self.nodes += 1
        if self.nodes > MAX_NODES or len(path) > MAX_DEPTH:
            raise Unreadable(line, "the file says more than a register can, counting what its aliases repeat")
        if isinstance(node, MappingNode):
            return self._mapping(node, path)
        if isinstance(node, SequenceNode):
            return [self.build(item, (*path, index)) for index, item in enumerate(node.value)]
        return _SCALARS[node.tag.rpartition(":")[2]](node.value)

    def _mapping(self, node: MappingNode, path: KeyPath) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, ScalarNode) or key_node.tag != TEXT:
                raise Unreadable(line, "a key must be a plain word", shown(path))
            key = str(key_node.value)
            here = (*path, key)
            if key in found:
                raise Unreadable(line, "the key stands here twice", shown(here))
            self.lines[here] = line
            found[key] = self.build(value_node, here)
        return found
