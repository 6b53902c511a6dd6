"""Can everybody read the answer, on a phone too, and does its own policy let its style through and nothing else?

With `HABEAS_SCREENSHOTS=folder` a screenshot of every page goes there: look at them after a change of the looks.
"""

import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from services.exporter.answer import render_answer, render_letter
from services.exporter.contents import Withheld
from shared.messages import Searched
from shared.vocabulary import Language, Right, TaskState
from tests.support.packages import CUSTOMER, MESSAGE, line, person, plan, source, tally

playwright = pytest.importorskip("playwright.async_api", reason="playwright is not installed")
axe = pytest.importorskip("axe_playwright_python.async_playwright", reason="axe-playwright-python is not installed")
CHROMIUM = shutil.which("chromium") or ""
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no chromium on this machine")

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}
MARKS = [Withheld(*CUSTOMER, "17", "note", "habeas:A15-4-third-party")]
LINES = person() | {
    MESSAGE: [line(MESSAGE, str(key), {"id": key, "body": "Enlangtekstudenmellemrum" * 20}) for key in range(20)]
}
NOTHING = [Searched(system="crm", state=TaskState.NOTHING), Searched(system="archive", state=TaskState.NOT_SEARCHED)]


def answer(right: Right, language: Language) -> bytes:
    facts = plan(right, language, withheld=MARKS, held_back=2)
    return b"".join(render_answer(facts, source(LINES), language, tally(LINES), packaged=True))


PAGES = {
    "access-da": answer(Right.ACCESS, Language.DANISH),
    "access-en": answer(Right.ACCESS, Language.ENGLISH),
    "portability-da": answer(Right.PORTABILITY, Language.DANISH),
    "nothing-da": render_letter(plan(searched=NOTHING), Language.DANISH, tally({})).encode(),
}


@pytest.fixture(scope="module")
async def chromium() -> AsyncIterator[Any]:
    async with playwright.async_playwright() as started:
        browser = await started.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        await browser.close()


@pytest.mark.parametrize(("width", "scheme"), [(320, "light"), (375, "dark"), (1200, "light")])
@pytest.mark.parametrize("name", PAGES)
async def test_everybody_can_read_the_answer(chromium: Any, tmp_path: Path, name: str, width: int, scheme: str) -> None:
    file = tmp_path / "index.html"
    file.write_bytes(PAGES[name])
    view = {"width": width, "height": 800}
    # axe is itself a script, which the page's policy would refuse.
    context = await chromium.new_context(viewport=view, color_scheme=scheme, bypass_csp=True)
    page = await context.new_page()
    await page.goto(file.as_uri())
    for summary in await page.query_selector_all("summary"):
        await summary.click()
    found = await axe.Axe().run(page, options=RULES)
    assert found.violations_count == 0, found.generate_report()
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    if folder := os.environ.get("HABEAS_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        await page.screenshot(path=Path(folder) / f"answer-{name}-{width}-{scheme}.png", full_page=True)
    await context.close()


async def test_the_pages_own_policy_lets_its_style_through_and_no_script(chromium: Any, tmp_path: Path) -> None:
    file = tmp_path / "index.html"
    file.write_bytes(PAGES["access-da"].replace(b"</main>", b"<script>document.title='run'</script></main>"))
    context = await chromium.new_context()
    page = await context.new_page()
    refused: list[str] = []
    page.on("console", lambda message: refused.append(message.text))
    await page.goto(file.as_uri())
    assert await page.evaluate("getComputedStyle(document.querySelector('.sheet')).borderRadius") == "12px"
    assert await page.title() != "run"
    assert len(refused) == 1
    assert "script" in refused[0]
    await context.close()
