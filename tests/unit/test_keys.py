from pathlib import Path

import pytest
from typer.testing import CliRunner

from habeas.cli import app
from habeas.keys import SERVICES, Keys, KeysMissing, create


def test_a_key_folder_is_made_once_and_never_overwritten(tmp_path: Path) -> None:
    run = CliRunner().invoke
    assert run(app, ["keys", str(tmp_path / "keys")]).exit_code == 0
    before = {path: path.read_bytes() for path in (tmp_path / "keys").rglob("*") if path.is_file()}
    assert run(app, ["keys", str(tmp_path / "keys")]).exit_code == 2
    assert {path: path.read_bytes() for path in before} == before


def test_secrets_of_a_key_folder_are_their_owners_alone(tmp_path: Path) -> None:
    create(tmp_path / "keys")
    private = [path for path in (tmp_path / "keys").rglob("*") if path.is_file() and path.name != "public.json"]
    assert {path.stat().st_mode & 0o777 for path in private} == {0o600}


def test_after_rotation_old_values_open_and_new_ones_take_the_new_key(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    create(folder)
    sealed = Keys("intake", folder).sealer().seal("nordlys", "person", "1", b"words")
    assert CliRunner().invoke(app, ["keys", str(folder), "--rotate"]).exit_code == 0
    sealer = Keys("intake", folder).sealer()
    assert sealer.open("nordlys", "person", "1", sealed) == b"words"
    assert sealer.needs_reseal(sealed)
    assert not sealer.needs_reseal(sealer.seal("nordlys", "person", "1", b"words"))


def test_what_is_no_key_folder_is_not_rotated(tmp_path: Path) -> None:
    assert CliRunner().invoke(app, ["keys", str(tmp_path), "--rotate"]).exit_code == 2


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_reads_no_key_that_others_can_read(tmp_path: Path, service: str) -> None:
    create(tmp_path / "keys")
    (tmp_path / "keys" / service / "token.pem").chmod(0o644)
    with pytest.raises(KeysMissing):
        Keys(service, tmp_path / "keys").issuer()
