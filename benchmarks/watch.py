"""What a training does with its time and with the CPU's memory: steps, saves, and what a save
takes beyond the model.
"""

from __future__ import annotations

import json
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import minipuzzle.training.loop as loop
from minipuzzle.training import shards
from minipuzzle.training.checkpointing import States

WARM_UP = 5
"""Steps that compile and choose kernels."""
INTERVAL = 0.02


def anonymous() -> int:
    """Bytes of this process that no file stands behind."""
    lines = Path("/proc/self/status").read_text().splitlines()
    kinds = ("RssAnon:", "RssShmem:")
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(kinds))


def pinned_peak() -> int:
    """The most pinned memory that PyTorch has held for copies between CPU and GPU."""
    stats = getattr(torch.cuda, "host_memory_stats", dict)() if torch.cuda.is_available() else {}
    return int(stats.get("allocated_bytes.peak", 0))


class Watch:
    """Times ``minipuzzle.training.loop.train`` in this process, from when it is made.

    ``out`` gets a report after each save.
    """

    def __init__(self, out: Path | None = None) -> None:
        self.out = out
        self.steps: list[tuple[float, float]] = []
        self.saves: list[dict[str, float]] = []
        self.ended = 0.0
        self._samples: list[tuple[float, int]] = []
        loop.update = self._timed(loop.update, self._stepped)
        States.save = self._timed(States.save, self._saved)  # type: ignore[method-assign]
        States._write = self._timed(States._write, self._written)  # type: ignore[method-assign]
        loop._Run.finish = self._timed(loop._Run.finish, self._finished)  # type: ignore[method-assign]
        threading.Thread(target=self._sample, daemon=True).start()

    def report(self) -> dict[str, Any]:
        """Seconds, shares of the wall time after warm-up, and bytes of memory that saves took."""
        steps = self.steps[WARM_UP:]
        if not steps:
            return {"steps": len(self.steps)}
        began, last = steps[0][0], steps[-1][1]
        spent = sum(end - start for start, end in steps)
        saves = [{**save, "memory": self._taken(save)} for save in self.saves]
        return {
            "steps": len(self.steps),
            "warm_up_s": began - self.steps[0][0],
            "step_s": statistics.median(end - start for start, end in steps),
            "in_steps_s": spent,
            "until_last_step_s": last - began,
            "share_until_last_step": spent / (last - began),
            "whole_s": self.ended - began if self.ended else None,
            "share_of_whole": spent / (self.ended - began) if self.ended else None,
            "saves": saves,
            "shard_bytes": shards.SHARD_BYTES,
            "pinned_peak": pinned_peak(),
            "memory_of_a_save": max((save["memory"] for save in saves), default=0),
            "gpu_peak": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0,
        }

    def _taken(self, save: dict[str, float]) -> int:
        """The peak from its begin until it was on disk, beyond what was held when it began."""
        until = save.get("on_disk", time.monotonic())
        held = [size for at, size in self._samples if save["began"] <= at <= until]
        return max(0, max(held, default=0) - int(save["held"]))

    def _timed(self, work: Callable, note: Callable[[float, float, bool], None]) -> Callable:
        def timed(*args: Any, **options: Any) -> Any:
            began = time.monotonic()
            note(began, 0.0, False)
            result = work(*args, **options)
            note(began, time.monotonic(), True)
            return result

        return timed

    def _stepped(self, began: float, ended: float, done: bool) -> None:
        if done:
            self.steps.append((began, ended))

    def _saved(self, began: float, ended: float, done: bool) -> None:
        if not done:
            self.saves.append({"began": began, "held": anonymous(), "step": len(self.steps)})
        else:
            self.saves[-1]["stall_s"] = ended - began

    def _written(self, began: float, ended: float, done: bool) -> None:
        if done:
            save = self.saves[-1]
            save["on_disk"], save["written_s"] = ended, ended - began
            self._dump()

    def _finished(self, began: float, ended: float, done: bool) -> None:
        if done:
            self.ended = ended
            self._dump()

    def _dump(self) -> None:
        if self.out is not None:
            self.out.write_text(json.dumps(self.report(), indent=1))

    def _sample(self) -> None:
        while True:
            self._samples.append((time.monotonic(), anonymous()))
            time.sleep(INTERVAL)
