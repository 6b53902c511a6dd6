"""Intake and the exporter as the locator sees them: small, in memory, checking what the real ones check, and breakable."""

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from shared.messages import Commit, Receipt, Record
from shared.problems import Conflict, NotFound, Problem
from shared.register import Register
from shared.service import CallerDep, create_service
from shared.tokens import Verifier


class Superseded(Conflict):
    """A later attempt has begun."""

    code = "late-attempt"


class Differs(Conflict):
    """What came is not what was announced, or not what came before."""

    code = "part-differs"


@dataclass
class Attempt:
    """One attempt of one task as the exporter holds it."""

    parts: dict[int, bytes] = field(default_factory=dict)
    files: dict[int, tuple[str, str]] = field(default_factory=dict)
    commit: Commit | None = None

    @property
    def records(self) -> list[Record]:
        lines = [line for n, part in sorted(self.parts.items()) if n not in self.files for line in part.splitlines()]
        return [msgspec.json.decode(line, type=Record) for line in lines]


class FarExporter:
    """Keeps parts; refuses late attempts, changed parts and commits that do not fit."""

    def __init__(self, verifier: Verifier) -> None:
        self.tasks: dict[str, dict[int, Attempt]] = {}
        self.faults: dict[str, list[Problem]] = {"part": [], "arrived": [], "commit": []}
        self.sizes: list[int] = []
        self.after_commit: Callable[[str, int], Awaitable[None]] | None = None
        router = APIRouter()
        router.put("/packages/{package}/tasks/{task}/attempts/{number}/parts/{part}")(self._part)
        router.put("/packages/{package}/tasks/{task}/attempts/{number}")(self._commit)
        self.app = create_service("exporter", verifier=verifier, routers=[router])

    def committed(self) -> list[Record]:
        """What would be packaged: of each task the highest committed attempt."""
        counting = [
            max((n, one) for n, one in task.items() if one.commit)
            for task in self.tasks.values()
            if any(one.commit for one in task.values())
        ]
        return [record for _number, attempt in counting for record in attempt.records]

    def proofs(self) -> set[str]:
        return {
            proof for task in self.tasks.values() for one in task.values() if one.commit for proof in one.commit.proofs
        }

    async def _part(self, request: Request, caller: CallerDep, package: str, task: str, number: int, part: int) -> Any:
        caller.require_service("locator")
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
        if self.faults["part"]:
            raise self.faults["part"].pop(0)
        attempt = self._attempt(task, number)
        if attempt.parts.setdefault(part, bytes(body)) != bytes(body):
            raise Differs
        if "habeas-file-name" in request.headers:
            attempt.files[part] = unquote(request.headers["habeas-file-name"]), request.headers["habeas-file-type"]
        self.sizes.append(len(body))
        if self.faults["arrived"]:
            self.faults["arrived"].pop(0)
            body.reverse()
        return JSONResponse({"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()})

    async def _commit(self, caller: CallerDep, package: str, task: str, number: int, body: Commit) -> Any:
        caller.require_service("locator")
        if self.faults["commit"]:
            raise self.faults["commit"].pop(0)
        attempt = self._attempt(task, number)
        sums = tuple(hashlib.sha256(part).hexdigest() for _n, part in sorted(attempt.parts.items()))
        named = sorted(name for record in attempt.records for name in record.files)
        if (
            sums != body.parts
            or len(attempt.records) != body.records
            or named != sorted(n for n, _t in attempt.files.values())
        ):
            raise Differs
        if attempt.commit is not None and attempt.commit != body:
            raise Differs
        attempt.commit = body
        if self.after_commit is not None:
            await self.after_commit(task, number)
        return {"groups": [], "unbound": 0}

    def _attempt(self, task: str, number: int) -> Attempt:
        attempts = self.tasks.setdefault(task, {})
        if attempts and number < max(attempts):
            raise Superseded
        return attempts.setdefault(number, Attempt())


class FarIntake:
    """Serves registers and takes receipts, each at least once, in any order."""

    def __init__(self, verifier: Verifier) -> None:
        self.registers: dict[str, Register] = {}
        self.receipts: dict[tuple[str, int], Receipt] = {}
        self.deliveries = 0
        self.asked = 0
        self.down: list[Problem] = []
        router = APIRouter()
        router.get("/registers/{version}")(self._register)
        router.put("/orders/{order}/receipts/{task}/{attempt}", status_code=204)(self._receipt)
        self.app = create_service("intake", verifier=verifier, routers=[router])

    def last(self) -> dict[str, Receipt]:
        """The newest receipt of each task."""
        newest: dict[str, Receipt] = {}
        for (task, _attempt), receipt in sorted(self.receipts.items(), key=lambda item: item[0][1]):
            newest[task] = receipt
        return newest

    def by_system(self) -> dict[tuple[str, int], Receipt]:
        return {(receipt.system, receipt.round): receipt for receipt in self.last().values()}

    @property
    def located(self) -> bool:
        """Whether the order is done, as the real intake concludes it."""
        totals = [receipt.tasks for receipt in self.receipts.values() if receipt.tasks is not None]
        return bool(totals) and len(self.last()) == totals[0]

    async def _register(self, caller: CallerDep, version: str) -> Any:
        caller.require_service("locator")
        self.asked += 1
        if version not in self.registers:
            raise NotFound
        return JSONResponse(self.registers[version].model_dump(mode="json"))

    async def _receipt(self, caller: CallerDep, order: str, task: str, attempt: int, body: Receipt) -> None:
        caller.require_service("locator")
        self.deliveries += 1
        if self.down:
            raise self.down.pop(0)
        if self.receipts.setdefault((task, attempt), body).model_copy(update={"finished_at": body.finished_at}) != body:
            raise Differs
