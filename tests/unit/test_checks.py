"""Does each rule of `habeas.checks` catch its sin, and leave the innocent alone?"""

import ast
from pathlib import Path

import pytest
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from habeas import checks, settings_doc
from habeas.checks import Rule, Source


def said(rule: Rule, text: str, path: str = "services/intake/thing.py") -> list[str]:
    return list(rule(Source(path, text)))


@pytest.mark.parametrize(
    "text",
    [
        "async def f(session):\n    await session.commit()\n",
        "async def f(session):\n    async with session.begin():\n        pass\n",
        "async def f(session):\n    await session.rollback()\n",
        "def f(self):\n    self.database.connection.commit()\n",
    ],
)
def test_a_commit_outside_the_database_module_is_told_with_its_line(text: str) -> None:
    assert said(checks.transactions, text) == [
        "services/intake/thing.py:2: only shared/database.py opens and ends transactions"
    ]


@pytest.mark.parametrize(
    "text",
    [
        "from services.locator import parts\nasync def f(x): await parts.commit(x)\n",
        "from gateway import idempotency\nasync def f(): await idempotency.begin()\n",
        "async def f(session):\n    async with session.begin_nested(): ...\n",
        "async def f(commit): await commit(1)\n",
    ],
)
def test_a_module_that_calls_something_commit_and_a_savepoint_are_fine(text: str) -> None:
    assert said(checks.transactions, text) == []


@pytest.mark.parametrize("path", ["shared/database.py", "services/locator/connectors/sql.py", "shared/migrating.py"])
def test_where_transactions_belong_nothing_is_said(path: str) -> None:
    assert said(checks.transactions, "async def f(session): await session.commit()\n", path) == []


@pytest.mark.parametrize(
    "call", ["datetime.now(UTC)", "datetime.datetime.now()", "datetime.utcnow()", "date.today()", "time.time()"]
)
def test_asking_for_the_time_is_told(call: str) -> None:
    assert said(checks.present_time, f"x = {call}\n") == [
        "services/intake/thing.py:1: only shared/clock.py asks what time it is; take a Clock"
    ]


def test_a_clock_that_was_passed_in_and_the_clock_itself_are_fine() -> None:
    assert said(checks.present_time, "x = desk.now()\ny = clock()\nz = time.monotonic()\n") == []
    assert said(checks.present_time, "x = datetime.now(UTC)\n", "shared/clock.py") == []


def test_printing_is_told_but_not_on_the_command_line() -> None:
    assert said(checks.prints, "print(1)\n") == [
        "services/intake/thing.py:1: only the command line prints; log ids, counts and enums"
    ]
    assert said(checks.prints, "print(1)\n", "habeas/cli.py") == []
    assert said(checks.prints, "log.info('x')\n") == []


@pytest.mark.parametrize(
    "line",
    [
        "except Exception:",
        "except Exception as error:  # noqa: BLE001",
        "except (ValueError, Exception):",
        "except BaseException:",
        "except:",
        "except builtins.Exception:",
        "except Exception:  # noqa: BLE001 - edge",
    ],
)
def test_a_broad_except_without_a_reason_is_told(line: str) -> None:
    assert said(checks.broad_excepts, f"try:\n    f()\n{line}\n    pass\n") == [
        "services/intake/thing.py:3: a broad `except` needs its reason beside it"
    ]


@pytest.mark.parametrize(
    "text",
    [
        "try:\n    f()\nexcept Exception:  # noqa: BLE001 - the edge of a task: told by type\n    pass\n",
        "try:\n    f()\nexcept BaseException:\n    undo()\n    raise\n",
        "try:\n    f()\nexcept (OSError, ValueError):\n    pass\n",
    ],
)
def test_a_reason_or_passing_the_error_on_is_enough(text: str) -> None:
    assert said(checks.broad_excepts, text) == []


def test_a_setting_without_words_is_told() -> None:
    text = '''
class Settings(BaseSettings):
    model_config = 1
    vault: Path
    """Where packages lie."""
    silent: int = 3
    spoken: int = Field(default=3, description="How many.")
    mute: int = Field(default=3)


class Elsewhere:
    silent: int = 3
'''
    assert said(checks.described_settings, text, "gateway/settings.py") == [
        "gateway/settings.py: the setting `silent` does not say what it is",
        "gateway/settings.py: the setting `mute` does not say what it is",
    ]


