"""Do the subject's pages work in a real browser: without script, on a phone, for everybody, in both languages?

With `HABEAS_SCREENSHOTS=folder` a screenshot of every state goes there: look at them after a change of the looks.
"""

import asyncio
import os
import re
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI

from gateway.portal import Letter, portal_router
from shared.problems import TooMany
from shared.vocabulary import CaseState
from tests.fakes.door import CODE, COLLECTION_CODE, REFERENCE, FakeDoor, organisation, ready

playwright = pytest.importorskip("playwright.async_api", reason="playwright is not installed")
axe = pytest.importorskip("axe_playwright_python.async_playwright", reason="axe-playwright-python is not installed")
CHROMIUM = shutil.which("chromium") or ""
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no chromium on this machine")

ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
RULES = {
    "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
    "resultTypes": ["violations"],
}
PHONE, DESK = 375, 1200
NARROW = 320
"""WCAG 1.4.10: the width of a window of 1,280 pixels at 400 % zoom."""
Page = Any
Look = Callable[[Page, str], Awaitable[None]]


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Any]:
    async with playwright.async_playwright() as started:
        browser = await started.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        await browser.close()


async def photograph(page: Page, name: str) -> None:
    if folder := os.environ.get("HABEAS_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        await page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


async def letters() -> Sequence[Letter]:
    html = f"<p style='font-size:2em'>{CODE}</p>"
    return [
        Letter("l2", "karen@example.dk", "Din kode", f"Hej Karen\n\nKoden er {CODE}.", "7. marts 2026, 10:01", html),
        Letter("l1", "karen@example.dk", "Vi har modtaget din anmodning", "Hej Karen", "7. marts 2026, 10:00"),
    ]


class Quiet(uvicorn.Server):
    """A server that leaves the signals to pytest."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def running(app: FastAPI) -> AsyncIterator[str]:
    """Serve on a free port of this machine; yield the address."""
    server = Quiet(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", access_log=False))
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await task


@asynccontextmanager
async def served(door: FakeDoor, *, demo: bool = False) -> AsyncIterator[str]:
    """Serve the pages with `door` behind them; yield the address."""
    app = FastAPI(openapi_url=None)
    more: dict[str, Any] = {"demo_letters": letters, "demo_person": ("Karen Ærø", "karen@example.dk")} if demo else {}
    app.include_router(portal_router(door, list(door.organisations), secure=False, **more))
    async with running(app) as address:
        yield address


class Visitor:
    """A browser window that writes down every address it asks for."""

    def __init__(self, page: Page, address: str, language: str, look: Look) -> None:
        self.page = page
        self.address = address
        self.language = language
        self._look = look
        self.asked: list[str] = []
        page.on("request", lambda request: self.asked.append(request.url))

    async def go(self, path: str) -> None:
        await self.page.goto(f"{self.address}{path}?lang={self.language}")

    async def look(self, state: str) -> None:
        await self._look(self.page, state)

    async def press(self) -> None:
        """Press the page's main button."""
        await self.page.locator("main .govuk-button:not(.govuk-button--secondary)").first.click()

    async def fill(self, **fields: str) -> None:
        for name, value in fields.items():
            await self.page.locator(f"#{name}").fill(value)


async def walk(visitor: Visitor, door: FakeDoor) -> None:
    """Everything that a person can do, page by page; `look` sees each state."""
    case = f"/nordlys/requests/{REFERENCE}"
    await ask(visitor)
    await prove(visitor, door)
    await follow(visitor, case, door)
    await collect(visitor, case, door)
    troubles: dict[int, dict[str, Exception]] = {
        404: {}, 429: {"status": TooMany(retry_after=120)}, 500: {"status": RuntimeError()}
    }  # fmt: skip
    for status, door.trouble in troubles.items():
        await visitor.go(case if status != 404 else "/nordlys/nothing")
        await visitor.look(f"error-{status}")
    door.trouble = {}
    await visitor.go("/demo/letters")
    await visitor.look("letters")


async def ask(visitor: Visitor) -> None:
    page = visitor.page
    await visitor.go("/")
    await visitor.look("organisations")
    await page.locator(".choice").first.click()
    await visitor.look("start")
    await page.locator(".choice--first").click()
    await visitor.look("request")
    await visitor.fill(name="Karen Ærø", email="karen", message="Hej\n\nMit abonnement")
    await visitor.fill(**{"identifier-customer_number": "12"})
    await visitor.press()
    await visitor.look("request-mistakes")
    assert await page.locator(".govuk-error-summary:focus").count() == 1
    assert await page.locator("#message").input_value() == "Hej\n\nMit abonnement"
    await visitor.go("/nordlys/request")
    await visitor.press()
    await visitor.look("request-any-right")
    await page.locator("input[name=right]").nth(1).check()
    await visitor.fill(name="Karen Ærø", email="karen@example.dk")
    await visitor.press()
    await visitor.look("received")
    assert "karen" not in page.url


async def prove(visitor: Visitor, door: FakeDoor) -> None:
    page = visitor.page
    await page.locator("details summary").click()
    await visitor.look("received-no-code")
    await page.locator("details .govuk-button").click()
    await visitor.look("code-sent")
    await visitor.fill(code="87654321")
    await visitor.press()
    await visitor.look("code-wrong")
    door.trouble["verify"] = TooMany(retry_after=600)
    await visitor.fill(code=CODE)
    await visitor.press()
    await visitor.look("code-too-many")
    del door.trouble["verify"]
    await visitor.go("/nordlys/find")
    await visitor.fill(reference="7KQ4")
    await visitor.press()
    await visitor.look("find-unknown")
    await visitor.fill(reference=REFERENCE.lower())
    await visitor.press()
    await visitor.look("known")
    await page.locator("main a[href*='/code']").click()
    await visitor.fill(code=f"{CODE[:4]} {CODE[4:]}")
    await visitor.press()
    await visitor.look("verified")
    assert COLLECTION_CODE in await page.content()


async def follow(visitor: Visitor, case: str, door: FakeDoor) -> None:
    page = visitor.page
    await visitor.press()
    await visitor.look("status")
    await page.locator("main a[href*='/identifiers']").click()
    await visitor.press()
    await visitor.look("identifiers-empty")
    await page.locator("#identifier-phone").fill("12 34 56 78")
    await visitor.press()
    await visitor.look("status-offered")
    await page.locator("main a[href*='/withdraw']").click()
    await visitor.look("withdraw")
    await page.locator("main a").last.click()
    assert page.url.split("?")[0].endswith(case)


async def collect(visitor: Visitor, case: str, door: FakeDoor) -> None:
    page = visitor.page
    door.package_of_case, door.state = ready(), CaseState.FULFILLED
    door.headline, door.paragraphs = {
        "da": ("Dit svar er klar", ("Du kan hente det nu.",)),
        "en": ("Your answer is ready", ("You can collect it now.",)),
    }[visitor.language]
    await visitor.go(case)
    await visitor.look("status-ready")
    await visitor.press()
    await visitor.look("collect")
    await visitor.fill(code="AAAA")
    await visitor.press()
    await visitor.look("collect-wrong")
    await visitor.fill(code=COLLECTION_CODE)
    await visitor.press()
    await visitor.look("handover")
    await visitor.press()
    assert await page.locator("h1").inner_text() == "Dine oplysninger"
    await page.go_back()
    async with page.expect_download() as download:
        await page.locator(".offer form button").click()
    assert (await download.value).suggested_filename == f"habeas-{REFERENCE}.zip"
    await visitor.go(case)
    await visitor.look("status-collected")
    await visitor.go(f"{case}/handover")
    await page.locator(".offer form button").click()
    await visitor.look("gone")
    await visitor.go(case)
    await page.locator(".plain").click()
    await visitor.look("signed-out")
    await page.context.clear_cookies()
    await visitor.go(f"{case}/withdraw")
    await visitor.look("session-expired")
    door.headline = door.paragraphs = None


def two_organisations() -> FakeDoor:
    return FakeDoor(organisation(), organisation("soeborg", "Søborg Vand A/S"))


@pytest.mark.parametrize("language", ["da", "en"])
@pytest.mark.parametrize("width", [PHONE, DESK])
async def test_every_page_works_without_script_and_talks_to_nobody_else(
    browser: Any, language: str, width: int
) -> None:
    door = two_organisations()
    states = []

    async def look(page: Page, state: str) -> None:
        states.append(state)
        await photograph(page, f"{language}-{width}-{len(states):02}-{state}")
        assert await page.locator("html").get_attribute("lang") == language
        assert await page.locator("h1").count() == 1
        for narrow in (width, NARROW):
            await page.set_viewport_size({"width": narrow, "height": 800})
            wide = await page.evaluate("document.documentElement.scrollWidth")
            assert wide <= narrow, f"{state} scrolls sideways at {narrow} pixels"
        await page.set_viewport_size({"width": width, "height": 800})

    async with served(door, demo=True) as address:
        context = await browser.new_context(
            java_script_enabled=False, viewport={"width": width, "height": 800}, accept_downloads=True
        )
        visitor = Visitor(await context.new_page(), address, language, look)
        await walk(visitor, door)
        await context.close()
    assert len(states) == len(set(states)) > 25
    assert {re.match(r"\w+://[^/]+", url)[0] for url in visitor.asked} == {address}  # type: ignore[index]
    assert not any(word in url.lower() for url in visitor.asked for word in ("karen", CODE, "h7km", "abonnement"))


@pytest.mark.parametrize(
    ("language", "width", "scheme"),
    [
        ("da", PHONE, "light"),
        ("da", DESK, "light"),
        ("en", PHONE, "light"),
        ("en", DESK, "light"),
        ("da", PHONE, "dark"),
    ],
)
async def test_axe_finds_nothing_on_any_page(browser: Any, language: str, width: int, scheme: str) -> None:
    door = two_organisations()
    found: list[str] = []

    async def look(page: Page, state: str) -> None:
        results = await axe.Axe().run(page, options=RULES)
        for violation in results.response["violations"]:
            found.extend(f"{state}: {violation['id']}: {node['html']}" for node in violation["nodes"])

    async with served(door, demo=True) as address:
        context = await browser.new_context(
            viewport={"width": width, "height": 800}, color_scheme=scheme, accept_downloads=True, bypass_csp=True
        )
        await walk(Visitor(await context.new_page(), address, language, look), door)
        await context.close()
    assert found == []


async def test_a_request_can_be_sent_with_the_keyboard_alone(browser: Any) -> None:
    door = FakeDoor()
    async with served(door) as address:
        context = await browser.new_context(java_script_enabled=False)
        page = await context.new_page()
        await page.goto(f"{address}/nordlys/request?right=erasure&lang=da")
        await page.keyboard.press("Tab")
        assert await page.locator(".govuk-skip-link:focus").is_visible()
        await page.keyboard.press("Enter")
        focused = []
        for _ in range(7):
            await page.keyboard.press("Tab")
            focused.append(await page.evaluate("document.activeElement.id || document.activeElement.tagName"))
            await page.keyboard.type({"name": "Karen Ærø", "email": "karen@example.dk"}.get(focused[-1], ""))
        await page.keyboard.press("Tab")
        await page.keyboard.press("Enter")
        await page.wait_for_url("**/received?*")
        await context.close()
    asked = ["identifier-phone", "identifier-customer_number", "identifier-cpr"]
    assert focused == ["A", "name", "email", *asked, "message"]
    assert [call[2].name for call in door.calls if call[0] == "open_request"] == ["Karen Ærø"]


async def test_the_collection_code_can_be_printed_without_the_rest(browser: Any) -> None:
    async with served(FakeDoor(), demo=True) as address:
        page = await browser.new_page()
        await page.goto(f"{address}/nordlys/requests/{REFERENCE}/code?lang=da")
        await page.locator("#code").fill(CODE)
        await page.locator("main .govuk-button").first.click()
        await page.emulate_media(media="print")
        await photograph(page, "print")
        assert await page.locator(".keep__code").is_visible()
        for unwanted in (".demo", "main .govuk-button", ".govuk-skip-link"):
            assert not await page.locator(unwanted).first.is_visible()
        await page.close()


async def test_script_in_a_letter_does_not_run(browser: Any) -> None:
    door = FakeDoor()
    app = FastAPI(openapi_url=None)
    hostile = "<h1>A letter</h1><script>document.title='ran'</script><img src=x onerror=\"document.title='ran'\">"

    async def outbox() -> Sequence[Letter]:
        return [Letter("l1", "a@example.dk", "s", "t", "now", hostile)]

    app.include_router(portal_router(door, ["nordlys"], secure=False, demo_letters=outbox))
    async with running(app) as address:
        page = await browser.new_page()
        await page.goto(f"{address}/demo/letters/l1")
        assert await page.locator("h1").inner_text() == "A letter"
        assert await page.title() == ""
        await page.close()
