"""The note beside a training run's progress bar: loss, tokens a second and the share of the
device's peak.
"""

from __future__ import annotations

import math
import time

import torch

from minipuzzle.arch import Architecture
from minipuzzle.cost.training import peak_flops, training_flops


class Meter:
    """Speeds of a run on ``ranks`` devices like ``device``, since its last note."""

    def __init__(
        self,
        name: str,
        student: Architecture,
        length: int,
        device: torch.device,
        *,
        teacher: Architecture | None = None,
        ranks: int = 1,
        frozen: bool = False,
    ) -> None:
        self.name = name
        self.flops = training_flops(student, length, teacher, frozen)
        one = peak_flops(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
        self.peak = None if one is None else one * ranks
        self._last: tuple[int, float] | None = None

    def note(self, tokens: int, loss: float) -> str:
        """Words for ``tokens`` used up so far at a mean ``loss``; empty before the first one is
        known.
        """
        before, self._last = self._last, (tokens, time.monotonic())
        if math.isnan(loss):
            return ""
        words = [f"{self.name} {loss:.4f}"]
        if before is not None and self._last[1] > before[1]:
            speed = (tokens - before[0]) / (self._last[1] - before[1])
            words.append(f"{speed:,.0f} tokens/s")
            if self.peak is not None:
                words.append(f"MFU {speed * self.flops / self.peak:.1%}")
        return "  ".join(words)
