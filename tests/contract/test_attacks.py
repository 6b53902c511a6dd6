"""Attacks on the whole suite, wired in one process. Each test names the finding (design or attacks.md) it stands for."""

import asyncio
import os
import zipfile
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from habeas.cli import app
from habeas.keys import Keys
from services.intake.cases import MOST_OF_A_CASE
from services.intake.letters.outbox import ACKNOWLEDGED_PER_HOUR
from services.intake.verification import COLLECTION_TRIES, TRIES
from shared.ids import new_id, new_reference
from tests.support.suite import ORG, OTHER, Suite, running_suite, until

SECOND_PERSON = "urn:habeas:problem:second-person-needed"
DOUBT = "contact_unknown"


@pytest.fixture(scope="module")
async def suite(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Suite]:
    async with running_suite(tmp_path_factory.mktemp("attacked")) as found:
        yield found


async def settled(suite: Suite, reference: str) -> dict[str, Any]:
    """Wait until the search has ended, whatever came of it."""

    async def ended() -> dict[str, Any] | None:
        case = await suite.case(reference)
        return case if case["state"] != "in_progress" or "approval" in case["outstanding"] else None

    found: dict[str, Any] = await until(ended)
    return found


def everything(package: zipfile.ZipFile) -> str:
    return "\n".join(package.read(name).decode(errors="replace") for name in package.namelist())


