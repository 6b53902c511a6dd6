"""Which keys does an installation have? One folder, a subfolder each service: a service reads no other's secrets.

keys/public.json                 key id → issuer and public key, for checking one another's tokens
keys/<service>/token.pem         signs this service's tokens (ES256)
keys/<service>/keyring.json      seals fields and makes blind indexes
keys/intake/ledger.key           chains the ledger

The keys that sign packages are the exporter's own: one pair an organisation, sealed in its tables.
"""

import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from shared.sealing import Keyring, Sealer
from shared.tokens import Issuer, Verifier, generate_key

SERVICES = ("gateway", "intake", "locator", "exporter")


class KeysMissing(RuntimeError):
    """The key folder does not exist or is incomplete: make one with `habeas keys FOLDER`."""


@dataclass(frozen=True)
class Keys:
    """What one service needs of the key folder."""

    service: str
    folder: Path

    def issuer(self) -> Issuer:
        kid = next(kid for kid, (issuer, _pem) in self._public().items() if issuer == self.service)
        return Issuer(self.service, self._read("token.pem"), kid)

    def verifier(self) -> Verifier:
        return Verifier(self.service, self._public())

    def sealer(self) -> Sealer:
        return Sealer(Keyring.from_file(self._path("keyring.json")))

    def ledger_key(self) -> bytes:
        return bytes.fromhex(self._read("ledger.key"))

    def _public(self) -> dict[str, tuple[str, str]]:
        path = self.folder / "public.json"
        if not path.is_file():
            raise KeysMissing(f"there is no key folder at {self.folder}: make one with `habeas keys {self.folder}`")
        return {kid: (entry["issuer"], entry["key"]) for kid, entry in json.loads(path.read_text()).items()}

    def _path(self, name: str) -> Path:
        return self.folder / self.service / name

    def _read(self, name: str) -> str:
        path = self._path(name)
        if not path.is_file():
            raise KeysMissing(f"{path} is missing: this service cannot start without it")
        if path.stat().st_mode & 0o077:
            raise KeysMissing(f"{path} can be read by others: `chmod 600` it")
        return path.read_text().strip()


def create(folder: Path) -> None:
    """Make a complete key folder. Raises `FileExistsError` where one is: keys are never overwritten."""
    folder.mkdir(parents=True, mode=0o700)
    public = {}
    for service in SERVICES:
        (folder / service).mkdir(mode=0o700)
        private_pem, public_pem, kid = generate_key()
        _write(folder / service / "token.pem", private_pem)
        public[kid] = {"issuer": service, "key": public_pem}
        Keyring.generate().to_file(folder / service / "keyring.json")
    _write(folder / "intake" / "ledger.key", secrets.token_hex(32))
    _write(folder / "public.json", json.dumps(public, indent=2))


def rotate(folder: Path) -> None:
    """Add a new current key to every keyring; what the older ones sealed stays readable. Raises `KeysMissing`."""
    for service in SERVICES:
        path = folder / service / "keyring.json"
        if not path.is_file():
            raise KeysMissing(f"{path} is missing: this is not a key folder")
        fresh = path.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        Keyring.from_file(path).rotated().to_file(fresh)
        fresh.replace(path)


def _write(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
