r"""Ours beside everyone else's, on one teacher, budget, text and distillation. Result:
docs/results/peers.md.

    python studies/peers.py \
        --out docs/results/peers.json && python studies/peers_table.py docs/results/peers.json

Pruning and training are compared apart. Every pruner's student, cut to at most 83 % and 60 % of the
teacher's parameters, is distilled by the same trainer (ours: forward KL, same blocks in the same
order); ours with more seeds, whose spread says what a difference means. Every trainer then distils
the same student (ours at the first budget). Each peer is a script in studies/peers/, run in an
environment of its own under --envs; one that fails is a row with its error. Losses are always
measured by our model, which transformers confirms: see the column of reloading.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from os import getloadavg
from pathlib import Path
from typing import Any

import numpy as np
from peers_training import (
    BATCH,
    CALIBRATION,
    LENGTH,
    PRUNERS,
    REPLACE,
    REPORT,
    TRAINERS,
    Setting,
    measured,
    recover,
    train,
)
from solver import machine

from minipuzzle import embedded
from minipuzzle.arch import Selection
from minipuzzle.artifacts import write_json
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.data import TokenBlocks, Tokenizer, load_blocks
from minipuzzle.settings import Training
from minipuzzle.surgery import cut

OURS = {
    "length": LENGTH,
    "score": {"samples": CALIBRATION, "block_samples": CALIBRATION},
    "search": {
        "candidates": 12,
        "refine": 30,
        "validation_blocks": 16,
        "mamba_heads": True,
        "multiple": 32,
    },
}


def main() -> None:
    """Run everything and write JSON after each row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--envs", type=Path, default=Path("/tmp/venvs"))
    parser.add_argument(
        "--work", type=Path, default=Path("/tmp/peers-run"), help="students; must not exist"
    )
    parser.add_argument(
        "--tokens", type=int, default=200_000, help="distillation of every pruner's student"
    )
    parser.add_argument(
        "--trainer-tokens", type=int, default=50_000, help="distillation by every trainer"
    )
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seeds", type=int, default=2, help="of our student's distillation")
    parser.add_argument("--seconds", type=float, default=1800, help="most for one script")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.work.mkdir(parents=True)
    whole = Checkpoint.open(embedded.teacher_path()).parameters
    setting = Setting(
        envs=options.envs,
        work=options.work,
        budgets={"83%": int(0.83 * whole), "60%": int(0.6 * whole)},
        tokens=options.tokens,
        trainer_tokens=options.trainer_tokens,
        rate=options.rate,
        seeds=options.seeds,
        seconds=options.seconds,
    )
    texts(setting)
    rows: list[dict[str, Any]] = []
    started, lock = time.monotonic(), threading.Lock()
    about = {
        **machine(),
        "parameters": whole,
        "budgets": setting.budgets,
        "tokens": setting.tokens,
        "rate": setting.rate,
        "trainer_tokens": setting.trainer_tokens,
        "workers": options.workers,
        "load_before": getloadavg(),
        "teacher_loss": measured(setting, str(embedded.teacher_path()), "teacher")["before"],
    }

    def add(row: dict[str, Any]) -> None:
        with lock:
            rows.append(row)
            write_json(
                options.out,
                {
                    **about,
                    "load_after": getloadavg(),
                    "seconds": time.monotonic() - started,
                    "rows": rows,
                },
            )
            found = row.get("error") or f"{row['before']:.4f} -> {row['after']:.4f}"
            label = f"{row['part']} {row['peer']} {row.get('budget', '')}"
            print(f"{time.monotonic() - started:5.0f} s  {label}  {found}", flush=True)

    with ThreadPoolExecutor(options.workers) as pool:
        work(setting, pool, add)


def work(setting: Setting, pool: ThreadPoolExecutor, add: Callable[[dict[str, Any]], None]) -> None:
    """Prune with everyone, distil every student as soon as it is there, then compare the trainers
    on ours.
    """
    pruned = {pool.submit(prune, setting, name): name for name in PRUNERS}
    waiting: list[Future[None]] = []
    for future in as_completed(pruned):
        name, students = pruned[future], future.result()
        for budget, student in students.items():
            for seed in range(setting.seeds if name == "ours" else 1):
                waiting.append(
                    pool.submit(
                        lambda s=student, n=name, b=budget, k=seed: add(
                            recover(setting, n, b, s, k)
                        )
                    )
                )
        if name == "ours" and "checkpoint" in students["83%"]:
            for trainer in TRAINERS:
                path = students["83%"]["checkpoint"]
                waiting.append(pool.submit(lambda t=trainer, p=path: add(train(setting, t, p))))
    for done in waiting:
        done.result()


def texts(setting: Setting) -> None:
    """Calibration, training and report text as files, the same for all: the embedded texts, first
    half for searching.
    """
    tokenizer = Tokenizer.load(embedded.teacher_path())

    def load(which: str) -> TokenBlocks:
        return load_blocks(
            embedded.text_path(which), tokenizer, block_length=LENGTH, cache=setting.work / "tokens"
        )

    train, report = load("train"), load("validation").every_other(1).take(REPORT)
    count = Training(tokens=setting.tokens, batch=BATCH).steps(LENGTH) * BATCH
    np.save(setting.work / "calibration.npy", load("calibration").take(CALIBRATION).tokens)
    np.save(setting.work / "report.npy", report.tokens)
    np.save(setting.work / "probe.npy", report.tokens[:2])
    np.save(setting.work / "train.npy", train.take(count).tokens)


def prune(setting: Setting, name: str) -> dict[str, dict[str, Any]]:
    """Budget -> the peer's student as a checkpoint, with what the pruning took; or its error."""
    peer, script = PRUNERS[name]
    home = setting.work / script
    request = {
        "teacher": str(embedded.teacher_path()),
        "calibration": str(setting.work / "calibration.npy"),
        "budgets": setting.budgets,
        "out": str(home),
        "replace_blocks": REPLACE,
        **OURS,
    }
    answer = setting.call(peer, script, request)
    took = {f"prune_{key}": answer.get(key) for key in ("seconds", "cpu_seconds", "peak_mib")}
    students = answer.get(
        "students", {budget: {"error": answer.get("error")} for budget in setting.budgets}
    )
    for budget, student in students.items():
        student |= {**took, "versions": answer.get("versions")}
        if "selection" in student:
            kept = [
                None if b is None else {axis: tuple(v) for axis, v in b.items()}
                for b in student.pop("selection")
            ]
            path = home / f"{budget}-cut"
            cut(Checkpoint.open(embedded.teacher_path()), Selection(blocks=tuple(kept)), path)
            student |= {"checkpoint": str(path), "written_by": "ours"}
    return students


if __name__ == "__main__":
    main()
