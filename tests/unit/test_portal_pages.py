"""Do the pages send the right things through the door, and show what comes back without trusting any of it?"""

from collections.abc import AsyncIterator, Sequence
from html.parser import HTMLParser
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from gateway.portal import Letter, portal_router
from gateway.portal.languages import Words
from gateway.portal.rights import RIGHTS
from shared.problems import Conflict, Gone, Invalid, TooMany, Unauthenticated, Unavailable
from shared.vocabulary import URGENT, CaseState, Language, Right
from tests.fakes.door import ANSWER, ARCHIVE, CODE, COLLECTION_CODE, REFERENCE, FakeDoor, organisation, ready

SAME = {"sec-fetch-site": "same-origin"}
CASE = f"/nordlys/requests/{REFERENCE}"
GOOD = {"right": "access", "name": "Karen Ærø", "email": "karen@example.dk", "once": "k1"}
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{7*7}}%(x)s"


def client(door: FakeDoor, **options: Any) -> httpx.AsyncClient:
    app = FastAPI(openapi_url=None)
    app.include_router(portal_router(door, list(door.organisations), **{"secure": False, **options}))
    transport = httpx.ASGITransport(app)
    return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000", headers=SAME)


@pytest.fixture
def door() -> FakeDoor:
    return FakeDoor()


@pytest.fixture
async def pages(door: FakeDoor) -> AsyncIterator[httpx.AsyncClient]:
    async with client(door) as pages:
        yield pages


async def sign_in(pages: httpx.AsyncClient) -> httpx.Response:
    return await pages.post(f"{CASE}/code?lang=da", data={"code": CODE})


async def sign_in_to_collect(pages: httpx.AsyncClient, door: FakeDoor) -> None:
    door.package_of_case = ready()
    await sign_in(pages)
    answer = await pages.post(f"{CASE}/collect", data={"code": COLLECTION_CODE})
    assert answer.headers["location"].startswith(f"{CASE}/handover")


