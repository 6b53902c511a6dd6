"""Matrix Synapse: a program that we did not write, in a virtual environment of its own, as a system to search.

It is installed on demand, once for each version of `requirements-synapse.txt`, into the user's cache.
"""

import fcntl
import hashlib
import hmac
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.e2e.support.planted import HERO, NAMESAKE, ORLA, PORTER, VIBEKE, Someone
from tests.e2e.support.processes import Program, clean_environment, free_port, until

REQUIREMENTS = Path(__file__).parents[1] / "requirements-synapse.txt"
SERVER = "chat.fjordnet.example"
SECRET = "registration-secret-of-the-tests"
UNREACHABLE = ("NewConnectionError", "ConnectTimeout", "Name or service not known", "name resolution", "Read timed out",
               "Connection refused", "Network is unreachable", "ProxyError")  # fmt: skip
"""What pip says when it cannot reach an index. Anything else, a wrong hash above all, is a failure."""


def python() -> Path:
    """Return the interpreter of Synapse's environment, made now if it is not there. Skips where PyPI is not reached."""
    digest = hashlib.sha256(REQUIREMENTS.read_bytes() + sys.version.encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "habeas-tests"
    folder = cache / f"synapse-{digest}"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"synapse-{digest}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            _install(folder)
            (folder / "complete").touch()
    return folder / "bin" / "python"


def _install(folder: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True, capture_output=True)
    pip: list[str | Path] = [
        folder / "bin" / "python",
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
    ]
    done = subprocess.run(
        [*pip, "--require-hashes", "--only-binary", ":all:", "-r", REQUIREMENTS], capture_output=True, text=True
    )
    if done.returncode and any(words in done.stderr for words in UNREACHABLE):
        pytest.skip("matrix-synapse is not installed and PyPI cannot be reached")
    assert done.returncode == 0, done.stderr[-2000:]


@dataclass
class Chat:
    """A running server with its people in it."""

    url: str
    token: str
    program: Program
    held: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    """Account → entity → key → what is in there."""

    def values(self, person: Someone) -> set[str]:
        """What an account holds that may be found nowhere else."""
        mine = self.held.get(account(person), {})
        names = {str(row["upload_name"]) for row in mine.get("upload", {}).values()}
        return names | {key for rows in mine.values() for key in rows} - {""}


def account(person: Someone) -> str:
    return f"@{person.chat_name}:{SERVER}"


def start(folder: Path) -> Chat:
    """Start a server on loopback and fill it."""
    interpreter, port = python(), free_port()
    config = folder / "homeserver.yaml"
    config.write_text(yaml.safe_dump(_config(folder, port)), encoding="utf-8")
    command: list[str | Path] = [interpreter, "-m", "synapse.app.homeserver", "-c", config]
    subprocess.run([*command, "--generate-keys"], check=True, capture_output=True, env=clean_environment({}))
    program = Program("synapse", command, folder, {})
    url = f"http://127.0.0.1:{port}"
    with httpx.Client(base_url=url, timeout=30) as client:
        until(lambda: _answers(client, program), seconds=60, why="Synapse did not start")
        chat = Chat(url, _register_administrator(client), program)
        client.headers["authorization"] = f"Bearer {chat.token}"
        for person, address in _accounts():
            chat.held[account(person)] = _fill(client, person, address)
    return chat


def _accounts() -> list[tuple[Someone, str]]:
    """Everybody with their own address, but the previous owner with the one that is somebody else's by now."""
    return [(HERO, HERO.email), (NAMESAKE, NAMESAKE.email), (PORTER, PORTER.email), (ORLA, VIBEKE.email)]


def _config(folder: Path, port: int) -> dict[str, Any]:
    plenty = {"per_second": 1000, "burst_count": 1000}
    return {
        "server_name": SERVER,
        "public_baseurl": f"http://127.0.0.1:{port}/",
        "listeners": [{"port": port, "type": "http", "tls": False, "bind_addresses": ["127.0.0.1"],
                       "resources": [{"names": ["client", "media"], "compress": False}]}],
        "database": {"name": "sqlite3", "args": {"database": str(folder / "homeserver.db")}},
        "media_store_path": str(folder / "media"),
        "signing_key_path": str(folder / "signing.key"),
        "pid_file": str(folder / "homeserver.pid"),
        "registration_shared_secret": SECRET,
        "macaroon_secret_key": "macaroon-secret-of-the-tests",
        "form_secret": "form-secret-of-the-tests",
        "report_stats": False,
        "trusted_key_servers": [],
        "federation_domain_whitelist": [],
        "rc_message": plenty,
        "rc_login": {"address": plenty, "account": plenty},
    }  # fmt: skip


def _answers(client: httpx.Client, program: Program) -> bool:
    assert not program.ended, program.said()[-2000:]
    try:
        return client.get("/health").status_code == 200
    except httpx.HTTPError:
        return False


def _register_administrator(client: httpx.Client) -> str:
    nonce = client.get("/_synapse/admin/v1/register").json()["nonce"]
    name, password = "root", "password-of-the-tests"
    parts = b"\0".join([nonce.encode(), name.encode(), password.encode(), b"admin"])
    mac = hmac.new(SECRET.encode(), parts, hashlib.sha1).hexdigest()
    body = {"nonce": nonce, "username": name, "password": password, "admin": True, "mac": mac}
    answer = client.post("/_synapse/admin/v1/register", json=body)
    return str(answer.raise_for_status().json()["access_token"])


def _fill(client: httpx.Client, person: Someone, address: str) -> dict[str, dict[str, Any]]:
    """Make one account with two rooms and three uploads; return entity → key → row."""
    me = account(person)
    threepids = [{"medium": "email", "address": address}]
    body = {"password": "password-of-the-tests", "displayname": person.name, "threepids": threepids}
    client.put(f"/_synapse/admin/v2/users/{me}", json=body).raise_for_status()
    token = client.post(f"/_synapse/admin/v1/users/{me}/login", json={}).raise_for_status().json()["access_token"]
    own = {"authorization": f"Bearer {token}"}
    rooms, uploads = {}, {}
    for number in (1, 2):
        room = {"name": f"Om {person.word} {number}", "preset": "private_chat"}
        made = client.post("/_matrix/client/v3/createRoom", json=room, headers=own).raise_for_status().json()
        rooms[made["room_id"]] = {"id": made["room_id"]}
    for number in (1, 2, 3):
        name = f"{person.word} på billede {number}.txt"
        made = client.post(
            "/_matrix/media/v3/upload", params={"filename": name}, content=b"en fil",
            headers={**own, "content-type": "text/plain"},
        )  # fmt: skip
        uploads[made.raise_for_status().json()["content_uri"].rpartition("/")[2]] = {"upload_name": name}
    return {
        "address": {me: {"user_id": me}},
        "account": {me: {"name": me, "displayname": person.name, "addresses": address.lower()}},
        "room": rooms,
        "upload": uploads,
    }
