"""A token opens exactly the service it was signed for, by the service it was signed by, for a minute."""

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from joserfc import jwk as other_jwk
from joserfc import jwt as other_jwt

from shared.tokens import ALLOWED, REMEMBERED, BadKey, BadToken, Claims, Issuer, Verifier, generate_key

NOW = datetime(2026, 11, 21, 10, 0, tzinfo=UTC)
PRIVATE, PUBLIC, KID = generate_key()
OTHER_PRIVATE, OTHER_PUBLIC, OTHER_KID = generate_key()
KEYS = {KID: ("gateway", PUBLIC), OTHER_KID: ("exporter", OTHER_PUBLIC)}


def clock() -> datetime:
    return NOW


def verifier(audience: str = "intake") -> Verifier:
    return Verifier(audience, KEYS, clock=clock)


def issuer(service: str = "gateway") -> Issuer:
    return Issuer(service, PRIVATE, KID, clock=clock)


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def claims(**changes: Any) -> dict[str, Any]:
    now = int(NOW.timestamp())
    good: dict[str, Any] = {
        "iss": "gateway",
        "aud": "intake",
        "sub": "handler:1",
        "jti": "x",
        "iat": now,
        "nbf": now,
        "exp": now + 60,
        "org": "nordlys",
        "rol": ["handler"],
        "cas": None,
        "lvl": None,
    }
    return {k: v for k, v in (good | changes).items() if v is not Ellipsis}


def es256(data: bytes, private: str = PRIVATE) -> bytes:
    key = load_pem_private_key(private.encode(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(SHA256())))
    return r.to_bytes(32) + s.to_bytes(32)


def forge(payload: Any | None = None, header: Any | None = None, sign: Callable[[bytes], bytes] = es256) -> str:
    """Sign anything, without the library under test."""
    head = {"alg": "ES256", "typ": "JWT", "kid": KID} if header is None else header
    body = claims() if payload is None else payload
    text = f"{b64(json.dumps(head).encode())}.{b64(json.dumps(body).encode())}"
    return f"{text}.{b64(sign(text.encode()))}"


def with_header(**changes: Any) -> str:
    return forge(header={"alg": "ES256", "typ": "JWT", "kid": KID} | changes)


def hs256(secret: bytes) -> Callable[[bytes], bytes]:
    return lambda data: hmac.new(secret, data, hashlib.sha256).digest()


def der() -> bytes:
    key = load_pem_public_key(PUBLIC.encode())
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def test_a_token_says_who_may_do_what_for_whom() -> None:
    token = issuer().issue(
        "intake", "subject:c1", organisation="nordlys", roles=("dpo", "handler"), case="c1", level="collect"
    )
    assert verifier().verify(token) == Claims(
        "gateway", "intake", "subject:c1", "nordlys", frozenset({"dpo", "handler"}), "c1", "collect"
    )


def test_the_forger_of_these_tests_can_make_a_good_token() -> None:
    assert verifier().verify(forge()).subject == "handler:1"


def test_another_library_verifies_our_tokens() -> None:
    token = issuer().issue("intake", "anonymous", organisation="nordlys")
    seen = other_jwt.decode(token, other_jwk.ECKey.import_key(PUBLIC), algorithms=["ES256"])
    assert seen.header == {"alg": "ES256", "typ": "JWT", "kid": KID}
    assert seen.claims["exp"] - seen.claims["iat"] == 60


