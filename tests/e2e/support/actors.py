"""Who takes part: a person with a browser and a mailbox, and a handler at their desk. Both speak the JSON API."""

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from tests.e2e.support.processes import until
from tests.e2e.support.suite import Suite


@dataclass
class Person:
    """Somebody who asks. `email` is where their code goes."""

    suite: Suite
    organisation: str
    name: str
    email: str
    language: str = "da"
    reference: str = ""
    token: str | None = None
    collection_code: str = ""

    def ask(self, right: str, **more: Any) -> dict[str, Any]:
        """Send a request."""
        body = {"right": right, "language": self.language, "name": self.name, "email": self.email, **more}
        told: dict[str, Any] = self.suite.call("POST", f"/v1/{self.organisation}/requests", json=body).json()
        self.reference = told["reference"]
        return told

    def prove(self) -> None:
        """Type the code that came by mail."""
        code = self.suite.mail.boxes.code(self.email, self.reference)
        told = self.request("POST", "/verification", json={"code": code})
        self.token, self.collection_code = told["token"], told["collection_code"] or self.collection_code

    def status(self, language: str | None = None) -> dict[str, Any]:
        """Read the status page's facts."""
        return self.request("GET", f"?lang={language}" if language else "")

    def request(self, method: str, tail: str, **more: Any) -> dict[str, Any]:
        answer = self.suite.call(method, self.path(tail), token=self.token, **more)
        told: dict[str, Any] = answer.json() if answer.content else {}
        return told

    def path(self, tail: str) -> str:
        return f"/v1/{self.organisation}/requests/{self.reference}{tail}"

    def unlock(self) -> str:
        """Give the second proof and return the token with which the answer is collected."""
        told = self.request("POST", "/collection", json={"collection_code": self.collection_code})
        return str(told["token"])

    def answered(self) -> dict[str, Any]:
        """Wait until the answer can be collected."""

        def ready() -> dict[str, Any] | None:
            told = self.status()
            return told if told["next_step"] == "collect" else None

        return until(ready, why="the answer was not ready in time")


@dataclass
class Handler:
    """Somebody who works at the organisation."""

    suite: Suite
    organisation: str
    token: str

    def call(self, method: str, path: str, **more: Any) -> Any:
        answer = self.suite.call(method, f"/v1/{self.organisation}{path}", token=self.token, **more)
        return answer.json() if answer.content else None

    def case(self, reference: str) -> dict[str, Any]:
        """Find a case by the reference that the person has."""
        after, found = "", None
        while found is None:
            page = self.call("GET", f"/cases?limit=200{after}")
            found = next((one for one in page["cases"] if one["reference"] == reference), None)
            assert found or page["next"], "no such case"
            after = f"&after={quote(str(page['next']))}"
        case: dict[str, Any] = found
        return case

    def waiting(self, reference: str, what: str) -> dict[str, Any]:
        """Wait until a case waits for `task` or `approval`, and return it."""

        def outstanding() -> dict[str, Any] | None:
            case = self.case(reference)
            return case if what in case["outstanding"] else None

        return until(outstanding, why=f"the case did not come to wait for {what}")

    def tasks(self, case: str, state: str = "needs_person") -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.call("GET", f"/tasks?case={case}&state={state}")["tasks"]
        return found

    def task(self, case: str, system: str) -> dict[str, Any]:
        """Wait until a person is to search a system, and return the task as they see it."""
        order = self.call("GET", f"/cases/{case}")["order_id"]  # an earlier search may just be on its way out

        def mine() -> dict[str, Any] | None:
            return next((one for one in self.tasks(case) if (one["system"], one["order_id"]) == (system, order)), None)

        task: dict[str, Any] = self.call("GET", f"/tasks/{until(mine, why=f'{system} did not become a task')['id']}")
        return task

    def complete(self, task: str, outcome: str, **more: Any) -> None:
        self.call("POST", f"/tasks/{task}/complete", json={"outcome": outcome, **more})

    def attach(self, task: str, number: int, name: str, content: bytes, media_type: str = "application/pdf") -> None:
        headers = {
            "content-type": "application/octet-stream", "habeas-file-name": quote(name), "habeas-file-type": media_type,
        }  # fmt: skip
        self.call("PUT", f"/tasks/{task}/uploads/{number}", content=content, headers=headers)

    def records(self, case: str) -> list[dict[str, Any]]:
        """Read everything that was found, page by page."""
        found: list[dict[str, Any]] = []
        after = ""
        while True:
            page = self.call("GET", f"/cases/{case}/records?limit=50{after}")
            found += page["records"]
            if page["next"] is None:
                return found
            after = f"&after={quote(page['next'])}"

    def mark(self, case: str, verb: str, records: list[str], **more: Any) -> None:
        self.call("POST", f"/cases/{case}/marks", json={"records": records, "verb": verb, **more})

    def approve(self, case: str, expect: int = 200) -> Any:
        return self.call("POST", f"/cases/{case}/approve", expect=expect)
