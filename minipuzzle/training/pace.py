"""When the next state is saved: what saves cost stays a tenth of the time, on any disk."""

from __future__ import annotations

from collections import deque
from statistics import median

SHARE = 0.1
"""Of the wall time, at most, goes into saves."""
QUIET_STEPS = 64


class Pace:
    """All times in seconds of one clock. ``least`` lies between saves, from when the one before was
    on disk; a save also waits until it and those before are ``SHARE`` of the time since ``began``.

    A save costs the steps' wait while it is copied, and what the steps beside the writing took
    longer than others. Before the first one that is not known: it waits for ``least`` alone.
    """

    def __init__(self, least: float, began: float) -> None:
        self.least, self.began = least, began
        self._since, self._stall, self._before = began, 0.0, 0.0
        self._quiet: deque[float] = deque(maxlen=QUIET_STEPS)
        self._beside: list[float] = []

    def due(self, now: float) -> bool:
        """Whether the next save may begin, once none is being written."""
        cost = self.cost
        passed = now - self._since > max(self.least, cost / SHARE - cost)
        return passed and self._before + 2 * cost <= SHARE * (now + cost - self.began)

    def stepped(self, began: float, now: float, *, writing: bool) -> None:
        """Note a step, and whether a save was being written beside it."""
        if writing:
            self._since = now
        (self._beside if writing else self._quiet).append(now - began)

    def saved(self, began: float, now: float) -> None:
        """Note for how long the steps waited for a save, which is being written from now on."""
        self._before += self.cost
        self._since, self._stall, self._beside = now, now - began, []

    @property
    def cost(self) -> float:
        """Of the last save."""
        usual = median(self._quiet) if self._quiet else 0.0
        slower = sum(self._beside) - usual * len(self._beside) if self._quiet else 0.0
        return self._stall + max(0.0, slower)
