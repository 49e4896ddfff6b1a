"""One command in this process, whose peaks, and where its time went (samples.py), are written to
a file when it ends (PEAKS, and under torchrun PEAKS.RANK).

    python studies/gpu/watched.py PEAKS score ...         a command line of minipuzzle
    python studies/gpu/watched.py PEAKS make CHECKPOINT WORK DEVICE [tiny]

Of ``distill`` the steps are timed, and the GPU's peak is that of steps too. WATCH_STOP=N sends
SIGTERM to the process in step N of this call, WATCH_PROFILE=FIRST,COUNT profiles COUNT steps from
the FIRST of this call on (traffic.py), WATCH_STATE=no saves no state.
"""

from __future__ import annotations

import bz2
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from samples import Samples

ROOT = Path(__file__).resolve().parent.parent.parent
VALIDATION_CHARACTERS = 1_200_000
"""Of each domain at most: 128 blocks of 512 tokens and more in either half."""


def main() -> None:
    """Run, and write the peaks whatever comes."""
    peaks, stage, *words = sys.argv[1:]
    steps, samples = None, Samples()
    try:
        if stage == "make":
            make(Path(words[0]), Path(words[1]), words[2], tiny=words[3:] == ["tiny"])
        else:
            from minipuzzle.cli import main as minipuzzle

            if stage == "distill":
                steps = Steps()
            sys.argv = ["minipuzzle", stage, *words]
            minipuzzle()
    finally:
        rank = os.environ.get("RANK")
        file = Path(peaks if rank is None else f"{peaks}.{rank}")
        found = measured() | {"where": samples.found()} | (steps.found() if steps else {})
        file.write_text(json.dumps(found))


def measured() -> dict[str, int]:
    """Bytes at most: of this process, and on its GPU."""
    found = {"cpu_peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        found["gpu_allocated"] = torch.cuda.max_memory_allocated()
        found["gpu_reserved"] = torch.cuda.max_memory_reserved()
    return found


class Steps:
    """The optimiser steps of a training in this process, from when it is made."""

    def __init__(self) -> None:
        import torch

        import minipuzzle.training.loop as loop

        self.update, self.began = loop.update, list[float]()
        loop.update = self._step
        if os.environ.get("WATCH_STATE") == "no":
            loop.States.save = lambda *words: None  # type: ignore[method-assign]
        self.cuda = torch.cuda.is_available()
        self.stop = int(os.environ.get("WATCH_STOP", "0"))
        first = [int(number) for number in os.environ.get("WATCH_PROFILE", "0,0").split(",")]
        self.profiled = range(first[0], sum(first))
        self.profiler = torch.profiler.profile(record_shapes=True)
        self.numbers: dict[str, Any] = {}

    def found(self) -> dict[str, Any]:
        """When each step began, and what was measured at the end of one."""
        return {"began": self.began, **self.numbers}

    def _step(self, *words: Any, **options: Any) -> Any:
        import torch

        step = len(self.began) + 1
        if self.cuda and step == 1:
            torch.cuda.reset_peak_memory_stats()
        if step == self.stop:  # the loop ends after this step, with a save
            os.kill(os.getpid(), signal.SIGTERM)
        if self.profiled and step == self.profiled[0]:
            self.profiler.start()
        self.began.append(time.monotonic())
        done = self.update(*words, **options)
        if self.cuda:
            free, total = torch.cuda.mem_get_info()
            self.numbers |= {
                "gpu_steps": torch.cuda.max_memory_allocated(),
                "gpu_used": total - free,
            }
        if self.profiled and step == self.profiled[-1]:
            self._traffic()
        return done

    def _traffic(self) -> None:
        from traffic import traffic

        if self.cuda:
            import torch

            torch.cuda.synchronize()
        self.profiler.stop()
        with tempfile.TemporaryDirectory() as folder:
            trace = Path(folder) / "trace.json"
            self.profiler.export_chrome_trace(str(trace))
            found = traffic(json.loads(trace.read_text())["traceEvents"])
        world, count = int(os.environ.get("WORLD_SIZE", "1")), len(self.profiled)
        self.numbers["traffic"] = {"world": world, "steps": count, **found}


def make(checkpoint: Path, work: Path, device: str, tiny: bool) -> None:
    """A random checkpoint of the 8B's shape, with the embedded tokenizer, and texts that it has
    words for.
    """
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from random_checkpoint import write

    from minipuzzle import embedded
    from minipuzzle.checkpoint import read_config

    architecture = read_config(ROOT / "docs/examples/nemotron-h-8b")[1]
    if tiny:  # the embedded teacher's blocks, with its vocabulary
        architecture = read_config(embedded.teacher_path())[1]
        architecture = replace(architecture, blocks=architecture.blocks[:8])
    write(architecture, checkpoint, device)
    for file in embedded.teacher_path().glob("tokenizer*"):
        shutil.copy(file, checkpoint)
    for which in ("train", "validation"):
        files = sorted(embedded.text_path(which).glob("*.txt.bz2"))
        texts = [bz2.decompress(file.read_bytes()).decode() for file in files]
        limit = (20_000 if tiny else VALIDATION_CHARACTERS) if which == "validation" else None
        (work / f"{which}.txt").write_text("\n".join(text[:limit] for text in texts))


if __name__ == "__main__":
    main()
