"""How fast may one system be asked? A token bucket for each, shared by all tasks of this process."""

import asyncio


class Pace:
    """Lets calls through at a rate, and holds all of them back when the system asks for it (Retry-After)."""

    def __init__(self, per_second: float) -> None:
        """Up to one second's calls may come at once after a rest."""
        self._rate = per_second
        self._burst = max(1.0, per_second)
        self._tokens = self._burst
        self._filled = 0.0
        self._closed_until = 0.0

    async def turn(self) -> None:
        """Wait until one more call may be made."""
        loop = asyncio.get_running_loop()
        while (pause := self._take(loop.time())) > 0:  # noqa: ASYNC110 - time opens the gate, no event does
            await asyncio.sleep(pause)

    def hold(self, seconds: float) -> None:
        """Let no call through for so long."""
        self._closed_until = max(self._closed_until, asyncio.get_running_loop().time() + seconds)

    def _take(self, now: float) -> float:
        """Take a token; return 0, or how long to wait before asking again."""
        if now < self._closed_until:
            return self._closed_until - now
        self._tokens = min(self._burst, self._tokens + (now - self._filled) * self._rate)
        self._filled = now
        if self._tokens >= 1:
            self._tokens -= 1
            return 0.0
        return (1 - self._tokens) / self._rate
