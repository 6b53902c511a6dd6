"""Does the tree itself keep its rules, and would a broken migration be seen?"""

from pathlib import Path

import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table

from habeas import checks
from shared.migrating import Owner


def _owner(folder: Path, name: str, *revisions: tuple[str, str | None], table: Table | None = None) -> Owner:
    """An owner in a package of its own whose history has these revisions; the first makes `<name>_thing`."""
    package = folder / name
    (package / "migrations" / "versions").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    for revision, down in revisions:
        body = (
            f"    op.create_table('{name}_thing', sa.Column('id', sa.Integer, primary_key=True))"
            if not down
            else "    pass"
        )
        (package / "migrations" / "versions" / f"{revision}.py").write_text(
            f"import sqlalchemy as sa\nfrom alembic import op\nrevision = {revision!r}\ndown_revision = {down!r}\n"
            f"branch_labels = None\ndepends_on = None\n\ndef upgrade():\n{body}\n\ndef downgrade(): ...\n"
        )
    metadata = table.metadata if table is not None else MetaData()
    if table is None:
        Table(f"{name}_thing", metadata, Column("id", Integer, primary_key=True))
    return Owner(name, name, metadata)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_a_history_with_two_ends_is_told(folder: Path) -> None:
    owner = _owner(folder, "forked", ("aa", None), ("bb", "aa"), ("cc", "aa"))
    (sentence,) = checks.histories([owner])
    assert sentence.startswith("forked/migrations: the history has 2 ends, it needs one: ")
    assert list(checks.histories([_owner(folder, "straight", ("aa", None), ("bb", "aa"))])) == []


def test_a_column_that_no_migration_makes_is_told(folder: Path) -> None:
    wider = Table("wider_thing", MetaData(), Column("id", Integer, primary_key=True), Column("extra", String(9)))
    owner = _owner(folder, "wider", ("aa", None), table=wider)
    (sentence,) = checks.tables(f"sqlite:///{folder}/db.sqlite", (owner,), "SQLite")
    assert sentence.startswith("SQLite: models and migrations differ: add_column wider_thing extra")


def test_a_table_that_the_models_forgot_is_told(folder: Path) -> None:
    other = Table("forgetful_other", MetaData(), Column("id", Integer, primary_key=True))
    owner = _owner(folder, "forgetful", ("aa", None), table=other)
    told = list(checks.tables(f"sqlite:///{folder}/db.sqlite", (owner,), "SQLite"))
    assert any("remove_table forgetful_thing" in sentence for sentence in told)


def test_models_and_migrations_that_agree_are_fine(folder: Path) -> None:
    owner = _owner(folder, "agreeing", ("aa", None))
    assert list(checks.tables(f"sqlite:///{folder}/db.sqlite", (owner,), "SQLite")) == []


def test_the_walk_passes_over_hidden_made_and_binary_files(tmp_path: Path) -> None:
    for name in (".venv/x.py", ".ci/run", "build/x.py", "a.egg-info/PKG", "gateway/app.py", ".gitignore"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x = 1\n")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\xff\xfe")
    assert [source.path for source in checks.texts(tmp_path)] == [".ci/run", ".gitignore", "gateway/app.py"]


def test_this_tree_keeps_its_rules() -> None:
    page = (checks.ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert [*checks.of_texts(checks.texts(checks.ROOT)), *checks.documented_settings(page)] == []
