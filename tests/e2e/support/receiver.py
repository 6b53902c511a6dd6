"""A receiver of webhooks as another company would write it; run as a program: `receiver.py FOLDER`.

Prints its port. The secret lies in FOLDER/secret once the endpoint was added. Each delivery becomes a line of
FOLDER/deliveries.ndjson: whether `standardwebhooks` verified it, and its body as it came.
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

from standardwebhooks import Webhook, WebhookVerificationError

FOLDER = Path(sys.argv[1]) if len(sys.argv) > 1 else Path()


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        try:
            Webhook((FOLDER / "secret").read_text()).verify(body, headers)
            verified = True
        except WebhookVerificationError:
            verified = False
        with (FOLDER / "deliveries.ndjson").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"verified": verified, "body": body.decode(), "headers": headers}) + "\n")
        self.send_response(204 if verified else 401)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


if __name__ == "__main__":
    server = HTTPServer(("127.0.0.1", 0), Receiver)
    print(server.server_port, flush=True)
    server.serve_forever()