@pytest.mark.parametrize(
    "text", ["see " + "/wo" + "rk/shared/design.md", "HOME=" + "/ro" + "ot", "'" + "/ro" + "ot/x'"]
)
def test_a_folder_of_one_machine_is_told(text: str) -> None:
    assert said(checks.places, f"first\n{text}\n", "docs/page.md") == ["docs/page.md:2: names a folder of one machine"]


@pytest.mark.parametrize("host", ["py" + "pi.org", "files.python" + "hosted.org", "registry.npm" + "js.org"])
def test_a_package_registry_is_told(host: str) -> None:
    assert said(checks.places, f"https://{host}/x\n", "package-lock.json") == [
        "package-lock.json:1: names a package registry"
    ]


def test_other_paths_and_hosts_are_fine() -> None:
    text = "/home/habeas/work/x ./work/y src/root/ https://example.dk/root-cause network/ /rooted the /worker\n"
    assert said(checks.places, text, "docs/page.md") == []


@pytest.mark.parametrize(
    "line",
    [
        "--index-url https://mirror.example/index",
        "-e git+ssh://example/x",
        "--find-links folder",
        "thing @ file:///x",
        "--extra-index-url x",
    ],
)
def test_a_requirement_with_an_address_is_told(line: str) -> None:
    assert said(checks.requirements, f"{line}\n", "requirements-dev.txt") == [
        "requirements-dev.txt:1: a pin has no address"
    ]


def test_a_pin_without_a_hash_is_told_and_one_with_is_fine() -> None:
    good = "anyio==4.1 \\\n    --hash=sha256:00\n    # via starlette\nstarlette[full]==1.0 \\\n    --hash=sha256:11\n"
    assert said(checks.requirements, good, "requirements.txt") == []
    assert said(checks.requirements, good + "naked==1.0\n", "requirements.txt") == [
        "requirements.txt: 1 pins have no hash"
    ]
    assert said(checks.requirements, "https://example.dk\n", "docs/requirements.md") == []


def test_a_document_that_names_a_setting_which_does_not_exist_is_told() -> None:
    text = "Set `HABEAS_KEYS`, HABEAS_GATEWAY_HOSTS and HABEAS_NO_SUCH_THING; prefix `HABEAS_GATEWAY_`.\n"
    assert said(checks.variables, text, "docs/install.md") == [
        "docs/install.md: there is no setting HABEAS_NO_SUCH_THING"
    ]


def test_a_variable_that_the_compose_file_fills_in_itself_is_fine() -> None:
    text = "environment:\n  HABEAS_INTAKE_PUBLIC_URL: ${HABEAS_PUBLIC_URL:-http://127.0.0.1:8000}\n"
    assert said(checks.variables, text, "docker-compose.yml") == []
    assert said(checks.variables, "X = 'HABEAS_NO_SUCH_THING'", "tests/x.py") == []


class Example(BaseSettings):
    """For the tests below."""

    model_config = SettingsConfigDict(env_prefix="EXAMPLE_")

    vault: Path
    """Where packages
    lie."""
    names: tuple[str, ...] = ()
    """Folder <organisation>/<name>."""
    most: float = Field(default=2.5, description="How many.")
    off: bool = Field(default=False, description="Whether not.")
    host: str = Field(default="127.0.0.1", description="Where.")


def test_settings_are_shown_with_name_default_and_words() -> None:
    assert list(settings_doc.rows(Example)) == [
        "| `EXAMPLE_VAULT` | needed | Where packages lie. |",
        "| `EXAMPLE_NAMES` | none | Folder &lt;organisation>/&lt;name>. |",
        "| `EXAMPLE_MOST` | `2.5` | How many. |",
        "| `EXAMPLE_OFF` | `false` | Whether not. |",
        "| `EXAMPLE_HOST` | `127.0.0.1` | Where. |",
    ]


def test_a_setting_that_the_page_lacks_or_tells_otherwise_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings_doc, "SETTINGS", (Example,))
    page = "\n".join(settings_doc.rows(Example))
    assert list(checks.documented_settings(page)) == []
    assert len(list(checks.documented_settings(page.replace("2.5", "3")))) == 1
    assert len(list(checks.documented_settings(""))) == 5


def test_an_except_in_a_setting_class_is_no_setting() -> None:
    assert settings_doc.described(ast.parse("class Other:\n    x: int\n")) == {}


def test_rules_for_the_product_reach_no_test_and_no_migration() -> None:
    sin = "print(1)\n"
    paths = ["tests/unit/test_x.py", "services/intake/migrations/versions/aa.py", "examples/x.py"]
    assert [*checks.of_texts(Source(path, sin) for path in paths)] == []
    assert len([*checks.of_texts([Source("gateway/app.py", sin)])]) == 1
