"""Which steps to skip: a loss or gradient that is no number, or far above the recent ones."""

from __future__ import annotations

import math
from statistics import fmean, pstdev

from minipuzzle.errors import UserError

RECENT = 128
LEAST = 64
DEVIATIONS = 6.0
IN_A_ROW = 10


class BrokenDown(UserError):
    """So many steps in a row were skipped that training stops."""


class Guard:
    """Watches (loss, gradient norm) of each step. ``history`` is what it remembers: plain numbers,
    for the saved state.

    A step is skipped where either is not finite, or over six standard deviations above the mean of
    the last 128 steps (once there are 64). What was high joins the history, so that a lasting
    change of the data is soon taken as usual. Source: the rule and constants of SkipStepOptimizer
    in allenai/OLMo-core.
    """

    def __init__(self, history: list[tuple[float, float]] | None = None, skipped: int = 0) -> None:
        self.history = [(float(loss), float(norm)) for loss, norm in history or []]
        self.in_a_row, self.skipped = 0, skipped

    def accept(self, loss: float, norm: float) -> str:
        """Why to skip this step; an empty string to take it. Raises: UserError after ten skipped
        steps in a row.
        """
        reason = self._reason("loss", loss, 0) or self._reason("gradient norm", norm, 1)
        if math.isfinite(loss) and math.isfinite(norm):
            self.history = [*self.history[1 - RECENT :], (loss, norm)]
        self.skipped += bool(reason)
        self.in_a_row = self.in_a_row + 1 if reason else 0
        if self.in_a_row >= IN_A_ROW:
            raise BrokenDown(
                f"Training has broken down: {IN_A_ROW} steps in a row were skipped.",
                got=reason,
                allowed="a finite loss near the recent ones",
                next=(
                    "Give the command again with a lower training.learning_rate: it continues from"
                    " the last training checkpoint, which is from before these steps. If that"
                    " fails too, check the data and the teacher."
                ),
            )
        return reason

    def _reason(self, what: str, value: float, column: int) -> str:
        if not math.isfinite(value):
            return f"{what} {value} is no longer a number"
        past = [row[column] for row in self.history]
        if len(past) < LEAST:
            return ""
        mean, deviation = fmean(past), pstdev(past)
        return (
            f"{what} {value:.4g} after a mean of {mean:.4g}"
            if value > mean + DEVIATIONS * deviation
            else ""
        )

    def state(self) -> dict[str, object]:
        """The arguments that make this guard again."""
        return {"history": self.history, "skipped": self.skipped}