def kind(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["type"].rpartition(":")[2]


# --- one insider alone (design §3.6; CVE-2026-42303: the guard stands on the executing step) --------------------------


async def test_a_handler_s_own_doubt_and_own_mailbox_do_not_wash_their_confirmation_off(suite: Suite) -> None:
    """Anna writes a request down with her own address, "confirms" a customer, doubts, and answers the code herself."""
    reference, case = await suite.written_down()
    assert (await suite.confirm(case, "email", "soeren@example.dk")).status_code == 200
    doubt = {"doubt": DOUBT, "words": "Hvem er du?", "pause": False}
    assert (await suite.call("POST", f"/cases/{case}/ask-identity", by="anna", json=doubt)).status_code == 200
    session = await suite.verify(reference)
    assert session["collection_code"] is None
    assert (await suite.call("POST", f"/cases/{case}/resume", by="anna")).status_code == 409
    assert kind(await suite.approve(case, by="anna"))[1] in {"identity-not-proven", "second-person-needed"}


async def test_who_proved_one_identifier_cannot_approve_after_another_handler_confirmed_a_harmless_one(
    suite: Suite,
) -> None:
    reference, case = await suite.written_down()
    await suite.confirm(case, "email", "soeren@example.dk", by="anna")
    await suite.confirm(case, "email", "anna.privat@example.com", by="bent")
    await suite.waiting(reference)
    for name in ("anna", "bent"):
        assert kind(await suite.approve(case, by=name)) == (403, "second-person-needed")


async def test_what_a_handler_alone_confirmed_is_not_released_by_itself(suite: Suite) -> None:
    """Portability leaves without approval here, but not on one handler's word."""
    reference, case = await suite.written_down(right="portability")
    await suite.confirm(case, "email", "soeren@example.dk")
    assert (await settled(suite, reference))["state"] == "in_progress"
    assert (await suite.approve(case, by="anna")).json()["type"] == SECOND_PERSON
    own, own_case, _ = await suite.proven(right="portability")
    assert (await settled(suite, own))["state"] != "in_progress", "the person's own proof is enough"
    assert own_case


async def test_who_says_that_a_doubtful_record_is_the_person_s_cannot_release_it_alone(suite: Suite) -> None:
    reference, case, _ = await suite.proven(name="Sigurd Nybo", email="genbrugt@example.dk")
    await suite.waiting(reference)
    (doubtful,) = await suite.records(case)
    assert doubtful["doubt"] == "name_mismatch"
    await suite.mark(case, doubtful["id"], "confirm", by="anna")
    assert (await suite.approve(case, by="anna")).status_code == 200
    await suite.waiting(reference)  # it comes back
    assert (await suite.call("GET", f"/cases/{case}/package", by="anna")).status_code == 409
    assert (await suite.approve(case, by="bent")).status_code == 200
    await suite.answered(reference)


async def test_a_doubt_that_comes_while_the_search_runs_stops_the_automatic_release(suite: Suite) -> None:
    reference, case, session = await suite.proven(right="portability")
    doubt = {"doubt": DOUBT, "words": "Hvem er du?", "pause": False}
    assert (await suite.call("POST", f"/cases/{case}/ask-identity", by="anna", json=doubt)).status_code == 200
    assert (await settled(suite, reference))["state"] == "in_progress"
    assert kind(await suite.approve(case)) == (409, "identity-not-proven")
    # The mailbox that is doubted does not end the doubt, and the code it was shown opens nothing afterwards.
    first = await suite.code(reference)
    assert (await suite.call("POST", f"/requests/{reference}/code")).status_code == 202
    await until(lambda: _other_code(suite, reference, first))
    assert (await suite.verify(reference))["collection_code"] is None
    assert kind(await suite.approve(case)) == (409, "identity-not-proven")
    await suite.confirm(case, "email", "soeren@example.dk", by="anna")
    await suite.waiting(reference)
    assert (await suite.approve(case, by="bent")).status_code == 200
    await suite.answered(reference)
    tried = {"collection_code": session["collection_code"]}
    answer = await suite.call("POST", f"/requests/{reference}/collection", by=session["token"], json=tried)
    assert kind(answer) == (422, "collection-code-wrong")


async def _other_code(suite: Suite, reference: str, first: str) -> bool:
    return await suite.code(reference) != first


async def test_a_mailbox_alone_gets_no_collection_code_where_a_handler_proved_who_asks(suite: Suite) -> None:
    reference, case = await suite.written_down(email="en.anden@example.com")
    await suite.confirm(case, "email", "soeren@example.dk", by="anna")
    await suite.waiting(reference)
    await suite.approve(case, by="bent")
    await suite.answered(reference)
    session = await suite.verify(reference)
    assert session["collection_code"] is None
    for path in ("answer", "package"):
        assert (await suite.call("GET", f"/requests/{reference}/{path}", by=session["token"])).status_code == 403


async def test_two_proven_addresses_do_not_lend_one_another_evidence(suite: Suite) -> None:
    """A receipt says that a system holds "an e-mail address": not that it holds the one nobody there knows."""
    reference, case, _ = await suite.proven(name="Søren Østergård", email="ukendt@example.com")
    await suite.waiting(reference)
    await suite.confirm(case, "email", "soeren@example.dk")
    await suite.waiting(reference)
    shown = (await suite.call("GET", f"/cases/{case}", by="anna")).json()["identifiers"]
    levels = {one["value"]: one["assurance"] for one in shown}
    assert levels == {"ukendt@example.com": "controlled", "soeren@example.dk": "documented"}


# --- passing for somebody else (attacks.md §2: GDPArrrrr, shared and recycled addresses) -------------------------------


async def test_a_list_of_names_does_not_fit_whoever_had_the_address_before(suite: Suite) -> None:
    names = "Anna Mette Lars Gerda Peter Søren Jensen Nielsen Hansen Lund Gammelgaard Ond"
    reference, case, _ = await suite.proven(name=names, email="genbrugt@example.dk", right="portability")
    assert (await settled(suite, reference))["state"] == "in_progress"
    assert {record["doubt"] for record in await suite.records(case)} == {"name_mismatch"}


@pytest.mark.parametrize("name", ["Mette Lund", "Mette Lars Lund"])
async def test_of_a_shared_address_only_the_one_who_asks_is_answered(suite: Suite, name: str) -> None:
    reference, case, _ = await suite.proven(name=name, email="familie@example.dk")
    await suite.waiting(reference)
    await suite.approve(case)
    await suite.answered(reference)
    content = everything(await suite.package(case))
    assert "planted-lars" not in content
    assert ("planted-mette" in content) == (name == "Mette Lund")


async def test_a_claimed_identifier_finds_nobody(suite: Suite) -> None:
    given = [{"type": "customer_number", "value": "K3"}, {"type": "email", "value": "familie@example.dk"}]
    reference, case, session = await suite.proven(name="Lars Lund", email="lars.ny@example.com", identifiers=given)
    more = {"identifiers": [{"type": "customer_number", "value": "K2"}]}
    offered = await suite.call("POST", f"/requests/{reference}/identifiers", by=session["token"], json=more)
    assert offered.status_code == 202
    assert (await suite.call("POST", f"/cases/{case}/plan", by="anna")).status_code == 200
    await suite.waiting(reference)
    assert await suite.records(case) == []


async def test_an_identifier_is_a_value_and_never_a_piece_of_sql(suite: Suite) -> None:
    reference, case = await suite.written_down()
    assert (await suite.confirm(case, "customer_number", "x' OR '1'='1")).status_code == 200
    await suite.waiting(reference)
    assert await suite.records(case) == []


async def test_spellings_of_one_address_are_one_address_and_others_are_others(suite: Suite) -> None:
    """The throttle counts normal forms; a plus-address or a look-alike proves itself and nobody else."""
    same = [await suite.ask(email=text) for text in ("Ens@Example.dk", "ens@example.dk", "ENS@EXAMPLE.DK")]
    for reference in same:
        await suite.code(reference)
    reference, case, _ = await suite.proven(email="soeren+x@example.dk")
    await suite.waiting(reference)
    assert await suite.records(case) == []
    to = {letter.to for letter in await suite.mailbox.letters() if any(one in letter.text for one in same)}
    assert to == {"ens@example.dk"}


# --- the code and the session (CVE-2023-48224, CVE-2024-45052, CVE-2025-57815) ----------------------------------------


async def test_one_code_opens_one_session_however_many_try_at_once(suite: Suite) -> None:
    reference = await suite.ask()
    body = {"code": await suite.code(reference)}
    path = f"/requests/{reference}/verification"
    answers = await asyncio.gather(*(suite.call("POST", path, json=body) for _ in range(8)))
    assert Counter(answer.status_code for answer in answers) == {200: 1, 422: 7}
    assert kind(await suite.call("POST", path, json=body)) == (422, "code-wrong")


async def test_guesses_use_the_code_up_and_the_right_one_then_opens_nothing(suite: Suite) -> None:
    reference = await suite.ask(email="gaettet@example.com")
    code = await suite.code(reference)
    path = f"/requests/{reference}/verification"
    guesses = [{"code": f"{(int(code) + n + 1) % 10**8:08d}"} for n in range(TRIES)]
    await asyncio.gather(*(suite.call("POST", path, json=guess) for guess in guesses))
    assert kind(await suite.call("POST", path, json={"code": code})) == (422, "code-wrong")


async def test_a_code_for_one_request_proves_no_other(suite: Suite) -> None:
    mine, theirs = await suite.ask(email="mig@example.com"), await suite.ask()
    answer = await suite.call("POST", f"/requests/{theirs}/verification", json={"code": await suite.code(mine)})
    assert kind(answer) == (422, "code-wrong")


async def test_a_withdrawn_request_is_not_searched_by_a_late_code(suite: Suite) -> None:
    reference = await suite.ask(email="sent@example.com")
    code, case = await suite.code(reference), (await suite.case(reference))["id"]
    assert (await suite.call("POST", f"/cases/{case}/withdraw", by="anna")).status_code == 200
    session = await suite.verify(reference, code)
    assert session["collection_code"] is None
    assert (await suite.case(reference))["state"] == "withdrawn"
    assert (await suite.call("GET", f"/cases/{case}/records", by="anna")).status_code == 409


async def test_a_known_and_an_unknown_person_get_the_same_answers(suite: Suite) -> None:
    told = []
    for email in (suite.somebody(), "ingen@example.com"):
        reference = await suite.ask(email=email)
        answers = [
            await suite.call("GET", f"/requests/{reference}"),
            await suite.call("POST", f"/requests/{reference}/code"),
            await suite.call("POST", f"/requests/{reference}/verification", json={"code": "00000000"}),
        ]
        told.append([(answer.status_code, answer.text.replace(reference, "R")) for answer in answers])
    assert told[0] == told[1]


async def test_a_session_opens_its_own_request_and_no_other_in_any_spelling_or_organisation(suite: Suite) -> None:
    mine, _, session = await suite.proven()
    theirs, token = await suite.ask(email="eva@example.dk"), session["token"]
    unknown = new_reference()
    for reference in (theirs, theirs.lower(), theirs.replace("-", ""), unknown):
        for method, tail in (("GET", ""), ("DELETE", ""), ("GET", "/answer"), ("GET", "/package")):
            answer = await suite.call(method, f"/requests/{reference}{tail}", by=token)
            assert kind(answer) == (404, "not-found")
    assert (await suite.call("GET", f"/requests/{mine}", by=token, org=OTHER)).status_code == 401
    assert (await suite.call("GET", f"/requests/{mine}", org=OTHER)).status_code == 404
    for path in ("/cases", "/tasks", "/audit", "/events", "/accounts", "/systems"):
        assert (await suite.call("GET", path, by=token)).status_code == 403


# --- collecting (attacks.md §2: deliver by a second factor) -----------------------------------------------------------


async def sealed(suite: Suite) -> tuple[str, str, dict[str, Any]]:
    reference, case, session = await suite.proven()
    await suite.waiting(reference)
    assert (await suite.approve(case)).status_code == 200
    await suite.answered(reference)
    return reference, case, session


async def test_nothing_is_handed_over_before_the_release_to_anybody(suite: Suite) -> None:
    reference, case, session = await suite.proven()
    await suite.waiting(reference)
    assert (await suite.call("GET", f"/cases/{case}/package", by="anna")).status_code == 409
    assert (await suite.call("POST", f"/cases/{case}/collected", by="anna")).status_code in {409, 415, 413}
    code = {"collection_code": session["collection_code"]}
    answer = await suite.call("POST", f"/requests/{reference}/collection", by=session["token"], json=code)
    assert kind(answer) == (409, "not-ready")


async def test_the_package_is_collected_once_and_cached_nowhere(suite: Suite) -> None:
    reference, _, session = await sealed(suite)
    path = f"/requests/{reference}"
    assert (await suite.call("GET", f"{path}/package", by=session["token"])).status_code == 403
    code = {"collection_code": session["collection_code"]}
    second = await suite.call("POST", f"{path}/collection", by=session["token"], json=code)
    package = await suite.call("GET", f"{path}/package", by=second.json()["token"])
    assert (package.status_code, package.headers["cache-control"]) == (200, "no-store")
    assert (await suite.call("GET", f"{path}/package", by=second.json()["token"])).status_code == 410
    again = await suite.call("POST", f"{path}/collection", by=session["token"], json=code)
    assert again.status_code == 410


async def test_guessing_the_collection_code_locks_it_in_every_session(suite: Suite) -> None:
    reference, _, session = await sealed(suite)
    first = await suite.code(reference)
    await suite.call("POST", f"/requests/{reference}/code")
    await until(lambda: _other_code(suite, reference, first))
    other = await suite.verify(reference)
    assert other["collection_code"] is None, "it is shown once"
    path = f"/requests/{reference}/collection"
    wrong = {"collection_code": "2222-2222-2222"}
    tokens = [session["token"], other["token"]] * (COLLECTION_TRIES // 2)
    await asyncio.gather(*(suite.call("POST", path, by=token, json=wrong) for token in tokens))
    right = {"collection_code": session["collection_code"]}
    assert kind(await suite.call("POST", path, by=other["token"], json=right)) == (429, "collection-locked")


async def test_what_was_withheld_or_never_opened_does_not_leave(suite: Suite) -> None:
    reference, case, _ = await suite.proven(name="Eva Ond", email="eva@example.dk")
    await suite.waiting(reference)
    assert (await suite.approve(case)).status_code == 200
    await suite.waiting(reference)  # unopened free text: it comes back
    customer = next(one for one in await suite.records(case) if one["to_open"])
    await suite.mark(case, customer["id"], "withhold", field="address", reason="habeas:A15-4-third-party")
    await suite.mark(case, customer["id"], "open")
    _, other_case, _ = await suite.proven(email="anden@example.com")
    foreign = {"record": customer["id"], "verb": "open"}
    answer = await suite.call("POST", f"/cases/{other_case}/marks", by="anna", json=foreign)
    assert answer.status_code == 404
    assert (await suite.approve(case)).status_code == 200
    await suite.answered(reference)
    assert "planted" not in everything(await suite.package(case))


# --- what a value may do (CVE-2023-47114, CSV formulas) ---------------------------------------------------------------


async def test_a_record_s_values_run_nowhere(suite: Suite) -> None:
    reference, case, _ = await suite.proven(name="Eva Ond", email="eva@example.dk", message="<b>planted-message</b>")
    await suite.waiting(reference)
    customer = next(one for one in await suite.records(case) if one["to_open"])
    await suite.mark(case, customer["id"], "open")
    await suite.approve(case)
    await suite.answered(reference)
    package = await suite.package(case)
    pages = [package.read(name).decode() for name in package.namelist() if name.endswith(".html")]
    assert pages
    assert not any("<script" in page or "<b>planted" in page for page in pages)
    table = next(name for name in package.namelist() if name.endswith("crm.customer.csv"))
    assert ",\"'=HYPERLINK(" in package.read(table).decode()
    letters = [letter for letter in await suite.mailbox.letters() if reference in letter.text]
    assert not any("planted-message" in (letter.html or "") + letter.text for letter in letters)


@pytest.mark.parametrize("name", ["Søren\u202eevil", "Søren\x00", "Søren\r\nBcc: evil@example.com", "  "])
async def test_a_name_that_would_read_as_another_is_refused(suite: Suite, name: str) -> None:
    body = {"right": "access", "name": name, "email": "soeren@example.dk"}
    assert (await suite.call("POST", "/requests", json=body)).status_code == 422


# --- floods (attacks.md §2: weaponised requests) ----------------------------------------------------------------------


async def test_a_stranger_s_mailbox_is_not_filled_with_acknowledgements(suite: Suite) -> None:
    rights = ["access", "marketing_objection"] * (ACKNOWLEDGED_PER_HOUR + 2)
    references = [await suite.ask(email="offer@example.com", right=right) for right in rights]

    async def drained() -> bool:
        letters = (await suite.call("GET", f"/cases/{last}", by="anna")).json()["letters"]
        return all(letter["state"] != "queued" for letter in letters)

    last = (await suite.case(references[-1]))["id"]
    await until(drained)
    sent = [letter for letter in await suite.mailbox.letters() if letter.to == "offer@example.com"]
    assert len(sent) <= 2 * ACKNOWLEDGED_PER_HOUR, "as many acknowledgements as codes"
    assert (await suite.call("GET", f"/requests/{references[-1]}")).status_code == 200, "the request stands"


async def test_a_proven_person_cannot_fill_the_house(suite: Suite) -> None:
    reference, _, session = await suite.proven(email="flittig@example.com")
    path, sent = f"/requests/{reference}/identifiers", []
    for batch in range(MOST_OF_A_CASE // 10 + 1):
        given = [{"type": "account", "value": f"{batch}-{n}"} for n in range(10)]
        sent.append(await suite.call("POST", path, by=session["token"], json={"identifiers": given}))
    assert kind(sent[-1]) == (409, "too-many-identifiers")
    calls = [suite.call("GET", f"/requests/{reference}", by=session["token"]) for _ in range(260)]
    assert 429 in {answer.status_code for answer in await asyncio.gather(*calls)}


async def test_a_guessed_idempotency_key_shows_nothing_of_whose_it_is(suite: Suite) -> None:
    key = {"idempotency-key": "gaettet-noegle-1"}
    body = {"right": "access", "name": "Søren Østergård", "email": "soeren@example.dk"}
    theirs = (await suite.call("POST", "/requests", json=body, headers=key)).json()["reference"]
    other = await suite.call("POST", "/requests", json=body | {"email": "mig@example.com"}, headers=key)
    assert kind(other) == (422, "idempotency-key-reused")
    assert theirs not in other.text
    elsewhere = await suite.call("POST", "/requests", json=body, headers=key, org=OTHER)
    assert elsewhere.json()["reference"] != theirs


# --- roles, keys, services (CVE-2025-57817, CVE-2026-85394, CVE-2023-46124) -------------------------------------------


@pytest.mark.parametrize("account", ["anna", "dorte", "rasmus"])
async def test_nobody_but_an_administrator_makes_accounts_or_keys_or_sees_systems(suite: Suite, account: str) -> None:
    evil = {"username": "evil", "password": "et helt andet kodeord", "roles": ["administrator"]}
    for method, path, body in (
        ("POST", "/accounts", evil), ("POST", "/keys", {"name": "evil", "scopes": ["requests"]}),
        ("GET", "/systems", None), ("GET", "/webhooks", None),
    ):  # fmt: skip
        assert (await suite.call(method, path, by=account, json=body)).status_code == 403


async def test_a_key_opens_what_its_scope_says_and_takes_no_role(suite: Suite) -> None:
    wide = await suite.call("POST", "/keys", by="admin", json={"name": "evil", "scopes": ["requests", "handler"]})
    assert wide.status_code == 422
    made = await suite.call("POST", "/keys", by="admin", json={"name": "ok", "scopes": ["requests"]})
    reference = await suite.ask()
    for path in ("/cases", "/events", "/audit", "/tasks", "/accounts", f"/requests/{reference}"):
        assert (await suite.call("GET", path, by=made.json()["key"])).status_code == 403


@pytest.mark.parametrize(
    "url",
    ["http://169.254.169.254/", "http://127.0.0.1/", "http://example.com/", "https://u:p@example.com/",
     "ftp://example.com/", "https://exa mple.com/", "https:///x"],
)  # fmt: skip
async def test_a_webhook_goes_nowhere_but_out_over_tls(suite: Suite, url: str) -> None:
    assert (await suite.call("POST", "/webhooks", by="admin", json={"url": url})).status_code == 422


async def inner(suite: Suite, service: str, method: str, path: str, token: str | None) -> int:
    transport = httpx.ASGITransport(suite.process.apps[service], raise_app_exceptions=False)
    headers = {"authorization": f"Bearer {token}"} if token else {}
    async with httpx.AsyncClient(transport=transport, base_url="http://inner", headers=headers) as client:
        return (await client.request(method, path, json={} if method in {"PUT", "POST"} else None)).status_code


async def test_a_service_opens_to_nobody_without_its_own_token_in_one_process_too(suite: Suite) -> None:
    doors = (
        ("intake", "GET", "/cases"),
        ("locator", "GET", "/tasks"),
        ("exporter", "GET", f"/packages/{new_id()}/review"),
    )
    to_intake = Keys("locator", suite.folder / "keys").issuer().issue("intake", "service:locator", organisation=ORG)
    for service, method, path in doors:
        assert await inner(suite, service, method, path, None) == 401
        assert await inner(suite, service, method, path, suite.tokens["anna"]) == 401
        assert await inner(suite, service, method, path, to_intake) == (403 if service == "intake" else 401)


async def test_a_service_does_only_what_is_its_own_and_only_for_the_organisation_of_its_token(suite: Suite) -> None:
    _, case, _ = await sealed(suite)
    package = (await suite.call("GET", f"/cases/{case}", by="anna")).json()["order_id"]
    issuers = {name: Keys(name, suite.folder / "keys").issuer() for name in ("gateway", "intake", "locator")}

    def token(name: str, org: str = ORG, **claims: Any) -> str:
        subject = claims.pop("subject", f"service:{name}")
        return issuers[name].issue("exporter", subject, organisation=org, **claims)

    for method in ("PUT", "DELETE"):
        path = f"/packages/{package}" + ("/release" if method == "PUT" else "")
        assert await inner(suite, "exporter", method, path, token("locator")) in {403, 422}
    archive = f"/packages/{package}/archive"
    for name in issuers:
        assert await inner(suite, "exporter", "GET", archive, token(name)) == 404
    stranger = token("gateway", subject=f"subject:{new_id()}", case=new_id(), level="collect")
    assert await inner(suite, "exporter", "GET", archive, stranger) == 404
    foreign = token("gateway", OTHER, subject="handler:x", roles=["handler"])
    assert await inner(suite, "exporter", "GET", archive, foreign) == 404
    weak = token("gateway", subject=f"subject:{case}", case=case, level="verified")
    assert await inner(suite, "exporter", "GET", archive, weak) == 403


# --- what is left behind (CVE-2024-34715, CVE-2024-35189) -------------------------------------------------------------


async def test_nothing_that_names_anybody_lies_in_a_table_or_an_error(suite: Suite) -> None:
    given = [{"type": "customer_number", "value": "planted-number"}]
    reference, case, _ = await suite.proven(name="Plantet Navn", email="plantet@example.com", identifiers=given,
                                            message="plantet-besked")  # fmt: skip
    await suite.waiting(reference)
    await suite.call("POST", "/requests", json={"right": "plantet-ret", "name": "x", "plantet-felt": 1})
    await suite.confirm(case, "cpr", "plantet-cpr")
    await suite.call("GET", "/cases?state=plantet-tilstand", by="anna")
    traces = suite.traces()
    for value in ("Plantet", "plantet", "planted", "soeren@example.dk", "Østergård", "eva@example.dk", "Polarvej 1"):
        assert value not in traces


def test_what_the_commands_write_is_for_one_account_alone() -> None:
    before = os.umask(0o022)
    try:
        assert (
            CliRunner()
            .invoke(app, ["due", "2026-03-05T10:00+01:00", "--country", "DK", "--tz", "Europe/Copenhagen"])
            .exit_code
            == 0
        )
    finally:
        assert os.umask(before) == 0o077