ATTACKS: dict[str, tuple[str, str]] = {
    "HMAC with the PEM as its secret": (
        forge(header={"alg": "HS256", "typ": "JWT", "kid": KID}, sign=hs256(PUBLIC.encode())),
        "header",
    ),
    "HMAC with the DER as its secret": (
        forge(header={"alg": "HS256", "typ": "JWT", "kid": KID}, sign=hs256(der())),
        "header",
    ),
    "HMAC under the ES256 name": (forge(sign=hs256(der())), "signature"),
    "alg none": (forge(header={"alg": "none", "typ": "JWT", "kid": KID}, sign=lambda _: b"x"), "header"),
    "no signature": (forge(sign=lambda _: b""), "shape"),
    "another algorithm": (with_header(alg="RS256"), "header"),
    "crit": (with_header(crit=["b64"], b64=False), "header"),
    "jku": (with_header(jku="https://evil.example/keys"), "header"),
    "jwk": (with_header(jwk={"kty": "oct", "k": "eA"}), "header"),
    "x5u": (with_header(x5u="https://evil.example/cert"), "header"),
    "zip": (with_header(zip="DEF"), "header"),
    "cty": (with_header(cty="JWT"), "header"),
    "a JWE's header": (with_header(enc="A256GCM", alg="dir"), "header"),
    "typ missing": (forge(header={"alg": "ES256", "kid": KID}), "header"),
    "typ other": (with_header(typ="at+jwt"), "header"),
    "kid missing": (forge(header={"alg": "ES256", "typ": "JWT"}), "header"),
    "kid unknown": (with_header(kid="zz"), "key"),
    "kid a list": (with_header(kid=[KID]), "key"),
    "kid a number": (with_header(kid=1), "key"),
    "signed by another key": (forge(sign=lambda d: es256(d, OTHER_PRIVATE)), "signature"),
    "signature cut": (forge()[:-6], "signature"),
    "signature in DER": (forge(sign=lambda _: b"0" * 71), "signature"),
    "body changed": (".".join([forge().split(".")[0], b64(b"{}"), forge().split(".")[2]]), "signature"),
    "wrong audience": (forge(claims(aud="locator")), "audience"),
    "list audience": (forge(claims(aud=["intake", "locator"])), "claims"),
    "another service's key with our name": (
        forge(header={"alg": "ES256", "typ": "JWT", "kid": OTHER_KID}, sign=lambda d: es256(d, OTHER_PRIVATE)),
        "issuer",
    ),
    "list issuer": (forge(claims(iss=["gateway"])), "claims"),
    "expired": (forge(claims(iat=int(NOW.timestamp()) - 100, exp=int(NOW.timestamp()) - 40)), "expired"),
    "issued in the future": (forge(claims(iat=int(NOW.timestamp()) + 60)), "early"),
    "not yet valid": (forge(claims(nbf=int(NOW.timestamp()) + 60)), "early"),
    "lives too long": (forge(claims(exp=int(NOW.timestamp()) + 121)), "lifetime"),
    "ends before it begins": (
        forge(claims(iat=int(NOW.timestamp()) + 3, exp=int(NOW.timestamp()) + 1)),
        "lifetime",
    ),
    "times as text": (forge(claims(exp="9999999999")), "claims"),
    "times as fractions": (forge(claims(exp=NOW.timestamp() + 60.5)), "claims"),
    "an extra claim": (forge(claims(admin=True)), "claims"),
    "roles as text": (forge(claims(rol="handler")), "claims"),
    "no organisation": (forge(claims(org=None)), "claims"),
    "empty organisation": (forge(claims(org="")), "claims"),
    "empty subject": (forge(claims(sub="")), "claims"),
    "claims a list": (forge([1]), "claims"),
    "header a list": (forge(header=[1]), "shape"),
    "header nested without end": (f"{b64(b'[' * 2900)}.{b64(b'{}')}.{b64(b'x')}", "shape"),
    "header not JSON": (f"{b64(b'x')}.{b64(b'{}')}.{b64(b'x')}", "shape"),
    "too long": (forge(claims(cas="c" * 4000)), "shape"),
    "empty": ("", "shape"),
    "dots": ("...", "shape"),
    "not base64": ("!!.!!.!!", "shape"),
    "one character of base64": ("a.a.a", "shape"),
    "four parts": (forge() + ".eA", "shape"),
    "a line feed after it": (forge() + "\n", "shape"),
    "letters beyond ASCII": ("æ.ø.å", "shape"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_a_forged_token_is_refused(name: str) -> None:
    token, reason = ATTACKS[name]
    with pytest.raises(BadToken) as caught:
        verifier().verify(token)
    assert caught.value.reason == reason


@pytest.mark.parametrize("name", sorted(claims()))
def test_every_claim_is_required(name: str) -> None:
    with pytest.raises(BadToken, match="unauthenticated") as caught:
        verifier().verify(forge(claims(**{name: ...})))
    assert caught.value.reason == "claims"


@pytest.mark.parametrize("caller", ["gateway", "intake", "locator", "exporter", "stranger"])
@pytest.mark.parametrize("called", ["gateway", "intake", "locator", "exporter"])
def test_a_service_is_called_only_by_those_it_answers_to(caller: str, called: str) -> None:
    token = Issuer(caller, PRIVATE, KID, clock=clock).issue(called, f"service:{caller}", organisation="nordlys")
    door = Verifier(called, {KID: (caller, PUBLIC)}, clock=clock)
    if called in ALLOWED.get(caller, ()):
        assert door.verify(token).issuer == caller
    else:
        with pytest.raises(BadToken) as caught:
            door.verify(token)
        assert caught.value.reason == "pair"


def test_a_token_for_one_service_does_not_open_another() -> None:
    token = issuer().issue("locator", "handler:1", organisation="nordlys")
    assert verifier("locator").verify(token)
    with pytest.raises(BadToken):
        verifier("exporter").verify(token)


@pytest.mark.parametrize(("age", "opens"), [(0, True), (60, True), (64, True), (65, False), (-5, True), (-6, False)])
def test_a_token_lives_a_minute_give_or_take_five_seconds_of_skew(age: int, opens: bool) -> None:
    token = issuer().issue("intake", "anonymous", organisation="nordlys")
    door = Verifier("intake", KEYS, clock=lambda: NOW + timedelta(seconds=age))
    if opens:
        assert door.verify(token)
    else:
        with pytest.raises(BadToken):
            door.verify(token)


def test_the_answer_to_a_bad_token_does_not_say_why() -> None:
    documents = set()
    for token in (forge(claims(aud="locator")), "junk", forge(claims(exp=1))):
        with pytest.raises(BadToken) as caught:
            verifier().verify(token)
        documents.add(json.dumps(caught.value.document()))
    assert len(documents) == 1
    assert json.loads(documents.pop())["status"] == 401


def pem_of(key: Any) -> str:
    text: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return text.decode()


def public_pem_of(key: Any) -> str:
    text: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return text.decode()


RSA_KEY = rsa.generate_private_key(65537, 2048)
P384_KEY = ec.generate_private_key(ec.SECP384R1())


@pytest.mark.parametrize("pem", ["", "secret", PRIVATE, public_pem_of(RSA_KEY), public_pem_of(P384_KEY)])
def test_only_a_public_p256_key_verifies(pem: str) -> None:
    with pytest.raises(BadKey):
        Verifier("intake", {"k": ("gateway", pem)})


@pytest.mark.parametrize("pem", ["", "secret", PUBLIC, pem_of(RSA_KEY), pem_of(P384_KEY)])
def test_only_a_private_p256_key_signs(pem: str) -> None:
    with pytest.raises(BadKey):
        Issuer("gateway", pem, "k")


def test_each_key_has_its_own_id() -> None:
    assert re.fullmatch("[0-9a-f]{16}", KID)
    assert KID != OTHER_KID


def test_every_token_is_its_own() -> None:
    assert len({issuer().issue("intake", "anonymous", organisation="nordlys").split(".")[1] for _ in range(50)}) == 50


class Ticking:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


def test_a_service_uses_its_own_token_again_for_a_while() -> None:
    clock = Ticking()
    locator = Issuer("locator", PRIVATE, KID, clock=clock)
    first = locator.own("intake", organisation="nordlys")
    clock.now += timedelta(seconds=19)
    assert locator.own("intake", organisation="nordlys") == first
    clock.now += timedelta(seconds=1)
    assert locator.own("intake", organisation="nordlys") != first


def test_no_two_organisations_or_services_share_a_services_own_token() -> None:
    locator = Issuer("locator", PRIVATE, KID, clock=lambda: NOW)
    tokens = {
        locator.own(to, organisation=organisation)
        for to in ("intake", "exporter")
        for organisation in ("nordlys", "sydlys")
    }
    assert len(tokens) == 4


def test_a_clock_that_was_put_back_gets_a_fresh_token() -> None:
    clock = Ticking()
    locator = Issuer("locator", PRIVATE, KID, clock=clock)
    first = locator.own("intake", organisation="nordlys")
    clock.now -= timedelta(hours=1)
    assert locator.own("intake", organisation="nordlys") != first


def test_a_token_that_was_seen_before_expires_like_any_other() -> None:
    clock = Ticking()
    door = Verifier("intake", {KID: ("locator", PUBLIC)}, clock=clock)
    token = Issuer("locator", PRIVATE, KID, clock=clock).own("intake", organisation="nordlys")
    assert door.verify(token) == door.verify(token)
    clock.now += timedelta(seconds=65)
    with pytest.raises(BadToken) as caught:
        door.verify(token)
    assert caught.value.reason == "expired"


def test_a_token_that_resembles_one_seen_before_is_checked_in_full() -> None:
    door = Verifier("intake", {KID: ("locator", PUBLIC)}, clock=lambda: NOW)
    token = Issuer("locator", PRIVATE, KID, clock=lambda: NOW).own("intake", organisation="nordlys")
    door.verify(token)
    with pytest.raises(BadToken):
        door.verify(token[:-6] + token[-6:].swapcase())


def test_only_so_many_tokens_are_remembered() -> None:
    locator = Issuer("locator", PRIVATE, KID, clock=lambda: NOW)
    first = locator.own("intake", organisation="o0")
    for number in range(1, REMEMBERED + 1):
        locator.own("intake", organisation=f"o{number}")
    assert locator.own("intake", organisation="o0") != first
