"""How do a hundred things that end at once not wait for one another? What comes while one is done is done together next.

Tasks of one order end under the order's row lock, one transaction after the other. While one such transaction runs,
others queue here; the next transaction takes them all.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Together(Generic[T, R]):
    """Does items of one key in batches, one batch of a key at a time."""

    def __init__(self, work: Callable[[str, Sequence[T]], Awaitable[Sequence[R | Exception]]]) -> None:
        """`work(key, items)` returns a result or an error for each item; if it raises, all of them failed."""
        self._work = work
        self._waiting: dict[str, list[tuple[T, asyncio.Future[R]]]] = {}
        self._running: dict[str, asyncio.Task[None]] = {}

    async def do(self, key: str, item: T) -> R:
        """Return what `work` returned for this item, or raise what it raised."""
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, []).append((item, future))
        if key not in self._running:
            # A task of its own: whoever came first may be interrupted, those who joined must not suffer.
            self._running[key] = asyncio.create_task(self._drain(key), context=Context())
        return await future

    async def _drain(self, key: str) -> None:
        try:
            while batch := self._waiting.pop(key, []):
                results = await self._done([item for item, _future in batch], key)
                for (_item, future), result in zip(batch, results, strict=True):
                    _settle(future, result)
        finally:
            del self._running[key]

    async def _done(self, items: Sequence[T], key: str) -> Sequence[R | Exception]:
        try:
            return await self._work(key, items)
        except Exception as error:  # noqa: BLE001 - handed to everybody who waits for it
            return [error] * len(items)


def _settle(future: asyncio.Future[R], result: R | Exception) -> None:
    if future.done():
        return
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)
