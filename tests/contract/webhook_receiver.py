"""A receiver of webhooks as another company would write it: checks signatures with the `standardwebhooks` library.

Usage: webhook_receiver.py SECRET. Prints its port, then one line of JSON for each delivery.
"""

import json
import sys
import time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from standardwebhooks import Webhook, WebhookVerificationError

ANSWERS: dict[str, tuple[int, dict[str, str]]] = {
    "/ok": (204, {}),
    "/gone": (410, {}),
    "/busy": (503, {"retry-after": "120"}),
    "/busy-date": (503, {"retry-after": formatdate(time.time() + 3600, usegmt=True)}),
    "/busy-long": (429, {"retry-after": "99999999999999999999"}),
    "/busy-past": (503, {"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}),
    "/busy-nonsense": (503, {"retry-after": "soon"}),
    "/broken": (500, {}),
    "/redirect": (302, {"location": "/ok"}),
}


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        seen: dict[str, Any] = {"path": self.path, "type": self.headers["content-type"], "verified": True}
        try:
            seen["event"] = Webhook(sys.argv[1]).verify(body, dict(self.headers))
        except WebhookVerificationError as error:
            seen |= {"verified": False, "why": str(error)}
        seen["id"] = self.headers["webhook-id"]
        print(json.dumps(seen), flush=True)
        status, headers = ANSWERS[self.path] if seen["verified"] else (401, {})
        self.send_response(status)
        for name, value in {"content-length": "0", **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


if __name__ == "__main__":
    server = HTTPServer(("127.0.0.1", 0), Receiver)
    print(server.server_port, flush=True)
    server.serve_forever()
