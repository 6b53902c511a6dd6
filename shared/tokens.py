"""Who inside the house is calling? Short-lived ES256 tokens from one service to another; the one door to `jose`.

python-jose has known holes (algorithm confusion with PEM and DER keys, `crit` ignored, missing claims accepted), so
it only signs and checks signatures here, with key objects that were built for ES256 and cannot do anything else.
Header, claims and times are checked below. Never JWE, never a token from outside.
"""

import hashlib
import re
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from jose import jwk, jws
from jose.backends.base import Key
from jose.exceptions import JOSEError

from shared.clock import Clock, utc_now
from shared.problems import Unauthenticated

K = TypeVar("K")
V = TypeVar("V")

ALGORITHM = "ES256"
LIFE = timedelta(seconds=60)
MAX_LIFE_SECONDS = 120
SKEW_SECONDS = 5
REUSE_SECONDS = 20
"""How long a service calls another with one token of its own: signing and checking cost more than a small query."""
REMEMBERED = 512
MAX_LENGTH = 4096

ALLOWED: Mapping[str, frozenset[str]] = {
    "gateway": frozenset({"intake", "locator", "exporter"}),
    "intake": frozenset({"locator", "exporter"}),
    "locator": frozenset({"intake", "exporter"}),
    "exporter": frozenset({"intake"}),
}
"""Issuer → the services that it may call."""

_SHAPE = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", re.ASCII)
_HEADER = frozenset({"alg", "kid", "typ"})


class BadToken(Unauthenticated):
    """The token does not open this service."""

    def __init__(self, reason: str) -> None:
        """`reason` is an enumerated word for logs; it never goes into the answer."""
        super().__init__()
        self.reason = reason


class BadKey(ValueError):
    """A key for tokens is not a P-256 key in PEM."""


@dataclass(frozen=True, slots=True)
class Claims:
    """What a checked token says.

    `subject` is `handler:<id>`, `subject:<case>`, `system:<key id>`, `service:<name>` or `anonymous`.
    """

    issuer: str
    audience: str
    subject: str
    organisation: str
    roles: frozenset[str]
    case: str | None
    level: str | None


