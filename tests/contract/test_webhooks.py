"""A webhook reaches a receiver in another process, which verifies it with a library that we did not write."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from services.intake import webhooks
from services.intake.webhooks import DeliveryResult, Endpoint
from shared.clock import Clock, utc_now
from shared.http import EgressClient

SECRET = webhooks.new_secret()
EVENT = webhooks.cloud_event(
    id="0199-event",
    organisation="nordlys",
    kind="case.received",
    case_id="0199-case",
    at=datetime(2026, 11, 21, 10, 0, tzinfo=UTC),
    seq=17,
    data={"right": "access"},
)


@dataclass
class Receiver:
    """The other company's program, and what it says it got."""

    process: asyncio.subprocess.Process
    url: str

    async def got(self) -> dict[str, Any]:
        assert self.process.stdout
        line = await asyncio.wait_for(self.process.stdout.readline(), 10)
        seen: dict[str, Any] = json.loads(line)
        return seen


@pytest.fixture(scope="module")
async def receiver() -> AsyncIterator[Receiver]:
    program = Path(__file__).with_name("webhook_receiver.py")
    process = await asyncio.create_subprocess_exec(sys.executable, program, SECRET, stdout=asyncio.subprocess.PIPE)
    assert process.stdout
    port = int(await asyncio.wait_for(process.stdout.readline(), 20))
    yield Receiver(process, f"http://127.0.0.1:{port}")
    process.terminate()
    await process.wait()


@pytest.fixture
async def client() -> AsyncIterator[EgressClient]:
    async with aclosing(EgressClient(webhooks.rule(("127.0.0.0/8",)))) as made:
        yield made


async def delivered(
    client: EgressClient, receiver: Receiver, path: str, *, secret: str = SECRET, clock: Clock = utc_now
) -> DeliveryResult:
    return await webhooks.deliver(client, Endpoint(receiver.url + path, secret), EVENT, clock=clock)


async def test_the_receiver_verifies_and_reads_an_event(client: EgressClient, receiver: Receiver) -> None:
    assert await delivered(client, receiver, "/ok") == DeliveryResult(delivered=True)
    seen = await receiver.got()
    assert seen["verified"]
    assert seen["type"] == "application/cloudevents+json"
    assert seen["id"] == "0199-event"
    assert seen["event"] == {
        "specversion": "1.0",
        "id": "0199-event",
        "source": "urn:habeas:nordlys",
        "type": "habeas.case.received.v1",
        "subject": "0199-case",
        "time": "2026-11-21T10:00:00+00:00",
        "datacontenttype": "application/json",
        "seq": 17,
        "data": {"right": "access"},
    }


async def test_letters_beyond_ascii_are_signed_as_they_are_sent(client: EgressClient, receiver: Receiver) -> None:
    event = EVENT | {"data": {"note": "æøå"}}
    result = await webhooks.deliver(client, Endpoint(receiver.url + "/ok", SECRET), event)
    assert result.delivered
    assert (await receiver.got())["event"]["data"] == {"note": "æøå"}


async def test_the_receiver_refuses_another_secret(client: EgressClient, receiver: Receiver) -> None:
    result = await delivered(client, receiver, "/ok", secret=webhooks.new_secret())
    assert result == DeliveryResult(delivered=False, code="status-401")
    assert (await receiver.got())["why"] == "No matching signature found"


async def test_the_receiver_refuses_an_old_event(client: EgressClient, receiver: Receiver) -> None:
    result = await delivered(client, receiver, "/ok", clock=lambda: utc_now() - timedelta(minutes=10))
    assert not result.delivered
    assert "too old" in (await receiver.got())["why"]


@pytest.mark.parametrize(
    ("path", "result"),
    [
        ("/gone", DeliveryResult(delivered=False, gone=True, code="status-410")),
        ("/broken", DeliveryResult(delivered=False, code="status-500")),
        ("/redirect", DeliveryResult(delivered=False, code="redirected")),
        ("/busy", DeliveryResult(delivered=False, retry_after=timedelta(minutes=2), code="status-503")),
        ("/busy-long", DeliveryResult(delivered=False, retry_after=timedelta(days=1), code="status-429")),
        ("/busy-past", DeliveryResult(delivered=False, code="status-503")),
        ("/busy-nonsense", DeliveryResult(delivered=False, code="status-503")),
    ],
)
async def test_what_the_receiver_answers_says_when_to_go_on(
    client: EgressClient, receiver: Receiver, path: str, result: DeliveryResult
) -> None:
    assert await delivered(client, receiver, path) == result
    assert (await receiver.got())["verified"]


async def test_a_receiver_may_say_by_the_clock_when_to_go_on(client: EgressClient, receiver: Receiver) -> None:
    result = await delivered(client, receiver, "/busy-date")
    await receiver.got()
    assert result.retry_after
    assert timedelta(minutes=55) < result.retry_after <= timedelta(hours=1)


async def test_a_receiver_that_is_not_there_is_tried_again(client: EgressClient) -> None:
    result = await webhooks.deliver(client, Endpoint("http://127.0.0.1:9/ok", SECRET), EVENT)
    assert result == DeliveryResult(delivered=False, code="not-reached")


@pytest.mark.parametrize("url", ["http://127.0.0.1/x", "https://127.0.0.1/x", "https://169.254.169.254/", "nonsense"])
async def test_nothing_is_delivered_inside_the_house(url: str) -> None:
    async with aclosing(EgressClient(webhooks.rule())) as made:
        result = await webhooks.deliver(made, Endpoint(url, SECRET), EVENT)
    assert result == DeliveryResult(delivered=False, code="address-refused")


@pytest.mark.parametrize(
    ("url", "fits"),
    [("https://hook.example.dk:8443/x", True), ("http://hook.example.dk/x", False), ("ftp://x", False), ("x", False)],
)
def test_an_address_that_can_never_be_delivered_to_is_known_at_once(url: str, fits: bool) -> None:
    assert webhooks.rule().admits(url) is fits


def test_an_endpoint_does_not_print_its_secret() -> None:
    assert SECRET not in repr(Endpoint("https://x.example", SECRET))
