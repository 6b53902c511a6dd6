"""What the guard refuses before anybody looks at a request, and what it puts on every answer."""

from ipaddress import ip_network
from typing import Any

import pytest

from gateway.bodies import check_json, check_type, declared_length, depth
from gateway.guard import (
    CSP,
    BadHeaders,
    BadPath,
    HeadersTooLarge,
    LongAddress,
    Misdirected,
    check_headers,
    check_host,
    check_path,
    client_address,
    content_policy,
)
from gateway.settings import Settings
from shared.problems import Malformed, TooLarge, WrongType


def scope(path: str = "/", raw: bytes | None = None, query: bytes = b"", **more: Any) -> dict[str, Any]:
    return {
        "path": path,
        "raw_path": path.encode() if raw is None else raw,
        "query_string": query,
        "headers": [],
        **more,
    }


@pytest.mark.parametrize(
    ("path", "raw"),
    [
        ("/v1/a/b", b"/v1/a%2Fb"),
        ("/v1/a/b", b"/v1/a%2fb"),
        ("/v1/../secret", b"/v1/%2e%2e/secret"),
        ("/v1/../secret", None),
        ("/v1/./requests", None),
        ("//evil.example/v1", None),
        ("/v1//requests", None),
        ("/v1\\requests", None),
        ("/v1/a;b", None),
        ("/v1/æ", None),
        ("/v1/a\x00", None),
        ("/v1/a b", None),
        ("/v1/a%20b", None),
        ("v1/requests", None),
        ("http://evil.example/v1", None),
        ("*", None),
        ("/v1/other", b"/v1/requests"),
    ],
)
def test_a_path_that_can_be_read_two_ways_does_not_exist(path: str, raw: bytes | None) -> None:
    with pytest.raises(BadPath):
        check_path(scope(path, raw))


def test_plain_paths_pass() -> None:
    for path in ("/", "/v1/nordlys/requests/7KQ4-M2XB-9", "/.well-known/habeas-jwks.json", "/static/portal.a1.css"):
        check_path(scope(path))


def test_long_addresses_are_refused() -> None:
    for found in (scope("/" + "a" * 1024), scope("/", query=b"a" * 1025)):
        with pytest.raises(LongAddress):
            check_path(found)


def test_too_many_or_too_long_headers_are_refused() -> None:
    check_headers([(b"x-%d" % n, b"1") for n in range(64)])
    with pytest.raises(HeadersTooLarge):
        check_headers([(b"x-%d" % n, b"1") for n in range(65)])
    with pytest.raises(HeadersTooLarge):
        check_headers([(b"x", b"a" * 17_000)])


@pytest.mark.parametrize("name", [b"host", b"content-length", b"content-type", b"authorization", b"cookie", b"origin"])
def test_a_deciding_header_may_stand_only_once(name: bytes) -> None:
    with pytest.raises(BadHeaders):
        check_headers([(name, b"1"), (name, b"1")])


def test_a_length_and_a_transfer_coding_contradict_each_other() -> None:
    with pytest.raises(BadHeaders):
        check_headers([(b"content-length", b"1"), (b"transfer-encoding", b"chunked")])


def test_only_our_own_hosts_are_answered() -> None:
    ours = Settings(public_url="https://privacy.nordlys.example", hosts=("10.0.0.5",)).allowed_hosts
    for host in ("privacy.nordlys.example", "Privacy.Nordlys.Example:443", "10.0.0.5:8000"):
        check_host(host, ours)
    for host in ("", "evil.example", "privacy.nordlys.example.evil.example", "privacy.nordlys.example/x",
                 "privacy.nordlys.example:80:80", "evil.example@privacy.nordlys.example"):  # fmt: skip
        with pytest.raises(Misdirected):
            check_host(host, ours)


def test_wildcard_hosts_and_paths_in_the_address_are_refused_in_the_settings() -> None:
    for bad in ({"hosts": ("*.example",)}, {"public_url": "https://a.example/b"}, {"public_url": "ftp://a.example"}):
        with pytest.raises(ValueError, match="valid"):
            Settings(**bad)


def client(peer: str, forwarded: str, proxies: tuple[str, ...] = ()) -> str:
    headers = [(b"x-forwarded-for", forwarded.encode())] if forwarded else []
    return client_address({"client": (peer, 1), "headers": headers}, [ip_network(proxy) for proxy in proxies])


def test_nobody_can_choose_their_own_address() -> None:
    assert client("203.0.113.9", "1.2.3.4") == "203.0.113.9"
    assert client("10.0.0.1", "1.2.3.4, 198.51.100.7", ("10.0.0.0/8",)) == "198.51.100.7"
    assert client("10.0.0.1", "1.2.3.4, 198.51.100.7, 10.0.0.2", ("10.0.0.0/8",)) == "198.51.100.7"
    assert client("10.0.0.1", "", ("10.0.0.0/8",)) == "10.0.0.1"
    assert client("10.0.0.1", "x' OR 1=1", ("10.0.0.0/8",)) == "unknown"
    assert client("10.0.0.1", "203.0.113.1, x' OR 1=1", ("10.0.0.0/8",)) == "unknown"


