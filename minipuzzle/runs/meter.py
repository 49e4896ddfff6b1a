"""The note beside a training run's progress bar: loss, tokens a second, the share of the device's
peak, and memory.
"""

from __future__ import annotations

import math
import time

import torch

from minipuzzle.arch import Architecture
from minipuzzle.bars import Shown
from minipuzzle.cost.training import mean_flops, peak_flops
from minipuzzle.machine import resident_bytes
from minipuzzle.settings.lengths import Lengths
from minipuzzle.units import bytes_


class Meter:
    """A training's ``Progress``: passes tokens on to a bar of ``total``, with the loss and the
    speeds on ``ranks`` devices like ``device`` since the last time as its note.
    """

    def __init__(
        self,
        bar: Shown,
        total: int,
        student: Architecture,
        lengths: Lengths,
        device: torch.device,
        *,
        teacher: Architecture | None = None,
        ranks: int = 1,
        frozen: bool = False,
    ) -> None:
        self.bar, self.total, self.device = bar, total, device
        self.flops = mean_flops(student, lengths, teacher, frozen)
        one = peak_flops(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
        self.peak = None if one is None else one * ranks
        self._last: tuple[float, float] | None = None

    def advance(self, amount: float = 1) -> None:
        """Add finished tokens."""
        self.bar.advance(amount)

    def update(self, completed: float, **numbers: float) -> None:
        """Set the finished tokens; a number that is not known yet (NaN) leaves the note empty."""
        words = self._speeds(completed)
        known = [
            f"{name} {value:,}" if isinstance(value, int) else f"{name} {value:.4f}"
            for name, value in numbers.items()
        ]
        note = "" if any(map(math.isnan, numbers.values())) else "  ".join([*known, *words])
        self.bar.show(min(completed, self.total), note)

    def _held(self) -> int:
        """The most that this process has held on a GPU so far; on a CPU what it holds now."""
        on_gpu = self.device.type == "cuda"
        return torch.cuda.max_memory_allocated(self.device) if on_gpu else resident_bytes()

    def _speeds(self, tokens: float) -> list[str]:
        before, self._last = self._last, (tokens, time.monotonic())
        if before is None or self._last[1] <= before[1]:
            return []
        speed = (tokens - before[0]) / (self._last[1] - before[1])
        words = [f"{speed:,.0f} tokens/s"]
        if self.peak is not None:
            words.append(f"MFU {speed * self.flops / self.peak:.1%}")
        words.append(f"memory {bytes_(self._held())}")
        return words
