"""Is what the documents say true: every route, verb, command, setting and link in them, and none missing?"""

import re
import shlex
from pathlib import Path

import pytest
import yaml
from typer.core import TyperGroup
from typer.main import get_command

from gateway.callers import ANONYMOUS, COLLECT, SUBJECT
from gateway.keys import Scope
from gateway.routes import CASE_VERBS, ROUTES
from habeas.cli import app
from services.intake import handling, notify
from services.intake.register import load
from shared.vocabulary import REASONS, Right, Role

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
WORDS = {
    ANONYMOUS: "anyone",
    SUBJECT: "person",
    COLLECT: "collector",
    **{role.value: role.value for role in Role},
    **{scope.value: f"key `{scope.value}`" for scope in Scope},
}


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def rows(page: str) -> list[list[str]]:
    """Return the cells of every table row of a page."""
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def documented() -> dict[str, set[str]]:
    """Return every route of docs/api.md with the callers that it names."""
    found = {}
    for cells in rows(text("docs/api.md")):
        match = re.fullmatch(r"`((?:GET|POST|PUT|DELETE) /\S*)`", cells[0])
        if match:
            found[match[1]] = set(cells[1].split(", "))
    return found


def test_every_route_is_documented_and_every_documented_route_exists() -> None:
    assert documented().keys() == {f"{route.method} {route.template}" for route in ROUTES}


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.template}")
def test_the_page_says_who_may_call(route: object) -> None:
    from gateway.routes import Route

    assert isinstance(route, Route)
    assert documented()[f"{route.method} {route.template}"] == {WORDS[str(who)] for who in route.who}


def test_the_page_says_which_queries_a_route_takes_and_where_a_key_is_needed() -> None:
    for cells in rows(text("docs/api.md")):
        for route in ROUTES:
            if cells[0] == f"`{route.method} {route.template}`":
                named = set(re.findall(r"[?&](\w+)=", cells[2]))
                assert named == set(route.query), cells[0]
                assert ("**key**" in cells[2]) == (route.once == "inner"), cells[0]
                assert ("*key*" in cells[2].replace("**key**", "")) == (route.once == "optional"), cells[0]


def test_every_verb_of_a_case_is_documented_with_the_fields_of_its_body() -> None:
    section = text("docs/api.md").partition("### Verbs of a case")[2].partition("\n## ")[0]
    named = {
        cells[0].strip("`"): set(re.findall(r"`(\w+)`", cells[1])) for cells in rows(section) if cells[0][0] == "`"
    }
    assert named.keys() == CASE_VERBS
    for verb, (model, _function) in handling.VERBS.items():
        assert named[verb] == set(model.model_fields), verb


def test_every_right_is_named() -> None:
    for right in Right:
        assert f"`{right}`" in text("docs/api.md")


def test_the_example_register_of_the_page_is_a_register(tmp_path: Path) -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", text("docs/register.md"), re.DOTALL)
    path = tmp_path / "example.yaml"
    path.write_text(example, encoding="utf-8")
    loaded = load(path)
    assert loaded.warnings == ()
    assert loaded.register.organisation.id == "fjordnet"


def test_the_page_on_registers_names_every_key() -> None:
    from shared import register

    page = text("docs/register.md")
    parts = [kind for kind in vars(register).values() if isinstance(kind, type) and issubclass(kind, register.Part)]
    names = {name for kind in parts for name in kind.model_fields}
    assert sorted(name for name in names if f"`{name}`" not in page) == []


def test_the_page_on_packages_names_every_reason_to_leave_something_out() -> None:
    page = text("docs/package.md")
    assert sorted(reason for reason in REASONS if f"`{reason}`" not in page) == []


def test_the_page_on_webhooks_names_the_events_that_are_told() -> None:
    page = text("docs/webhooks.md")
    for prefix in notify.EVENTS:
        assert f"habeas.{prefix}" in page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://", "#")):
            assert (page.parent / target.partition("#")[0]).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_and_make_target_exists(page: Path) -> None:
    words = page.read_text(encoding="utf-8")
    menu = get_command(app)
    assert isinstance(menu, TyperGroup)
    known = set(menu.commands)
    for name in re.findall(r"(?:`|^ *|bin/)habeas ([a-z-]+)", words, re.MULTILINE):
        assert name in known, name
    targets = set(re.findall(r"^([a-z0-9-]+):", text("Makefile"), re.MULTILINE))
    for name in re.findall(r"(?:`|^ *|&& )make ([a-z0-9-]+)", words, re.MULTILINE):
        assert name in targets, name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    for name in re.findall(
        r"`((?:gateway|services|shared|habeas|tests|examples|docs)/[\w./-]*)`", page.read_text(encoding="utf-8")
    ):
        if not name.startswith("docs/performance"):
            assert (ROOT / name).exists(), name


def test_the_settings_of_the_installation_page_are_read_as_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    import gateway.settings
    import services.exporter.settings
    import services.intake.settings
    import services.locator.settings
    from habeas.installation import Installation

    (block,) = re.findall(r"```ini\n(# /etc/habeas/habeas\.env\n.*?)```", text("docs/install.md"), re.DOTALL)
    for line in block.splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.partition("=")
            monkeypatch.setenv(name, shlex.split(value)[0] if value else "")
    assert Installation().embedded
    door, intake = gateway.settings.Settings(), services.intake.settings.Settings()
    assert door.public_url == intake.public_url
    assert door.secure
    assert intake.mail_host
    assert services.locator.settings.Settings().secrets_dir
    assert services.exporter.settings.Settings().vault


def test_the_menu_of_the_makefile_lists_what_the_readme_promises() -> None:
    assert "make up" in text("README.md")
    assert "make test" in text("README.md")


def test_the_compose_file_is_yaml_that_names_the_four_services() -> None:
    assert {"gateway", "intake", "locator", "exporter", "postgres", "migrate"} == set(
        yaml.safe_load(text("docker-compose.yml"))["services"]
    )
