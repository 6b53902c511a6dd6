"""A gateway with three small services behind it that tell what reached them; everything but the services is real."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from gateway import accounts, keys, sessions
from gateway.app import Portal, create_app
from gateway.server import server_config
from gateway.settings import Settings
from gateway.tables import OWNER
from shared import ledger
from shared.database import Database
from shared.ids import new_id, new_reference
from shared.migrating import migrate
from shared.post import BridgePost, HttpPost, Post
from shared.service import CallerDep, create_service
from shared.tokens import Issuer, Verifier, generate_key
from shared.vocabulary import Role

BASE = "http://127.0.0.1:8000"
ORG = "nordlys"
SERVICES = ("intake", "locator", "exporter")
PASSWORD_HASH = "$argon2id$v=19$m=65536,t=3,p=4$Ns5aYEBah44CfRvaN3tA7g$pc5BdhOCUaEcBoz8viMMo4zUSbD97XEyAIkxYHoL7e0"
"""Nobody knows its password: for accounts whose sessions are opened without one."""


class Moment:
    """A clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def forward(self, **span: float) -> None:
        self.now += timedelta(**span)


@dataclass
class Seen:
    """One call as a service saw it."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes
    size: int
    claims: Any


Answer = Callable[[Seen], Response]


class Echo:
    """A service that answers every address, notes each call, and says what a test told it to say."""

    def __init__(self, name: str, verifier: Verifier) -> None:
        self.name = name
        self.seen: list[Seen] = []
        self.answers: dict[tuple[str, str], Answer] = {}
        self.otherwise: Answer = lambda seen: JSONResponse({"service": name, "size": seen.size})
        router = APIRouter()
        router.add_api_route("/{path:path}", self._answer, methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
        self.app: FastAPI = create_service(name, verifier=verifier, routers=[router])
        # `/health` stands before the address that takes everything.
        self.app.router.routes.sort(key=lambda route: "{path:path}" in getattr(route, "path", ""))

    def says(self, method: str, path: str, document: Any, status: int = 200) -> None:
        self.answers[method, path] = lambda _: (
            JSONResponse(document, status) if status != 204 else Response(status_code=204)
        )

    async def _answer(self, request: Request, caller: CallerDep) -> Response:
        size, body = 0, b""
        async for chunk in request.stream():
            size += len(chunk)
            body = (body + chunk)[:100_000]
        seen = Seen(request.method, request.scope["path"], request.scope["query_string"].decode(),
                    dict(request.headers), body, size, caller.claims)  # fmt: skip
        self.seen.append(seen)
        return self.answers.get((seen.method, seen.path), self.otherwise)(seen)


def stream_of(megabytes: int) -> Answer:
    """An answer of so many megabytes in chunks of 64 KiB."""

    async def chunks() -> AsyncIterator[bytes]:
        piece = bytes(range(256)) * 256
        for _ in range(megabytes * 16):
            yield piece

    return lambda _: StreamingResponse(chunks(), media_type="application/zip")


@dataclass
class House:
    settings: Settings
    clock: Moment
    database: Database
    echoes: dict[str, Echo]
    post: Post
    app: FastAPI
    client: httpx.AsyncClient
    cases: dict[str, str] = field(default_factory=dict)

    def path(self, tail: str, organisation: str = ORG) -> str:
        return f"/v1/{organisation}{tail}"

    async def account(
        self, *roles: Role, username: str | None = None, password_hash: str = PASSWORD_HASH, organisation: str = ORG
    ) -> str:
        """Create an account and return its id."""
        async with self.database.write(organisation) as session:
            account = await accounts.create_account(
                session, organisation=organisation, username=username or f"u{new_id()}", password_hash=password_hash,
                roles=roles, actor="operator", now=self.clock(),
            )  # fmt: skip
        return account.id

    async def handler(self, *roles: Role, organisation: str = ORG) -> dict[str, str]:
        """Return the headers of a signed-in account with these roles."""
        account_id = await self.account(*roles, organisation=organisation)
        async with self.database.write(organisation) as session:
            account = await accounts.get(session, account_id)
            opened = await sessions.open_handler(session, account, self.clock(), self.settings)
        return {"authorization": f"Bearer {opened.token}"}

    async def subject(self, level: str = "verified", reference: str | None = None) -> tuple[str, dict[str, str]]:
        """Return (reference, headers) of a person with a case."""
        reference = reference or new_reference()
        case = self.cases.setdefault(reference, new_id())
        async with self.database.write(ORG) as session:
            token = await sessions.open_subject(
                session, organisation=ORG, case_id=case, reference=reference, level=level,
                expires_at=self.clock() + timedelta(minutes=30),
            )  # fmt: skip
        return reference, {"authorization": f"Bearer {token}"}

    async def system(self, *scopes: str) -> dict[str, str]:
        """Return the headers of an API key with these scopes."""
        async with self.database.write(ORG) as session:
            _, text = await keys.create(
                session, organisation=ORG, name="ERP", scopes=list(scopes), actor="operator", now=self.clock(), days=30
            )
        return {"authorization": f"Bearer {text}"}

    def calls(self) -> int:
        return sum(len(echo.seen) for echo in self.echoes.values())


_TEMPLATE: list[Path] = []


def fresh_sqlite(folder: Path) -> str:
    """Return the URL of a migrated SQLite file; the migrations run once a test run."""
    if not _TEMPLATE:
        original = folder / "template.sqlite"
        migrate(f"sqlite+aiosqlite:///{original}", (ledger.OWNER, OWNER))
        _TEMPLATE.append(original)
    copy = folder / "gateway.sqlite"
    shutil.copy(_TEMPLATE[0], copy)
    return f"sqlite+aiosqlite:///{copy}"


@asynccontextmanager
async def open_house(
    url: str, *, over_http: bool = False, portal: Portal | None = None, **settings: Any
) -> AsyncIterator[House]:
    """Open a gateway on a migrated database."""
    private, public, kid = generate_key()
    issuer = Issuer("gateway", private, kid)
    echoes = {name: Echo(name, Verifier(name, {kid: ("gateway", public)})) for name in SERVICES}
    database, clock, made = Database(url), Moment(), Settings(**settings)
    async with _post(echoes, issuer, over_http=over_http) as post:
        app = create_app(made, database=database, post=post, issuer=issuer, clock=clock, portal=portal)
        transport = httpx.ASGITransport(app, client=("192.0.2.1", 4000))
        async with httpx.AsyncClient(transport=transport, base_url=BASE) as client:
            yield House(made, clock, database, echoes, post, app, client)
    await database.close()


@asynccontextmanager
async def _post(echoes: dict[str, Echo], issuer: Issuer, *, over_http: bool) -> AsyncIterator[Post]:
    if not over_http:
        bridge = BridgePost({name: echo.app for name, echo in echoes.items()}, issuer)
        yield bridge
        await bridge.aclose()
        return
    servers = {
        name: uvicorn.Server(uvicorn.Config(echo.app, port=0, log_level="error")) for name, echo in echoes.items()
    }
    async with running(list(servers.values())):
        http = HttpPost({name: f"http://127.0.0.1:{port_of(server)}" for name, server in servers.items()}, issuer)
        yield http
        await http.aclose()


@asynccontextmanager
async def served(house: House) -> AsyncIterator[int]:
    """Serve the gateway on a real port of this machine and yield it."""
    server = uvicorn.Server(server_config(house.app, host="127.0.0.1", port=0, log_level="critical"))
    async with running([server]):
        yield port_of(server)


def port_of(server: uvicorn.Server) -> int:
    port: int = server.servers[0].sockets[0].getsockname()[1]
    return port


@asynccontextmanager
async def running(servers: list[uvicorn.Server]) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(server.serve()) for server in servers]
    while not all(server.started for server in servers):
        await asyncio.sleep(0.01)
    try:
        yield
    finally:
        for server in servers:
            server.should_exit = True
        await asyncio.gather(*tasks)
