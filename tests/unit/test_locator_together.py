"""What comes while one is done is done together next."""

import asyncio
from collections.abc import Sequence

import pytest

from services.locator.together import Together


async def test_what_waits_is_done_in_one_batch() -> None:
    batches: list[list[int]] = []

    async def work(_key: str, items: Sequence[int]) -> list[int | Exception]:
        batches.append(list(items))
        await asyncio.sleep(0.01)
        return [item * 2 for item in items]

    together = Together(work)
    assert await asyncio.gather(*(together.do("a", number) for number in range(50))) == [n * 2 for n in range(50)]
    assert [item for batch in batches for item in batch] == list(range(50))
    assert len(batches) <= 2
    assert await together.do("a", 7) == 14


async def test_keys_do_not_wait_for_one_another() -> None:
    gate = asyncio.Event()

    async def work(key: str, items: Sequence[int]) -> list[int | Exception]:
        if key == "slow":
            await gate.wait()
        return list(items)

    together = Together(work)
    slow = asyncio.create_task(together.do("slow", 1))
    assert await together.do("fast", 2) == 2
    gate.set()
    assert await slow == 1


async def test_each_gets_its_own_error_and_all_get_a_common_one() -> None:
    async def work(key: str, items: Sequence[int]) -> list[int | Exception]:
        if key == "broken":
            raise KeyError
        return [ValueError() if item % 2 else item for item in items]

    together = Together(work)
    results = await asyncio.gather(*(together.do("a", n) for n in range(4)), return_exceptions=True)
    assert [type(result) for result in results] == [int, ValueError, int, ValueError]
    with pytest.raises(KeyError):
        await together.do("broken", 1)
    assert await together.do("a", 2) == 2


async def test_whoever_leaves_takes_nobody_along() -> None:
    async def work(_key: str, items: Sequence[int]) -> list[int | Exception]:
        await asyncio.sleep(0.02)
        return list(items)

    together = Together(work)
    first = asyncio.create_task(together.do("a", 1))
    second = asyncio.create_task(together.do("a", 2))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == 2
    with pytest.raises(asyncio.CancelledError):
        await first
