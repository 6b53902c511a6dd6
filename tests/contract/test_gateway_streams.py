"""Long bodies pass through the door in both directions, at constant memory, in one process and over a network."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import psutil
import pytest

from shared.ids import new_id
from shared.vocabulary import Role
from tests.contract.gateway_house import House, fresh_sqlite, open_house, served, stream_of

MEGABYTES = 200
MEGABYTE = 1024 * 1024
PACKAGE = new_id()


@pytest.fixture(params=["bridge", "http"], scope="module")
async def house(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    url = fresh_sqlite(tmp_path_factory.mktemp("streams"))
    async with open_house(url, over_http=request.param == "http", max_upload=(MEGABYTES + 1) * MEGABYTE) as found:
        found.echoes["exporter"].answers["GET", f"/packages/{PACKAGE}/archive"] = stream_of(MEGABYTES)
        yield found


@pytest.fixture(scope="module")
async def client(house: House) -> AsyncIterator[httpx.AsyncClient]:
    async with served(house) as port, httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as found:
        yield found


class Memory:
    """How far this process, server and client in one, grows while something runs."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self.start = self.peak = self._now()

    def look(self) -> None:
        self.peak = max(self.peak, self._now())

    @property
    def grown(self) -> float:
        return (self.peak - self.start) / MEGABYTE

    def _now(self) -> int:
        rss: int = self._process.memory_info().rss
        return rss


async def collector(house: House) -> tuple[str, dict[str, str]]:
    reference, headers = await house.subject("collect")
    house.echoes["intake"].says("GET", f"/requests/{reference}/package-id", {"package_id": PACKAGE})
    house.echoes["exporter"].seen.clear()
    return reference, headers


def collected(house: House) -> bool:
    return any(seen.path == f"/packages/{PACKAGE}/collected" for seen in house.echoes["exporter"].seen)


async def test_a_package_of_200_mb_comes_down_at_constant_memory(house: House, client: httpx.AsyncClient) -> None:
    reference, headers = await collector(house)
    memory, size, began = Memory(), 0, time.perf_counter()
    async with client.stream("GET", house.path(f"/requests/{reference}/package"), headers=headers) as answer:
        assert answer.headers["content-type"] == "application/zip"
        async for chunk in answer.aiter_raw():
            size += len(chunk)
            if size % (16 * MEGABYTE) < len(chunk):
                memory.look()
                assert not collected(house), "not before the last byte"
    seconds = time.perf_counter() - began
    assert size == MEGABYTES * MEGABYTE
    assert memory.grown < 40
    assert collected(house)
    print(f"down {MEGABYTES / seconds:.0f} MB/s, {memory.grown:.0f} MB")


async def test_an_upload_of_200_mb_goes_up_at_constant_memory(house: House, client: httpx.AsyncClient) -> None:
    headers = {**await house.handler(Role.RESPONDENT), "content-type": "application/octet-stream",
               "habeas-file-name": "arkiv%20s%C3%B8ren.pdf", "habeas-file-type": "application/pdf"}  # fmt: skip
    memory, began = Memory(), time.perf_counter()

    async def content() -> AsyncIterator[bytes]:
        piece = bytes(range(256)) * 256
        for number in range(MEGABYTES * 16):
            if number % 256 == 0:
                memory.look()
            yield piece

    answer = await client.put(house.path(f"/tasks/{new_id()}/uploads/1"), content=content(), headers=headers)
    seconds = time.perf_counter() - began
    memory.look()
    assert (answer.status_code, answer.json()["size"]) == (200, MEGABYTES * MEGABYTE)
    assert memory.grown < 40
    seen = house.echoes["locator"].seen[-1]
    assert seen.headers["habeas-file-name"] == "arkiv%20s%C3%B8ren.pdf"
    print(f"up {MEGABYTES / seconds:.0f} MB/s, {memory.grown:.0f} MB")


async def test_an_upload_above_the_cap_is_cut_off_and_the_service_never_sees_it_whole(
    house: House, client: httpx.AsyncClient
) -> None:
    headers = {**await house.handler(Role.RESPONDENT), "content-type": "application/octet-stream"}
    house.echoes["locator"].seen.clear()

    async def content() -> AsyncIterator[bytes]:
        for _ in range(MEGABYTES + 2):
            yield b"a" * MEGABYTE

    try:
        answer = await client.put(house.path(f"/tasks/{new_id()}/uploads/1"), content=content(), headers=headers)
        assert answer.status_code == 413
    except httpx.TransportError:
        pass  # the server has answered and closed; a client that is still sending may not get to read it
    assert house.echoes["locator"].seen == []


async def test_a_package_that_was_not_taken_to_the_end_is_not_collected(
    house: House, client: httpx.AsyncClient
) -> None:
    reference, headers = await collector(house)
    async with client.stream("GET", house.path(f"/requests/{reference}/package"), headers=headers) as answer:
        async for _ in answer.aiter_raw():
            break
    await asyncio.sleep(0.5)
    assert not collected(house)


async def test_a_slow_reader_sets_the_pace(house: House, client: httpx.AsyncClient) -> None:
    reference, headers = await collector(house)
    memory = Memory()
    async with client.stream("GET", house.path(f"/requests/{reference}/package"), headers=headers) as answer:
        async for _ in answer.aiter_raw():
            await asyncio.sleep(1)
            memory.look()
            break
    assert memory.grown < 40


async def test_a_collection_that_cannot_be_told_does_not_spoil_the_download(
    tmp_path: Path,
) -> None:
    async with open_house(fresh_sqlite(tmp_path)) as house:
        house.echoes["exporter"].answers["GET", f"/packages/{PACKAGE}/archive"] = stream_of(1)
        house.echoes["exporter"].says("POST", f"/packages/{PACKAGE}/collected", {"title": "no"}, 503)
        reference, headers = await collector(house)
        answer = await house.client.get(house.path(f"/requests/{reference}/package"), headers=headers)
        assert (answer.status_code, len(answer.content)) == (200, MEGABYTE)
