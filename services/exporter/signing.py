"""Who says that this package is ours, and how is that checked? ES256 over compact JWS (RFC 7515), one door to joserfc."""

import re
from collections.abc import Mapping
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey

TYPE = "habeas-package+jws"
ALGORITHM = "ES256"
KID = re.compile(r"[A-Za-z0-9_-]{1,64}")


class BadKey(ValueError):
    """The key is no P-256 key that this can use. `str()` names the rule, never the key."""


class BadSignature(Exception):
    """The signature does not hold. `str()` says why."""


def new_key() -> str:
    """Return a fresh private key, PEM (PKCS #8)."""
    return ECKey.generate_key("P-256").as_pem(private=True).decode()


class Signer:
    """Signs packages with one private key."""

    def __init__(self, private_pem: str, kid: str | None = None) -> None:
        """`kid` names the key in the published set; without one it is the key's thumbprint (RFC 7638)."""
        try:
            private = load_pem_private_key(private_pem.encode(), None)
        except (ValueError, TypeError):
            raise BadKey("the signing key must be an unencrypted private key in PEM") from None
        if not isinstance(private, EllipticCurvePrivateKey) or not isinstance(private.curve, SECP256R1):
            raise BadKey("the signing key must be a P-256 key")
        self._key = ECKey.import_key(private_pem)
        self.kid = kid or self._key.thumbprint()
        if not KID.fullmatch(self.kid):
            raise BadKey("the key id must have 1 to 64 letters, digits, _ or -")

    def sign(self, payload: bytes) -> str:
        """Return a compact JWS over `payload`."""
        return jws.serialize_compact({"alg": ALGORITHM, "kid": self.kid, "typ": TYPE}, payload, self._key)

    def public(self) -> dict[str, Any]:
        """Return the public key as a JWK (RFC 7517), as it is published."""
        known = self._key.as_dict(private=False)
        return {"kty": "EC", "crv": known["crv"], "x": known["x"], "y": known["y"]} | {
            "kid": self.kid,
            "use": "sig",
            "alg": ALGORITHM,
        }

    def jwks(self) -> dict[str, Any]:
        """Return a key set that holds this key alone; retired ones are added by whoever publishes it."""
        return {"keys": [self.public()]}


class Keys:
    """Public keys that somebody trusts: a set by key id, or a single one for any."""

    def __init__(self, keys: Mapping[str | None, ECKey]) -> None:
        self._keys = keys

    @classmethod
    def parse(cls, text: str) -> "Keys":
        """Read a JWK set, a JWK or a public key in PEM. Raises `BadKey`."""
        if text.lstrip().startswith("-----BEGIN"):
            return cls({None: _from_pem(text)})
        try:
            found = msgspec.json.decode(text, type=dict[str, Any])
        except msgspec.DecodeError:
            raise BadKey("the key must be a JWK set or a public key in PEM") from None
        listed = found.get("keys", [found])
        keys = {jwk.get("kid"): _from_jwk(jwk) for jwk in listed if isinstance(jwk, dict) and _usable(jwk)}
        if not keys:
            raise BadKey("the key set holds no P-256 key for signatures")
        return cls(keys)

    def verify(self, token: str) -> tuple[bytes, str]:
        """Return the signed payload and the key id, or raise `BadSignature`. The token's own header chooses nothing."""
        try:
            header = jws.extract_compact(token.encode()).headers()
        except (JoseError, ValueError):
            raise BadSignature("it is no compact JWS") from None
        kid = header.get("kid")
        if header != {"alg": ALGORITHM, "typ": TYPE, "kid": kid} or not isinstance(kid, str):
            raise BadSignature("its header is not the one that packages have")
        key = self._keys.get(kid, self._keys.get(None))
        if key is None:
            raise BadSignature("the key that it names is not among the given ones")
        try:
            return jws.deserialize_compact(token, key, algorithms=[ALGORITHM]).payload, kid
        except (JoseError, ValueError):
            raise BadSignature("it does not fit the given key") from None


def _from_pem(text: str) -> ECKey:
    try:
        public = load_pem_public_key(text.encode())
    except (ValueError, TypeError):
        raise BadKey("the key must be a public key in PEM") from None
    if not isinstance(public, EllipticCurvePublicKey) or not isinstance(public.curve, SECP256R1):
        raise BadKey("the key must be a P-256 key")
    return ECKey.import_key(text)


def _usable(jwk: Mapping[str, Any]) -> bool:
    return jwk.get("kty") == "EC" and jwk.get("crv") == "P-256" and jwk.get("use", "sig") == "sig"


def _from_jwk(jwk: Mapping[str, Any]) -> ECKey:
    try:
        return ECKey.import_key({name: jwk[name] for name in ("kty", "crv", "x", "y")})
    except (JoseError, KeyError, ValueError, TypeError):
        raise BadKey("a key in the set is no valid P-256 key") from None