class _Payload(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The claims on the wire: this set, all of them, of these types."""

    iss: str
    aud: str
    sub: str
    jti: str
    iat: int
    nbf: int
    exp: int
    org: str
    rol: list[str]
    cas: str | None
    lvl: str | None


_decode = msgspec.json.Decoder(_Payload).decode


class Issuer:
    """Signs the tokens of one service."""

    def __init__(self, service: str, private_pem: str, kid: str, *, clock: Clock = utc_now) -> None:
        """`private_pem` is an unencrypted PKCS 8 P-256 key. Raises `BadKey`."""
        self.service = service
        self._key = _private_key(private_pem)
        self._kid = kid
        self._clock = clock
        self._own: dict[tuple[str, str], tuple[str, float]] = {}

    def own(self, audience: str, *, organisation: str) -> str:
        """Return a token by which the service speaks for itself to `audience`, perhaps one that it used already."""
        now = self._clock().timestamp()
        token, made = self._own.get((audience, organisation), ("", 0.0))
        if not made <= now < made + REUSE_SECONDS:
            token = self.issue(audience, f"service:{self.service}", organisation=organisation)
            _remember(self._own, (audience, organisation), (token, now))
        return token

    def issue(
        self,
        audience: str,
        subject: str,
        *,
        organisation: str,
        roles: Iterable[str] = (),
        case: str | None = None,
        level: str | None = None,
    ) -> str:
        """Return a token for `audience` that lives 60 seconds."""
        now = int(self._clock().timestamp())
        payload = _Payload(
            iss=self.service,
            aud=audience,
            sub=subject,
            jti=uuid.uuid4().hex,
            iat=now,
            nbf=now,
            exp=now + int(LIFE.total_seconds()),
            org=organisation,
            rol=sorted(roles),
            cas=case,
            lvl=level,
        )
        return jws.sign(msgspec.json.encode(payload), self._key, headers={"kid": self._kid}, algorithm=ALGORITHM)


class Verifier:
    """Checks the tokens that reach one service."""

    def __init__(self, audience: str, keys: Mapping[str, tuple[str, str]], *, clock: Clock = utc_now) -> None:
        """`keys` is key id → (issuer, public PEM). Raises `BadKey`."""
        self.audience = audience
        self._keys = {kid: (issuer, _public_key(pem)) for kid, (issuer, pem) in keys.items()}
        self._clock = clock
        self._known: dict[str, _Payload] = {}

    def verify(self, token: str) -> Claims:
        """Return what `token` says, or raise `BadToken`."""
        payload = self._known.get(token) or self._checked(token)
        self._check_times(payload)
        return Claims(
            issuer=payload.iss,
            audience=payload.aud,
            subject=payload.sub,
            organisation=payload.org,
            roles=frozenset(payload.rol),
            case=payload.cas,
            level=payload.lvl,
        )

    def _checked(self, token: str) -> _Payload:
        """Check all but the times. What a service says for itself it says often: that is remembered, whole."""
        owner, key = self._key_for(token)
        try:
            payload = _decode(jws.verify(token, key, [ALGORITHM]))
        except JOSEError:
            raise BadToken("signature") from None
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise BadToken("claims") from None
        self._check_parties(payload, owner)
        if payload.sub == f"service:{owner}":
            _remember(self._known, token, payload)
        return payload

    def _key_for(self, token: str) -> tuple[str, Key]:
        """Choose the key by `kid` alone, once the header is exactly ours: no `crit`, `jwk`, `jku`, `zip`."""
        if len(token) > MAX_LENGTH or not _SHAPE.fullmatch(token):
            raise BadToken("shape")
        try:
            header = jws.get_unverified_header(token)
        except (JOSEError, RecursionError):
            raise BadToken("shape") from None
        if header.keys() != _HEADER or header["alg"] != ALGORITHM or header["typ"] != "JWT":
            raise BadToken("header")
        kid = header["kid"]
        if not isinstance(kid, str) or kid not in self._keys:
            raise BadToken("key")
        return self._keys[kid]

    def _check_parties(self, payload: _Payload, owner: str) -> None:
        if payload.iss != owner:
            raise BadToken("issuer")
        if payload.aud != self.audience:
            raise BadToken("audience")
        if payload.aud not in ALLOWED.get(payload.iss, frozenset()):
            raise BadToken("pair")
        if not (payload.sub and payload.org and payload.jti):
            raise BadToken("claims")

    def _check_times(self, payload: _Payload) -> None:
        now = self._clock().timestamp()
        if payload.exp + SKEW_SECONDS <= now:
            raise BadToken("expired")
        if max(payload.iat, payload.nbf) > now + SKEW_SECONDS:
            raise BadToken("early")
        if not 0 < payload.exp - payload.iat <= MAX_LIFE_SECONDS:
            raise BadToken("lifetime")


def _remember(memory: dict[K, V], key: K, value: V) -> None:
    """Keep the newest `REMEMBERED` entries."""
    memory[key] = value
    while len(memory) > REMEMBERED:
        del memory[next(iter(memory))]


def generate_key() -> tuple[str, str, str]:
    """Return (private PEM, public PEM, key id) of a new P-256 key; the id is a digest of the public key."""
    key = ec.generate_private_key(ec.SECP256R1())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    public = key.public_key()
    der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    return private, pem, hashlib.sha256(der).hexdigest()[:16]


def _private_key(pem: str) -> Key:
    try:
        key = load_pem_private_key(pem.encode(), None)
    except (ValueError, TypeError):
        raise BadKey("must be an unencrypted private key in PEM") from None
    _check_curve(key)
    return jwk.construct(pem, ALGORITHM)


def _public_key(pem: str) -> Key:
    try:
        key = load_pem_public_key(pem.encode())
    except ValueError:
        raise BadKey("must be a public key in PEM") from None
    _check_curve(key)
    return jwk.construct(pem, ALGORITHM)


def _check_curve(key: object) -> None:
    if not isinstance(key, (ec.EllipticCurvePrivateKey, ec.EllipticCurvePublicKey)):
        raise BadKey("must be a P-256 key")
    if not isinstance(key.curve, ec.SECP256R1):
        raise BadKey("must be a P-256 key")
