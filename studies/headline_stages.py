"""Runs the stages of studies/headline.py and headline_ablation.py: one after the other, or side by
side on several GPUs.

A stage is a command in a process of its own, with a budget of seconds. One whose product is there
is not run again; what time ran out in is ended by SIGTERM, which saves a training state, and goes
on in the next call.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minipuzzle.artifacts import read_json, write_atomic, write_json

LEAST_SECONDS = 20
"""With less left a stage is not begun."""
INPUTS = ("scores.safetensors", "search.json", "run.json")
"""What a run directory begins with; the last one says that it has begun."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A command, what it makes, its run directory, and the seconds it may take in all. ``after``
    names the stages whose products it reads, ``prepare`` makes its inputs.
    """

    name: str
    words: tuple[str, ...]
    product: Path
    seconds: int
    run: Path
    after: tuple[str, ...] = ()
    prepare: Callable[[], None] = lambda: None


class Runner:
    """Runs stages in ``work`` and keeps each one's command and seconds in the file ``out``."""

    def __init__(self, work: Path, out: Path, gpus: int = 1) -> None:
        self.work, self.out, self.gpus = work, out, gpus
        self.results: dict[str, Any] = read_json(out) if out.exists() else {"stages": {}}
        self.lock = threading.Lock()

    def run(self, stages: Sequence[Stage], until: float, *, go_on: bool = False) -> bool:
        """Make what is missing, in ``gpus`` lanes: a free GPU takes the first stage whose ``after``
        are done.

        False where time ran out first. Raises: SystemExit as ``run_stage``, once the other lanes
        are through with theirs, or with ``go_on`` with all that can do without what failed;
        ValueError for a stage that waits for none of these.
        """
        waiting, free, done = list(stages), list(range(self.gpus)), set[str]()
        running: dict[Future[bool], tuple[Stage, int]] = {}
        failures: list[SystemExit] = []
        in_time = True
        with ThreadPoolExecutor(self.gpus) as pool:
            while True:
                ready = [stage for stage in waiting if set(stage.after) <= done]
                for stage in ready[: len(free)] if in_time and (go_on or not failures) else []:
                    waiting.remove(stage)
                    gpu = free.pop(0)
                    running[pool.submit(self.run_stage, stage, until, gpu)] = stage, gpu
                if not running:
                    break
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    stage, gpu = running.pop(future)
                    free.append(gpu)
                    try:
                        in_time &= future.result()
                    except SystemExit as error:
                        failures.append(error)
                        continue
                    if in_time:
                        done.add(stage.name)
                    else:
                        print(
                            f"stopped in {stage.name!r}: the same command goes on from there",
                            flush=True,
                        )
        if failures:
            raise failures[0]
        if in_time and waiting:
            raise ValueError(f"{waiting[0].name} waits for {set(waiting[0].after) - done}")
        return in_time

    def run_stage(self, stage: Stage, until: float, gpu: int = 0) -> bool:
        """Make the stage's product unless it is there; False where time ran out first. Raises:
        SystemExit where it failed or took longer than its budget.
        """
        with self.lock:
            entry = self.results["stages"].setdefault(stage.name, {"seconds": 0.0})
        if stage.product.exists():
            return True
        if not stage.run.exists():  # what ``out`` says is of another ``work``
            entry["seconds"] = 0.0
        entry["command"] = " ".join(stage.words)
        stage.prepare()
        share_tokens(stage.run, self.work)
        left = min(until - time.time(), stage.seconds - entry["seconds"])
        if left < LEAST_SECONDS:
            return _over_budget(stage, entry)
        started = time.time()
        code = run_words(stage.words, left, self.work, gpu if self.gpus > 1 else None)
        with self.lock:
            entry["seconds"] += time.time() - started
            write_json(self.out, self.results)
        print(f"{stage.name}: {entry['seconds']:.0f} s of {stage.seconds}", flush=True)
        if code:
            raise SystemExit(f"{stage.name} failed with exit code {code}: {' '.join(stage.words)}")
        return stage.product.exists() or _over_budget(stage, entry)


def _over_budget(stage: Stage, entry: dict[str, Any]) -> bool:
    """False, for time that ran out; an error where it is the stage's own."""
    if entry["seconds"] > stage.seconds - LEAST_SECONDS:
        raise SystemExit(
            f"{stage.name} has no product after {entry['seconds']:.0f} s of its {stage.seconds} s."
        )
    return False


def run_words(words: tuple[str, ...], seconds: float, work: Path, gpu: int | None = None) -> int:
    """Run a command of minipuzzle, or a script, for at most ``seconds``, then SIGTERM; its exit
    code, 0 where we ended it.

    ``gpu``: the only one that it sees, counted among those that this process may use.
    """
    caches = {
        "TRITON_CACHE_DIR": work / "triton",
        "TORCHINDUCTOR_CACHE_DIR": work / "inductor",
        "TRITON_CACHE_AUTOTUNING": 1,
    }
    environment = os.environ | {k: str(v) for k, v in caches.items()}
    if gpu is not None:
        environment["CUDA_VISIBLE_DEVICES"] = visible_gpu(gpu)
    start = [sys.executable] if words[0].endswith(".py") else [sys.executable, "-m", "minipuzzle"]
    process = subprocess.Popen([*start, *words], env=environment)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
        return 0


def visible_gpu(place: int) -> str:
    """The GPU of that place among those that this process may use; "0,0,0" has three lanes of
    one.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",")[place] if visible else str(place)


def share_tokens(run: Path, work: Path) -> None:
    """All run directories keep tokenised texts in one folder: the training text takes a minute to
    make.
    """
    (work / "tokens").mkdir(parents=True, exist_ok=True)
    run.mkdir(parents=True, exist_ok=True)
    if not (run / "tokens").exists():
        (run / "tokens").symlink_to(work / "tokens")


def begin_from(source: Path, run: Path, top: Sequence[str] = ()) -> None:
    """Give a new run directory the scores and the search of ``source``, which may be at work
    meanwhile; with ``top`` only those of its candidates are cut and distilled.
    """
    if (run / INPUTS[-1]).exists():
        return
    run.mkdir(parents=True, exist_ok=True)
    for name in INPUTS:
        if not (source / name).exists():
            continue
        if name == "search.json" and top:
            write_json(run / name, read_json(source / name) | {"top": list(top)})
        else:
            write_atomic(run / name, (source / name).read_bytes())
