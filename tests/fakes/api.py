"""A ticket API with every habit that real ones have: kinds of sign-in, kinds of paging, limits, lies and half answers.

Run as `python tests/fakes/api.py`: prints its port and serves on 127.0.0.1 until its standard input closes.
"""

import base64
import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hemmelig-token"
TICKETS = [
    {
        "id": number,
        "requester": {"email": "Aase@Example.dk" if number % 2 else "bo@example.dk"},
        "subject": f"sag {number}",
    }
    for number in range(1, 26)
]


class Api(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    count: ClassVar[dict[str, int]] = {}
    tokens: ClassVar[set[str]] = set()
    stamps: ClassVar[list[float]] = []

    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0))).decode()
        kind = urlsplit(self.path).path
        if kind == "/token/down":
            return self.say(503, {})
        if kind == "/token/odd":
            return self.say(200, {"hello": 1})
        if self.headers.get("authorization") != basic("klient") or "grant_type=client_credentials" not in body:
            return self.say(401, {"error": "invalid_client"})
        self.tick("token")
        token = f"t{self.count['token']}"
        self.tokens.add(token)
        return self.say(200, {"access_token": token, "token_type": "Bearer", "expires_in": 3600})

    def do_GET(self) -> None:
        self.stamps.append(time.monotonic())
        url = urlsplit(self.path)
        parts = [unquote(part) for part in url.path.strip("/").split("/")]
        query = {name: values[-1] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
        getattr(self, f"on_{parts[0]}", self.on_nothing)(parts[1:], query)

    def say(self, status: int, body: Any, **headers: str) -> None:
        raw = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode()
        headers = {
            "content-type": "application/json",
            "content-length": str(len(raw)),
            **{k.replace("_", "-"): v for k, v in headers.items()},
        }
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(raw)

    def tick(self, name: str) -> int:
        self.count[name] = self.count.get(name, 0) + 1
        return self.count[name]

    def matching(self, query: dict[str, str]) -> list[Any]:
        return [one for one in TICKETS if one["requester"]["email"].lower() == query.get("email", "").lower()]  # type: ignore[index]

    # --- what a test asks about ------------------------------------------------------------------------------------

    def on_nothing(self, _parts: list[str], _query: dict[str, str]) -> None:
        self.say(404, {"error": "no such thing"})

    def on_stamps(self, _parts: list[str], _query: dict[str, str]) -> None:
        self.say(200, {"count": self.count, "stamps": self.stamps[:-1]})

    def on_reset(self, _parts: list[str], _query: dict[str, str]) -> None:
        for kept in (self.count, self.tokens, self.stamps):
            kept.clear()
        self.say(200, {})

    # --- signing in ------------------------------------------------------------------------------------------------

    def on_auth(self, parts: list[str], query: dict[str, str]) -> None:
        given = {
            "bearer": self.headers.get("authorization") == f"Bearer {TOKEN}",
            "basic": self.headers.get("authorization") == basic("klient"),
            "header": self.headers.get("x-key") == TOKEN,
            "oauth": self.headers.get("authorization", "").removeprefix("Bearer ") in self.tokens,
            "none": "authorization" not in self.headers,
        }
        if parts[0] == "oauth" and self.tick("oauth") == 3:
            self.tokens.clear()  # the token is withdrawn before it runs out
            given["oauth"] = False
        if not given[parts[0]]:
            return self.say(401, {"error": "who are you"})
        return self.say(200, {"tickets": self.matching(query)})

    # --- paging ----------------------------------------------------------------------------------------------------

    def on_page(self, _parts: list[str], query: dict[str, str]) -> None:
        size = min(int(query.get("per_page", 5)), 5)  # gives fewer than it is asked for
        start = (int(query["page"]) - 1) * size
        self.say(200, {"tickets": self.matching(query)[start : start + size]})

    def on_page404(self, parts: list[str], query: dict[str, str]) -> None:
        found = self.matching(query)
        start = (int(query["page"]) - 1) * 5
        self.say(200, {"tickets": found[start : start + 5]}) if start < len(found) else self.say(404, {})

    def on_offset(self, _parts: list[str], query: dict[str, str]) -> None:
        start = int(query["skip"])
        self.say(200, {"tickets": self.matching(query)[start : start + 4]})

    def on_cursor(self, _parts: list[str], query: dict[str, str]) -> None:
        found, start = self.matching(query), int(query.get("after", 0))
        following = start + 3 if start + 3 < len(found) else None
        self.say(200, {"tickets": found[start : start + 3], "meta": {"next": following}})

    def on_link(self, _parts: list[str], query: dict[str, str]) -> None:
        found, page = self.matching(query), int(query.get("p", 0))
        more = (
            {"link": f'</link?email={query["email"]}&p={page + 1}>; rel="next"'} if (page + 1) * 4 < len(found) else {}
        )
        self.say(200, {"tickets": found[page * 4 : page * 4 + 4]}, **more)

    def on_shifting(self, _parts: list[str], query: dict[str, str]) -> None:
        found, page = self.matching(query), int(query["page"]) - 1
        start = max(0, page * 5 - page)  # a new ticket came in front: pages overlap
        self.say(200, {"tickets": found[start : start + 5]})

    def on_loop(self, _parts: list[str], query: dict[str, str]) -> None:
        self.say(200, {"tickets": self.matching(query)[:2], "at": time.time(), "meta": {"next": "x"}})

    # --- single things ---------------------------------------------------------------------------------------------

    def on_users(self, parts: list[str], _query: dict[str, str]) -> None:
        if parts[0] == "a/b?c#d%e@x.dk":
            return self.say(200, {"name": "Åse", "rooms": ["!a:x", "!b:x"]})
        return self.say(404, {"errcode": "M_NOT_FOUND"})

    def on_everyone(self, _parts: list[str], _query: dict[str, str]) -> None:
        self.say(200, {"tickets": TICKETS})  # ignores the filter

    def on_lists(self, _parts: list[str], _query: dict[str, str]) -> None:
        self.say(
            200,
            {"tickets": [{"id": 1, "to": ["bo@example.dk", "aase@example.dk"]}, {"id": 2, "to": ["bo@example.dk"]}]},
        )

    # --- trouble ---------------------------------------------------------------------------------------------------

    def on_status(self, parts: list[str], _query: dict[str, str]) -> None:
        self.say(int(parts[0]), {"error": "hemmeligt svar"})

    def on_retry(self, parts: list[str], query: dict[str, str]) -> None:
        if self.tick("retry") <= int(parts[0]):
            return self.say(429, {}, retry_after=parts[1])
        return self.say(200, {"tickets": self.matching(query)})

    def on_says(self, parts: list[str], _query: dict[str, str]) -> None:
        bodies = {
            "garbage": b"<html>502", "empty": b"", "nan": b'{"tickets": NaN}', "deep": b"[" * 200_000,
            "surrogate": b'{"tickets": [{"id": 1, "subject": "\\ud800"}]}', "error": b'{"error": "db down"}',
            "null": b'{"tickets": null}', "none": b'{"tickets": []}', "fields": b'{"tickets": [{"hej": 1}]}',
            "nokey": b'{"tickets": [{"requester": {"email": "aase@example.dk"}}]}',
            "unbound": b'{"tickets": [{"id": 1, "subject": "x"}]}', "strings": b'{"tickets": ["a"]}',
        }  # fmt: skip
        self.say(200, bodies[parts[0]])

    def on_html404(self, _parts: list[str], _query: dict[str, str]) -> None:
        self.say(404, b"<h1>nginx</h1>", content_type="text/html")

    def on_nocontent(self, _parts: list[str], _query: dict[str, str]) -> None:
        self.say(204, b"")

    def on_half(self, _parts: list[str], query: dict[str, str]) -> None:
        raw = json.dumps({"tickets": self.matching(query)}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw[: len(raw) // 2])
        self.close_connection = True

    def on_huge(self, _parts: list[str], _query: dict[str, str]) -> None:
        self.say(200, b'{"tickets": ["' + b"x" * (17 << 20) + b'"]}')

    def on_slow(self, parts: list[str], query: dict[str, str]) -> None:
        time.sleep(float(parts[0]))
        self.say(200, {"tickets": self.matching(query)})

    def on_redirect(self, _parts: list[str], _query: dict[str, str]) -> None:
        self.say(302, {}, location="http://169.254.169.254/latest/meta-data")


def basic(name: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{TOKEN}".encode()).decode()


class Server(ThreadingHTTPServer):
    def handle_error(self, *_: Any) -> None:
        """Callers hang up in the middle: that is what some tests do."""


if __name__ == "__main__":
    server = Server(("127.0.0.1", 0), Api)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_port, flush=True)
    sys.stdin.read()