class Text(HTMLParser):
    """The text of a page and its elements, as a browser would see them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text = ""
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


# --- asking ------------------------------------------------------------------------------------------------------------


async def test_one_organisation_needs_no_list(pages: httpx.AsyncClient) -> None:
    answer = await pages.get("/")
    assert (answer.status_code, answer.headers["location"]) == (303, "/nordlys")


async def test_several_organisations_are_listed_by_name() -> None:
    async with client(FakeDoor(organisation(), organisation("soeborg", "Søborg Vand"))) as pages:
        answer = await pages.get("/?lang=da")
    assert 'href="/soeborg?lang=da"' in answer.text
    assert "Søborg Vand" in answer.text


@pytest.mark.parametrize("language", ["da", "en"])
async def test_the_first_page_offers_every_right_with_its_article(pages: httpx.AsyncClient, language: str) -> None:
    html = (await pages.get(f"/nordlys?lang={language}")).text
    words = Words(Language(language))
    for right, about in RIGHTS.items():
        assert f"/nordlys/request?right={right}&amp;lang={language}" in html
        assert words.say(about.article) in html


def test_every_right_of_the_vocabulary_has_words() -> None:
    assert set(RIGHTS) == set(Right)


async def test_a_form_that_was_filled_in_opens_a_case_and_goes_on_to_the_received_page(
    pages: httpx.AsyncClient, door: FakeDoor
) -> None:
    answer = await pages.post("/nordlys/request?lang=en", data={**GOOD, "identifier-customer_number": "K123456"})
    assert (answer.status_code, answer.headers["location"]) == (303, f"{CASE}/received?lang=en")
    method, slug, new, once = door.calls[-1]
    assert (method, slug, once) == ("open_request", "nordlys", "k1")
    assert (new.right, new.language, new.name) == (Right.ACCESS, Language.ENGLISH, "Karen Ærø")


async def test_every_form_brings_an_idempotency_key_of_its_own(pages: httpx.AsyncClient) -> None:
    keys = set()
    for _ in range(2):
        page = Text((await pages.get("/nordlys/request")).text)
        keys |= {a["value"] for tag, a in page.elements if tag == "input" and a.get("name") == "once"}
    assert len(keys) == 2


@pytest.mark.parametrize("right", list(Right))
async def test_a_chosen_right_is_named_and_kept(pages: httpx.AsyncClient, right: Right) -> None:
    page = Text((await pages.get(f"/nordlys/request?right={right}&lang=da")).text)
    assert ("input", {"type": "hidden", "name": "right", "value": right.value}) in page.elements
    assert Words(Language.DANISH).say(RIGHTS[right].hint) in page.text


async def test_an_unknown_right_in_the_address_leaves_the_choice_open(pages: httpx.AsyncClient) -> None:
    page = Text((await pages.get("/nordlys/request?right=everything")).text)
    assert sum(a.get("type") == "radio" for _, a in page.elements) == len(Right)


async def test_mistakes_keep_what_was_written_and_put_nothing_into_the_address(
    pages: httpx.AsyncClient, door: FakeDoor
) -> None:
    answer = await pages.post("/nordlys/request?lang=da", data={**GOOD, "email": "karen", "message": "Hej\n\n  du"})
    page = Text(answer.text)
    assert answer.status_code == 422
    assert ("a", {"href": "#email"}) in page.elements
    assert "<title>Fejl: " in answer.text
    assert any(a.get("value") == "Karen Ærø" for _, a in page.elements)
    assert "Hej\n\n  du</textarea>" in answer.text
    assert [call for call in door.calls if call[0] == "open_request"] == []


@pytest.mark.parametrize("trouble", [Unavailable(), TooMany(retry_after=90), Invalid()])
async def test_when_the_case_cannot_be_opened_nothing_written_is_lost(
    pages: httpx.AsyncClient, door: FakeDoor, trouble: Unavailable | TooMany | Invalid
) -> None:
    door.trouble["open_request"] = trouble
    answer = await pages.post("/nordlys/request?lang=da", data=GOOD)
    assert answer.status_code == trouble.status
    assert 'value="Karen Ærø"' in answer.text
    assert "govuk-error-summary" in answer.text


async def test_a_rule_that_intake_alone_knows_is_told_at_its_field(pages: httpx.AsyncClient, door: FakeDoor) -> None:
    door.trouble["open_request"] = Invalid(errors=({"pointer": "/email", "detail": "x"}, {"pointer": "/nonsense"}))
    assert 'id="email-error"' in (await pages.post("/nordlys/request", data=GOOD)).text


async def test_too_many_tries_are_told_in_minutes(pages: httpx.AsyncClient, door: FakeDoor) -> None:
    door.trouble["verify"] = TooMany(retry_after=61)
    answer = await sign_in(pages)
    assert answer.status_code == 429
    assert "Vent 2 minutter" in answer.text


# --- proving -------------------------------------------------------------------------------------------------------


async def test_the_received_page_says_when_the_answer_comes_and_asks_for_the_code(pages: httpx.AsyncClient) -> None:
    html = (await pages.get(f"{CASE}/received?lang=da")).text
    assert REFERENCE in html
    assert "Du får svar senest 7. april." in html
    assert 'autocomplete="one-time-code"' in html


async def test_an_urgent_right_asks_for_no_code(pages: httpx.AsyncClient, door: FakeDoor) -> None:
    for right in URGENT:
        await pages.post("/nordlys/request?lang=da", data={**GOOD, "right": right.value})
        html = (await pages.get(f"{CASE}/received?lang=da")).text
        assert "Du skal ikke gøre mere nu." in html
        assert "one-time-code" not in html


async def test_the_right_code_signs_in_and_shows_the_collection_code_once(
    pages: httpx.AsyncClient, door: FakeDoor
) -> None:
    first = await sign_in(pages)
    assert first.status_code == 200
    assert COLLECTION_CODE in first.text
    assert "habeas=hbs_" in first.headers["set-cookie"]
    for mark in ("HttpOnly", "SameSite=lax", "Path=/", "Max-Age=1800"):
        assert mark in first.headers["set-cookie"]
    second = await sign_in(pages)
    assert (second.status_code, second.headers["location"]) == (303, f"{CASE}?lang=da")


async def test_over_https_the_cookie_is_bound_to_the_host() -> None:
    async with client(FakeDoor(), secure=True) as pages:
        assert (await pages.get("/nordlys")).headers.get("set-cookie") is None
        cookie = (await sign_in(pages)).headers["set-cookie"]
    assert cookie.startswith("__Host-habeas=")
    assert "Secure" in cookie
    assert "Domain" not in cookie


@pytest.mark.parametrize("code", ["", "1234567", "abcdefgh", "١٢٣٤٥٦٧٨"])
async def test_what_is_no_code_is_not_tried(pages: httpx.AsyncClient, door: FakeDoor, code: str) -> None:
    answer = await pages.post(f"{CASE}/code?lang=da", data={"code": code})
    assert answer.status_code == 422
    assert "Skriv de otte cifre" in answer.text
    assert [call for call in door.calls if call[0] == "verify"] == []


async def test_a_wrong_code_is_told_and_signs_nobody_in(pages: httpx.AsyncClient) -> None:
    answer = await pages.post(f"{CASE}/code?lang=da", data={"code": "87654321"})
    assert answer.status_code == 422
    assert "Koden virker ikke" in answer.text
    assert "set-cookie" not in answer.headers


async def test_a_new_code_is_sent_by_a_form_and_said_so(pages: httpx.AsyncClient, door: FakeDoor) -> None:
    answer = await pages.post(f"{CASE}/new-code?lang=da")
    assert answer.headers["location"] == f"{CASE}/code?done=sent&lang=da"
    assert ("resend_code", REFERENCE) in door.calls
    assert "Vi har sendt en ny kode" in (await pages.get(answer.headers["location"])).text
    door.trouble["resend_code"] = TooMany(retry_after=600)
    answer = await pages.post(f"{CASE}/new-code?lang=da")
    assert (answer.status_code, "Vent 10 minutter" in answer.text) == (429, True)


# --- following -----------------------------------------------------------------------------------------------------


async def test_without_a_session_the_reference_shows_dates_only(pages: httpx.AsyncClient, door: FakeDoor) -> None:
    door.headline = "Hemmelig"
    html = (await pages.get(f"{CASE}?lang=da")).text
    assert "7. april 2026" in html
    assert "Hemmelig" not in html
    assert "Se dine oplysninger" not in html


async def test_a_session_of_another_case_shows_dates_only(pages: httpx.AsyncClient) -> None:
    pages.cookies.set("habeas", "hbs_somebody_else")
    assert "Send mig en kode" in (await pages.get(f"{CASE}?lang=da")).text


async def test_the_person_reads_where_the_request_stands(pages: httpx.AsyncClient) -> None:
    await sign_in(pages)
    html = (await pages.get(f"{CASE}?lang=da")).text
    assert "Du får svar senest 7. april. Du skal ikke gøre mere nu." in html
    assert 'aria-current="step"' in html


async def test_a_paused_clock_shows_no_date(pages: httpx.AsyncClient, door: FakeDoor) -> None:
    door.due = None
    for path in (CASE, f"{CASE}/received"):
        assert "senest" not in (await pages.get(f"{path}?lang=da")).text


async def test_a_status_in_another_language_says_which(pages: httpx.AsyncClient, door: FakeDoor) -> None:
    await sign_in(pages)
    door.written_in = Language.DANISH
    assert '<h1 lang="da">' in (await pages.get(f"{CASE}?lang=en")).text
    assert "<h1>" in (await pages.get(f"{CASE}?lang=da")).text


@pytest.mark.parametrize("path", ["identifiers", "withdraw", "collect", "handover", "answer"])
async def test_pages_of_the_person_alone_send_everybody_else_to_the_code(pages: httpx.AsyncClient, path: str) -> None:
    for token in (None, "hbs_expired"):
        pages.cookies.clear()
        if token:
            pages.cookies.set("habeas", token)
        answer = await pages.get(f"{CASE}/{path}?lang=da")
        assert (answer.status_code, answer.headers["location"]) == (303, f"{CASE}?done=expired&lang=da")
        assert 'habeas=""' in answer.headers["set-cookie"]
    assert "logget ud" in (await pages.get(f"{CASE}?done=expired&lang=da")).text


@pytest.mark.parametrize("path", ["identifiers", "withdraw", "collect", "package"])
async def test_forms_of_the_person_alone_do_nothing_for_anybody_else(
    pages: httpx.AsyncClient, door: FakeDoor, path: str
) -> None:
    answer = await pages.post(f"{CASE}/{path}?lang=da", data={"identifier-phone": "12345678", "code": "X"})
    assert answer.headers["location"] == f"{CASE}?done=expired&lang=da"
    assert not {call[0] for call in door.calls} & {"offer_identifiers", "withdraw", "collect", "package"}


async def test_more_identifiers_are_checked_and_handed_on(pages: httpx.AsyncClient, door: FakeDoor) -> None:
    await sign_in(pages)
    empty = await pages.post(f"{CASE}/identifiers?lang=da", data={"identifier-phone": " "})
    assert (empty.status_code, "Udfyld mindst ét" in empty.text) == (422, True)
    wrong = await pages.post(f"{CASE}/identifiers?lang=da", data={"identifier-phone": "1"})
    assert (wrong.status_code, 'href="#identifier-phone"' in wrong.text) == (422, True)
    good = await pages.post(f"{CASE}/identifiers?lang=da", data={"identifier-phone": "12345678"})
    assert good.headers["location"] == f"{CASE}?done=offered&lang=da"
    assert door.calls[-1][2][0].type == "phone"
    assert "Når vi ved, at det er dit, søger vi med det" in (await pages.get(good.headers["location"])).text


async def test_withdrawing_is_asked_first_and_then_done(pages: httpx.AsyncClient, door: FakeDoor) -> None:
    await sign_in(pages)
    assert "Vil du trække din anmodning tilbage?" in (await pages.get(f"{CASE}/withdraw?lang=da")).text
    assert door.state is CaseState.IN_PROGRESS
    assert (await pages.post(f"{CASE}/withdraw?lang=da")).status_code == 303
    html = (await pages.get(f"{CASE}?lang=da")).text
    assert "Din anmodning er trukket tilbage" in html
    assert "/withdraw" not in html


async def test_withdrawing_too_late_is_explained(pages: httpx.AsyncClient, door: FakeDoor) -> None:
    await sign_in(pages)
    door.trouble["withdraw"] = Conflict()
    answer = await pages.post(f"{CASE}/withdraw?lang=da")
    assert (answer.status_code, "Det kan ikke lade sig gøre nu" in answer.text) == (409, True)


async def test_signing_out_ends_the_session_and_drops_the_cookie(pages: httpx.AsyncClient, door: FakeDoor) -> None:
    await sign_in(pages)
    token = pages.cookies["habeas"]
    answer = await pages.post("/nordlys/leave?lang=da")
    assert answer.headers["location"] == "/nordlys?done=left&lang=da"
    assert ("leave", token) in door.calls
    assert "habeas" not in pages.cookies
    assert "Du er logget ud" in (await pages.get(answer.headers["location"])).text
    assert (await pages.post("/nordlys/leave")).status_code == 303


async def test_a_reference_is_found_however_it_is_typed(pages: httpx.AsyncClient) -> None:
    answer = await pages.post("/nordlys/find?lang=da", data={"reference": " 7kq4m2xbr "})
    assert answer.headers["location"] == f"{CASE}?lang=da"


@pytest.mark.parametrize("reference", ["", "7KQ4-M2XB-9", "2222-2222-2"])
async def test_a_reference_that_nobody_has_is_said_at_the_field(pages: httpx.AsyncClient, reference: str) -> None:
    answer = await pages.post("/nordlys/find?lang=da", data={"reference": reference})
    assert (answer.status_code, 'id="reference-error"' in answer.text) == (422, True)


# --- collecting ----------------------------------------------------------------------------------------------------


async def test_the_answer_opens_with_the_second_proof_only(pages: httpx.AsyncClient, door: FakeDoor) -> None:
    door.package_of_case = ready()
    await sign_in(pages)
    for method, path in (("GET", "answer"), ("POST", "package")):
        refused = await pages.request(method, f"{CASE}/{path}?lang=da")
        assert refused.headers["location"] == f"{CASE}/collect?lang=da"
    wrong = await pages.post(f"{CASE}/collect?lang=da", data={"code": "AAAA-BBBB-CCCC"})
    assert (wrong.status_code, "Det er ikke afhentningskoden" in wrong.text) == (422, True)
    assert "AAAA" not in wrong.text


async def test_the_answer_is_streamed_as_it_is_under_a_policy_of_its_own(
    pages: httpx.AsyncClient, door: FakeDoor
) -> None:
    await sign_in_to_collect(pages, door)
    answer = await pages.get(f"{CASE}/answer?lang=da")
    assert answer.content == ANSWER
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "sandbox" in answer.headers["content-security-policy"]
    assert answer.headers["cache-control"] == "no-store"
    door.answer_headers = {"content-security-policy": "default-src 'none'; style-src 'sha256-x'", "set-cookie": "a=b"}
    answer = await pages.get(f"{CASE}/answer?lang=da")
    assert answer.headers["content-security-policy"] == "default-src 'none'; style-src 'sha256-x'"
    assert "set-cookie" not in answer.headers


async def test_the_files_are_handed_over_once_and_by_a_form_only(pages: httpx.AsyncClient, door: FakeDoor) -> None:
    await sign_in_to_collect(pages, door)
    assert (await pages.get(f"{CASE}/package")).status_code == 404
    files = await pages.post(f"{CASE}/package?lang=da")
    assert files.content == ARCHIVE
    assert files.headers["content-disposition"] == f'attachment; filename="habeas-{REFERENCE}.zip"'
    assert files.headers["content-length"] == str(len(ARCHIVE))
    again = await pages.post(f"{CASE}/package?lang=da")
    assert (again.status_code, "Det ligger her ikke længere" in again.text) == (410, True)
    assert "Du hentede svaret 3. april 2026." in (await pages.get(f"{CASE}?lang=da")).text


async def test_a_session_that_ends_before_the_download_leads_to_a_new_code(
    pages: httpx.AsyncClient, door: FakeDoor
) -> None:
    await sign_in_to_collect(pages, door)
    door.trouble["package"] = Unauthenticated()
    assert (await pages.post(f"{CASE}/package?lang=da")).headers["location"] == f"{CASE}?done=expired&lang=da"


async def test_a_locked_collection_says_how_to_get_a_new_code(pages: httpx.AsyncClient, door: FakeDoor) -> None:
    await sign_in(pages)
    door.trouble["collect"] = TooMany()
    answer = await pages.post(f"{CASE}/collect?lang=da", data={"code": COLLECTION_CODE})
    assert (answer.status_code, "For mange forkerte koder" in answer.text) == (429, True)
    door.trouble["collect"] = TooMany(retry_after=60)
    assert "Vent 1 minut," in (await pages.post(f"{CASE}/collect?lang=da", data={"code": "x"})).text


# --- hostile -------------------------------------------------------------------------------------------------------


async def test_hostile_text_is_shown_as_text_on_every_page(door: FakeDoor) -> None:
    async def letters() -> Sequence[Letter]:
        return [Letter(id=HOSTILE, to=HOSTILE, subject=HOSTILE, text=HOSTILE, sent_at="now", html=HOSTILE)]

    info = organisation(name=HOSTILE)
    door.organisations = {"nordlys": info, "other": organisation("other", HOSTILE)}
    door.headline, door.paragraphs = HOSTILE, (HOSTILE, HOSTILE)
    async with client(door, demo_letters=letters, demo_person=(HOSTILE, HOSTILE)) as pages:
        await sign_in(pages)
        written = {"right": "x", "name": HOSTILE, "email": HOSTILE, "message": HOSTILE, "once": HOSTILE}
        answers = [
            await pages.get("/"),
            await pages.get("/nordlys"),
            await pages.post("/nordlys/request", data={**written, "identifier-phone": HOSTILE}),
            await pages.post("/nordlys/find", data={"reference": HOSTILE}),
            await pages.get(CASE),
            await pages.get("/demo/letters"),
            await pages.get(f"/nordlys?lang={HOSTILE}&done={HOSTILE}"),
        ]
    for answer in answers:
        page = Text(answer.text)
        assert not {tag for tag, _ in page.elements} & {"script", "img"}
        assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
        assert "49" not in page.text.replace("4902", "")
    assert any(a.get("value") == HOSTILE for _, a in Text(answers[2].text).elements)


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "none"},
        {"sec-fetch-site": "cross-site", "origin": "http://127.0.0.1:8000"},
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:8001"},
        {},
    ],
)
async def test_forms_from_elsewhere_change_nothing(door: FakeDoor, headers: dict[str, str]) -> None:
    async with client(door) as pages:
        del pages.headers["sec-fetch-site"]
        answer = await pages.post("/nordlys/request?lang=da", data=GOOD, headers=headers)
    assert answer.status_code == 403
    assert door.calls == []


async def test_a_browser_that_states_only_our_origin_is_believed(door: FakeDoor) -> None:
    async with client(door) as pages:
        del pages.headers["sec-fetch-site"]
        answer = await pages.post("/nordlys/request", data=GOOD, headers={"origin": "http://127.0.0.1:8000"})
    assert answer.status_code == 303


@pytest.mark.parametrize("path", ["/nordlys", CASE, f"{CASE}/received", "/nordlys/nothing", "/nobody"])
async def test_every_page_forbids_script_frames_and_strangers(pages: httpx.AsyncClient, path: str) -> None:
    answer = await pages.get(path)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src" not in policy
    assert "frame-ancestors 'none'" in policy
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "same-origin"


# --- errors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    ["/nobody", "/nordlys/nothing", "/nordlys/requests/AAAA-BBBB-C", "/a/b/c/d", "/nordlys/leave", "/static/x.css",
     "/static/..%2f..%2fdoor.py", "/demo/letters", "/demo/letters.json", "/nordlys/requests/2222-2222-2"],
)  # fmt: skip
async def test_what_is_not_there_is_a_page_that_says_so(pages: httpx.AsyncClient, path: str) -> None:
    for language, words in (("da", "Vi kan ikke finde den side"), ("en", "We cannot find that page")):
        answer = await pages.get(f"{path}?lang={language}")
        assert answer.status_code == 404
        assert words in answer.text
        assert f'<html lang="{language}">' in answer.text


async def test_an_error_nobody_thought_of_is_a_page_that_says_nothing_about_it(
    pages: httpx.AsyncClient, door: FakeDoor
) -> None:
    for broken in (RuntimeError("karen@example.dk"), ValueError("karen@example.dk")):
        door.trouble["status"] = broken
        answer = await pages.get(f"{CASE}?lang=da")
        assert (answer.status_code, "Noget gik galt" in answer.text) == (500, True)
        assert "karen" not in answer.text


@pytest.mark.parametrize(
    ("trouble", "status", "words"),
    [
        (TooMany(retry_after=120), 429, "Vent 2 minutter"),
        (Unavailable(retry_after=5), 503, "Vi har et problem lige nu"),
        (Gone(), 410, "Det ligger her ikke længere"),
    ],
)
async def test_each_problem_has_its_page(
    pages: httpx.AsyncClient, door: FakeDoor, trouble: TooMany | Unavailable | Gone, status: int, words: str
) -> None:
    door.trouble["status"] = trouble
    answer = await pages.get(f"{CASE}?lang=da")
    assert (answer.status_code, words in answer.text) == (status, True)
    assert answer.headers.get("retry-after") == (str(trouble.retry_after) if trouble.retry_after else None)


async def test_bodies_that_are_no_form_are_refused_with_a_page(pages: httpx.AsyncClient) -> None:
    answer = await pages.post("/nordlys/request?lang=da", json=GOOD)
    assert (answer.status_code, "Vi kunne ikke læse" in answer.text) == (415, True)
    answer = await pages.post("/nordlys/request?lang=da", data={"message": "x" * 70_000})
    assert answer.status_code == 413
    headers = {"content-type": "application/x-www-form-urlencoded"}
    answer = await pages.post("/nordlys/request?lang=da", content=b"name=%FF", headers=headers)
    assert answer.status_code == 400


async def test_signing_out_without_a_reference_in_the_path_never_loops(
    pages: httpx.AsyncClient, door: FakeDoor
) -> None:
    door.trouble["organisation_info"] = Unauthenticated()
    assert (await pages.get("/nordlys")).status_code == 401


# --- files and demo ------------------------------------------------------------------------------------------------


async def test_our_own_files_carry_their_hash_and_may_be_kept_for_ever(pages: httpx.AsyncClient) -> None:
    page = Text((await pages.get("/nordlys")).text)
    paths = [a["href"] for tag, a in page.elements if tag == "link"]
    assert len(paths) == 2
    for path in paths:
        assert path is not None
        for encoding in ("gzip", "identity"):
            answer = await pages.get(path, headers={"accept-encoding": encoding})
            assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
            assert answer.headers.get("content-encoding") == ("gzip" if encoding == "gzip" else None)
            assert answer.headers["content-type"].startswith(("text/css", "image/svg+xml"))
            assert answer.content.startswith((b"/*", b"<svg"))


async def letters() -> Sequence[Letter]:
    return [
        Letter("l2", "karen@example.dk", "Din kode", "Koden er 12345678.", "2026-03-07T10:01:00Z", "<p>12345678</p>"),
        Letter("l1", "karen@example.dk", "Vi har modtaget din anmodning", "Hej Karen", "2026-03-07T10:00:00Z"),
    ]


async def test_the_demo_shows_its_letters_and_says_on_every_page_that_it_is_one(door: FakeDoor) -> None:
    async with client(door, demo_letters=letters, demo_person=("Karen Ærø", "karen@example.dk")) as pages:
        for path in ("/nordlys", CASE, "/nobody", "/demo/letters"):
            html = (await pages.get(f"{path}?lang=da")).text
            assert "DEMO" in html
            assert "karen@example.dk" in html
        assert "Koden er 12345678." in (await pages.get("/demo/letters")).text
        assert [letter["id"] for letter in (await pages.get("/demo/letters.json")).json()] == ["l2", "l1"]
        one = await pages.get("/demo/letters/l2")
        assert (one.text, "sandbox" in one.headers["content-security-policy"]) == ("<p>12345678</p>", True)
        assert (await pages.get("/demo/letters/l1")).status_code == 404
        assert (await pages.get("/demo/letters/l3")).status_code == 404


async def test_the_letters_of_the_demo_are_for_this_machine_alone(door: FakeDoor) -> None:
    app = FastAPI(openapi_url=None)
    app.include_router(portal_router(door, ["nordlys"], secure=False, demo_letters=letters))
    for address, status in (("127.0.0.1", 200), ("::1", 200), ("192.0.2.7", 404), ("unix", 404)):
        transport = httpx.ASGITransport(app, client=(address, 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as pages:
            assert (await pages.get("/demo/letters.json")).status_code == status


def test_an_organisation_may_not_be_called_like_a_path_of_the_gateway() -> None:
    with pytest.raises(ValueError, match="demo, v1"):
        portal_router(FakeDoor(), ["nordlys", "v1", "demo"])