def test_ipv6_is_counted_by_household_and_mapped_ipv4_as_itself() -> None:
    assert client("2001:db8:1:2:3::4", "") == client("2001:db8:1:2:ffff::1", "") == "2001:db8:1:2::/64"
    assert client("::ffff:203.0.113.9", "") == "203.0.113.9"


def test_a_caller_without_an_address_is_counted_with_all_such() -> None:
    assert client_address({"client": None, "headers": []}, []) == "unknown"


def test_content_types_are_taken_strictly() -> None:
    for good in ("application/json", "application/json; charset=utf-8", 'Application/JSON;charset="UTF-8"'):
        check_type("json", good)
    for bad in ("", "text/plain", "application/jsonx", "text/plain; application/json", "application/json; charset=utf-16",
                "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):  # fmt: skip
        with pytest.raises(WrongType):
            check_type("json", bad)
    check_type("stream", "multipart/form-data; boundary=abc")
    with pytest.raises(WrongType):
        check_type("stream", "multipart/form-data")


def test_an_announced_length_is_refused_before_it_is_read() -> None:
    assert declared_length("", 10) == 0
    assert declared_length("10", 10) == 10
    for bad in ("11", "9" * 5000):
        with pytest.raises(TooLarge):
            declared_length(bad, 10)
    for bad in ("-1", "1.0", "١", "0x10", "+1"):
        with pytest.raises(Malformed):
            declared_length(bad, 10)


def test_depth_counts_brackets_outside_strings_only() -> None:
    assert depth(b'{"a": [1, {"b": "]]]}}}[[[["}]}') == 3
    assert depth(rb'{"a\"[[[": "\\"}') == 1
    assert depth(b'"unclosed [[[[') == 0
    assert depth(b"]]]][[") == 2
    check_json(b'{"a":' * 32 + b"1" + b"}" * 32)
    check_json(b"[" + b"{}," * 5000 + b"{}]")
    for bad in (b"[" * 33 + b"]" * 33, b'{"a":' * 5000, b'["\xff"]', '["a"]'.encode("utf-16")):
        with pytest.raises(Malformed):
            check_json(bad)


@pytest.mark.timeout(5)
def test_no_body_makes_the_depth_scan_slow() -> None:
    for body in (rb"\"" * 32_000, rb'"\"' * 20_000, rb'"\\' * 20_000, b'"' * 65_001, b"[" * 65_000):
        depth(b"[" * 40 + body)


OURS = CSP.decode()


def policy(text: str) -> str:
    return content_policy(text.encode()).decode()


BASE = "default-src 'none'; form-action 'none'; base-uri 'none'"


def test_the_policy_for_pages_has_no_inline_code_and_nothing_foreign() -> None:
    assert policy("") == policy("default-src 'none'") == OURS
    assert "unsafe" not in OURS
    assert "http" not in OURS


def test_a_service_may_allow_its_own_style_and_nobody_may_frame_it() -> None:
    strict = f"{BASE}; style-src 'self' 'sha256-{'a' * 43}='"
    assert policy(strict) == f"{strict}; frame-ancestors 'none'"
    assert policy(f"{strict}; frame-ancestors 'none'") == f"{strict}; frame-ancestors 'none'"


@pytest.mark.parametrize(
    "loose",
    ["script-src 'unsafe-inline'", "script-src 'unsafe-eval'", "img-src *", "img-src https://evil.example", "script-src data:",
     "style-src 'unsafe-inline'", "frame-ancestors *", "img-src data:", "style-src 'unsafe-inline'; sandbox allow-scripts",
     "style-src 'unsafe-inline'; sandbox allow-same-origin", "script-src 'unsafe-inline'; sandbox",
     "style-src 'unsafe-inline'; img-src https://evil.example; sandbox", "script-src evil.example", "script-src",
     "script-src 'self'; script-src 'none'", "script-src 'self', script-src *", "style-src 'nonce-abc'"],
)  # fmt: skip
def test_a_service_cannot_loosen_the_policy(loose: str) -> None:
    assert policy(f"{BASE}; {loose}") == OURS


def test_a_whole_document_in_a_sandbox_may_style_itself() -> None:
    """It has an origin of its own and no script: what it styles is itself."""
    document = f"{BASE}; frame-ancestors 'none'; style-src 'unsafe-inline'; img-src data:; sandbox allow-popups"
    assert policy(document) == document
