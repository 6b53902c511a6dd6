"""A small ticket system with a JSON API, as an IT provider might run one: what the demo's register calls `tickets`.

    python examples/ticket_api.py --data tickets.json --port 8701 --token secret

Standard library only. Two endpoints, both behind a bearer token:

    GET /api/tickets?requester_email=…&page=1&per_page=50            → {"tickets": […]}
    GET /api/tickets/messages?requester_email=…&cursor=…&limit=50    → {"messages": […], "next_cursor": "…" or null}
"""

import argparse
import contextlib
import hmac
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

MOST = 100


class Handler(BaseHTTPRequestHandler):
    """Answers one request. `server` is a `TicketServer`."""

    server: "TicketServer"
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Route a request."""
        url = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        if not hmac.compare_digest(self.headers.get("authorization", ""), f"Bearer {self.server.token}"):
            self.answer(401, {"error": "a bearer token is needed"})
        elif url.path == "/api/tickets":
            self.answer(200, self.server.tickets(query))
        elif url.path == "/api/tickets/messages":
            self.answer(200, self.server.messages(query))
        else:
            self.answer(404, {"error": "no such endpoint"})

    def answer(self, status: int, body: dict[str, Any]) -> None:
        """Send JSON."""
        content = json.dumps(body, ensure_ascii=False).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name it has
        """Say nothing: a request line here holds an e-mail address."""


class TicketServer(ThreadingHTTPServer):
    """The tickets and messages of one file, found by the requester's address."""

    daemon_threads = True

    def __init__(self, port: int, data: dict[str, list[dict[str, Any]]], token: str) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.token = token
        self._tickets = data["tickets"]
        self._messages = data["messages"]

    def tickets(self, query: dict[str, str]) -> dict[str, Any]:
        """Return one numbered page."""
        found = [item for item in self._tickets if _same(item["requester"]["email"], query)]
        size, page = _number(query, "per_page", 50), _number(query, "page", 1)
        return {"tickets": found[(page - 1) * size : page * size]}

    def messages(self, query: dict[str, str]) -> dict[str, Any]:
        """Return what follows a cursor, and the next one."""
        found = [item for item in self._messages if _same(item["requester_email"], query)]
        size, start = _number(query, "limit", 50), _number(query, "cursor", 0)
        more = start + size < len(found)
        return {"messages": found[start : start + size], "next_cursor": str(start + size) if more else None}


def _same(address: str, query: dict[str, str]) -> bool:
    return address.casefold() == query.get("requester_email", "").casefold()


def _number(query: dict[str, str], name: str, default: int) -> int:
    text = query.get(name, "")
    return min(int(text), 1_000_000 if name in {"page", "cursor"} else MOST) if text.isdecimal() else default


def main() -> None:
    """Serve until interrupted."""
    options = argparse.ArgumentParser(description="A small ticket system with a JSON API.")
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--port", type=int, default=8701)
    options.add_argument("--token", required=True)
    given = options.parse_args()
    data = json.loads(given.data.read_text(encoding="utf-8"))
    with contextlib.suppress(KeyboardInterrupt):
        TicketServer(given.port, data, given.token).serve_forever()


if __name__ == "__main__":
    main()
