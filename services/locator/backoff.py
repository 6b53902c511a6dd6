"""When is a failed task tried again? Exponentially later, with jitter, never before the system said."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

LONGEST_WISH = timedelta(hours=6)
"""What a system may ask for by Retry-After: legal deadlines run meanwhile."""


@dataclass(frozen=True, slots=True)
class BackOff:
    """The first delay, and the cap for all."""

    first: timedelta = timedelta(seconds=2)
    longest: timedelta = timedelta(minutes=15)

    def delay(self, failures: int, retry_after: float | None, random: Callable[[], float]) -> timedelta:
        """Return how long to wait after the `failures`-th failure; `random` gives a number in [0, 1)."""
        full = min(self.longest, self.first * float(2 ** min(failures - 1, 30)))
        jittered = full * (0.5 + random() / 2)
        wished = min(timedelta(seconds=max(retry_after or 0.0, 0.0)), LONGEST_WISH)
        return max(jittered, wished)
