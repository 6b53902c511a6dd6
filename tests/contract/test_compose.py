"""Does docker-compose.yml fit the code: is it valid, and does each service read what the file gives it?"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import gateway.settings
import services.exporter.settings
import services.intake.settings
import services.locator.settings
from habeas import keys, roles
from habeas.installation import Installation
from habeas.settings_doc import variables

ROOT = Path(__file__).parents[2]
GIVEN = {"HABEAS_MAIL_HOST": "mail.example.dk", "HABEAS_MAIL_FROM": "rights@example.dk"}
"""What an operator must set; everything else has a default in the file."""
OWN_SETTINGS = {
    "gateway": gateway.settings.Settings,
    "intake": services.intake.settings.Settings,
    "locator": services.locator.settings.Settings,
    "exporter": services.exporter.settings.Settings,
}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    return found


def filled(value: str) -> str:
    """Fill `${NAME:-default}` and `${NAME:?message}` in as Compose does, with what an operator must give."""

    def fill(match: re.Match[str]) -> str:
        name, kind, rest = match.groups()
        return GIVEN[name] if kind == ":?" else GIVEN.get(name, rest)

    return re.sub(r"\$\{(\w+)(:[-?])([^}]*)\}", fill, value)


def environment(compose: dict[str, Any], service: str) -> dict[str, str]:
    return {name: filled(value) for name, value in compose["services"][service]["environment"].items()}


def test_the_compose_file_is_valid() -> None:
    program = shutil.which("docker-compose")
    if program is None:
        pytest.skip("docker-compose is not installed (.ci/system-packages installs it)")
    done = subprocess.run(
        [program, "-f", str(ROOT / "docker-compose.yml"), "config", "-q"],
        env={"PATH": os.environ["PATH"], **GIVEN}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    without = subprocess.run(
        [program, "-f", str(ROOT / "docker-compose.yml"), "config", "-q"],
        env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert without.returncode != 0
    assert "set the mail server" in without.stderr


def test_the_dockerfile_has_no_lint() -> None:
    program = Path(sys.executable).with_name("hadolint")
    if not program.exists():
        pytest.skip("hadolint is not in this environment (requirements-dev.txt has it)")
    done = subprocess.run([program, str(ROOT / "Dockerfile")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_what_the_dockerfile_copies_is_there() -> None:
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    copied = [name for line in lines if line.startswith("COPY ") for name in line.split()[1:-1]]
    assert copied
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    for name in copied:
        assert (ROOT / name).exists(), name
        assert name not in ignored


@pytest.mark.parametrize("service", OWN_SETTINGS)
def test_each_service_reads_what_the_file_gives_it(
    compose: dict[str, Any], service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("HABEAS_")]:
        monkeypatch.delenv(name)
    for name, value in environment(compose, service).items():
        assert name in variables(), f"{service}: there is no setting {name}"
        monkeypatch.setenv(name, value)
    installation = Installation()
    assert not installation.embedded
    assert installation.port == 8000
    assert f"//{roles.role(service)}@postgres/" in installation.database_url
    OWN_SETTINGS[service]()
    assert compose["services"][service]["command"] == ["serve", service]


def test_the_settings_that_matter_are_set(compose: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for service in OWN_SETTINGS:
        for name, value in environment(compose, service).items():
            monkeypatch.setenv(name, value)
    intake, door = services.intake.settings.Settings(), gateway.settings.Settings()
    assert intake.mail_host == GIVEN["HABEAS_MAIL_HOST"]
    assert intake.mail_username is None
    assert intake.mail_password is None
    assert intake.public_url == door.public_url
    assert "127.0.0.1" in door.allowed_hosts  # the image's health check asks under that name
    assert services.locator.settings.Settings().secrets_dir == Path("/run/systems")
    for url in Installation().urls.values():
        assert url.removeprefix("http://").removesuffix(":8000") in compose["services"]


def test_each_service_gets_its_own_keys_and_password_and_no_others(compose: dict[str, Any], tmp_path: Path) -> None:
    keys.create(tmp_path / "keys")
    for service in OWN_SETTINGS:
        given = {line.split(":")[1]: line.split(":")[0] for line in compose["services"][service]["volumes"]}
        assert given["/run/database"] == f"./secrets/roles/{service}"
        mounted = {source.removeprefix("./") for target, source in given.items() if target.startswith("/run/keys")}
        assert mounted == {"keys/public.json", f"keys/{service}"}
        for name in mounted:
            assert (tmp_path / name).exists()


def test_only_the_gateway_can_be_reached_and_only_from_this_machine(compose: dict[str, Any]) -> None:
    ports = {name: service["ports"] for name, service in compose["services"].items() if "ports" in service}
    assert ports == {"gateway": ["127.0.0.1:8000:8000"]}


def test_no_service_runs_as_root_or_may_write_outside_its_volumes(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        if name != "postgres":
            assert (service["user"], service["read_only"], service["cap_drop"]) == ("10001", True, ["ALL"])
            writable = [line for line in service["volumes"] if not line.endswith(":ro")]
            assert writable == (["vault:/var/lib/habeas/vault"] if name == "exporter" else [])
