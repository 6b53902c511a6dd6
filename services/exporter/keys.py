"""With which key does an organisation sign its packages? Made at first need, sealed, published for good."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sqlalchemy.exc import IntegrityError
from sqlmodel import col, select

from services.exporter.signing import Signer, new_key
from services.exporter.tables import SigningKey
from shared.clock import Clock
from shared.database import Database
from shared.sealing import Sealer

_PURPOSE = "exporter.signing"


@dataclass(frozen=True, slots=True)
class Signing:
    """What signs one package: `sign` makes a compact JWS of the bytes it is given, `jwks` are the public keys."""

    sign: Callable[[bytes], str]
    jwks: Mapping[str, Any]


class SigningKeys:
    """Signing keys by organisation. The newest signs; retired ones stay published (standards §3)."""

    def __init__(self, database: Database, sealer: Sealer, clock: Clock) -> None:
        self._database, self._sealer, self._clock = database, sealer, clock

    async def current(self, organisation: str) -> Signing:
        """Return what signs this organisation's packages, made now if it is the first."""
        rows = await self._rows(organisation) or await self._first(organisation)
        newest = rows[-1]
        pem = self._sealer.open(organisation, _PURPOSE, newest.kid, newest.private).decode()
        return Signing(Signer(pem, newest.kid).sign, _jwks(rows))

    async def published(self, organisation: str) -> Mapping[str, Any]:
        """Return the public keys as a JWK set (RFC 7517); an organisation that never signed has none."""
        return _jwks(await self._rows(organisation))

    async def rotate(self, organisation: str) -> None:
        """Sign with a new key from now on."""
        await self._add(organisation, len(await self._rows(organisation)) + 1)

    async def _rows(self, organisation: str) -> list[SigningKey]:
        async with self._database.read(organisation) as session:
            return list((await session.exec(select(SigningKey).order_by(col(SigningKey.number)))).all())

    async def _first(self, organisation: str) -> list[SigningKey]:
        with suppress(IntegrityError):  # another process made the first key at the same time: there is one
            await self._add(organisation, 1)
        return await self._rows(organisation)

    async def _add(self, organisation: str, number: int) -> None:
        pem = new_key()
        signer = Signer(pem)
        row = SigningKey(
            organisation_id=organisation,
            number=number,
            kid=signer.kid,
            private=self._sealer.seal(organisation, _PURPOSE, signer.kid, pem.encode()),
            public=signer.public(),
            created_at=self._clock(),
        )
        async with self._database.write(organisation) as session:
            session.add(row)


def _jwks(rows: list[SigningKey]) -> dict[str, Any]:
    return {"keys": [row.public for row in rows]}
