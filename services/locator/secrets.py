"""Which secret does the register mean? It names them; here are the values, each organisation's apart from the others'."""

import re
from collections.abc import Mapping
from pathlib import Path

from pydantic import SecretStr

from services.locator.connectors.base import Code, NeedsPerson

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")


class Secrets:
    """Looks secrets up by organisation and name, so that one organisation's register cannot name another's."""

    def __init__(self, known: Mapping[str, Mapping[str, SecretStr]], folder: Path | None = None) -> None:
        """`folder` holds files `<organisation>/<name>`; a file is read again at each use, so that it may be rotated."""
        self._known = known
        self._folder = folder

    def get(self, organisation: str, name: str | None) -> str:
        """Return the secret. Raises `NeedsPerson` if there is none: somebody must set it."""
        found = self._known.get(organisation, {}).get(name or "")
        if found is not None:
            return found.get_secret_value()
        return self._from_file(organisation, name or "")

    def _from_file(self, organisation: str, name: str) -> str:
        if self._folder is None or not (_NAME.fullmatch(organisation) and _NAME.fullmatch(name)):
            raise NeedsPerson(Code.SECRET_MISSING)
        try:
            return (self._folder / organisation / name).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            raise NeedsPerson(Code.SECRET_MISSING) from None
