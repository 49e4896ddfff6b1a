r"""Do importance scores predict damage? Random cuts against each estimator's prediction. Table:
docs/results/importance.md.

    # CPU, no training
    python studies/importance.py --out out/importance.json
    python studies/importance.py --text TEXT --device cuda --workers 6 --tokens 300000 \
        --out out/importance.json

1. 60 random modifications (blocks out, FFN channels, Mamba heads, attention heads; what stays is
random): Spearman of
   predicted and measured loss increase, before and after a short distillation from the parent.
2. Every block of a kind cut to 75 % and to 50 % of one axis, keeping what each estimator ranks
first: the loss increase.
   This one decides.

TEXT is a folder with training text and val/; without it the embedded texts are used.
``--checkpoint`` names another parent in place of the embedded teacher. Writes the JSON and, beside
it, the tables (.tables.md).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from importance_analysis import correlate, tables
from importance_cuts import best_cuts, modifications
from importance_scores import RANDOM_SEEDS, Setting, scores, texts

from minipuzzle import embedded
from minipuzzle.arch import Selection
from minipuzzle.artifacts import write_atomic, write_json
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.importance import random_scores
from minipuzzle.metrics import measure
from minipuzzle.model import HybridLM, load_model
from minipuzzle.settings import Training
from minipuzzle.surgery import cut
from minipuzzle.training import distillation, mixed_precision, train

SHARES = (0.75, 0.5)


@dataclass(frozen=True, kw_only=True)
class Task:
    """One cut: measured under masks, and after ``tokens`` of distillation where there are any."""

    number: int
    selection: Selection
    tokens: int


def main() -> None:
    """Run everything; progress on the terminal."""
    options = arguments()
    started = time.time()
    with tempfile.TemporaryDirectory() as cache:
        setting = Setting(
            checkpoint=str(options.checkpoint),
            text=None if options.text is None else str(options.text),
            cache=cache,
            device=options.device,
            length=options.length,
            validation_blocks=options.validation_blocks,
            tokens=options.tokens,
            batch=options.batch,
            rate=options.rate,
            threads=max(1, torch.get_num_threads() // options.workers),
        )
        run(options, setting, started)


def arguments() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, default=embedded.teacher_path())
    parser.add_argument(
        "--text", type=Path, help="folder with training text and val/ (default: the embedded texts)"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--modifications", type=int, default=60)
    parser.add_argument(
        "--tokens", type=int, default=0, help="of distillation for each modification (0: none)"
    )
    parser.add_argument("--recover-cuts", action="store_true", help="distil the cuts of part 2 too")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument(
        "--samples", type=int, default=128, help="calibration blocks; half of them for block scores"
    )
    parser.add_argument("--validation-blocks", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


def run(options: argparse.Namespace, setting: Setting, started: float) -> None:
    """Score, measure every cut in the pool, and write what is known after each."""
    widths, blocks, parent = scores(setting, options.samples, options.seed)
    say(
        started,
        f"scored {parent.pattern} ({parent.parameters:,} parameters) by {', '.join(widths)}",
    )
    jobs: list[dict[str, Any]] = [
        {"family": family, "selection": selection, "tokens": options.tokens}
        for family, selection in modifications(parent, options.modifications, options.seed)
    ]
    seeds = {f"random {seed}": random_scores(parent, seed) for seed in range(1, RANDOM_SEEDS)}
    for share, (name, estimator) in product(SHARES, (widths | seeds).items()):
        for axis, selection in best_cuts(parent, estimator, share).items():
            jobs.append(
                {
                    "axis": axis,
                    "share": share,
                    "estimator": name.split()[0],
                    "selection": selection,
                    "tokens": options.tokens if options.recover_cuts else 0,
                }
            )
    whole = Selection.everything(parent)
    tasks = [
        Task(number=i, selection=job["selection"], tokens=job["tokens"])
        for i, job in enumerate(jobs)
    ]
    facts: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if options.device.startswith("cuda") else "CPU",
        "torch": torch.__version__,
        "options": {k: str(v) for k, v in vars(options).items()},
        "tokens": options.tokens,
        "pattern": parent.pattern,
        "shares": SHARES,
        "parameters": parent.parameters,
        "block_scores": {name: b.tolist() for name, b in blocks.items()},
    }
    errors = []
    with ProcessPoolExecutor(
        options.workers, mp_context=get_context("spawn"), initializer=prepare, initargs=(setting,)
    ) as pool:
        base = pool.submit(work_on, Task(number=-1, selection=whole, tokens=0)).result()["before"]
        facts["parent_loss"] = base
        for done, future in enumerate(
            as_completed([pool.submit(work_on, task) for task in tasks]), start=1
        ):
            result = future.result()
            job = jobs[result["number"]]
            if "error" in result:
                errors.append(result)
                say(
                    started,
                    f"{done}/{len(jobs)} FAILED {job.get('family') or job['axis']}:"
                    f" {result['error']}",
                )
                continue
            job["before"] = result["before"] - base
            job["after"] = None if result["after"] is None else result["after"] - base
            after = "" if job["after"] is None else f" -> {job['after']:+.4f}"
            what = job.get("family") or f"{job['axis']} {job['share']:.0%}, {job['estimator']}"
            say(started, f"{done}/{len(jobs)} {what:<45} {job['before']:+.4f}{after}")
            write_json(
                options.out,
                {**facts, **results(jobs), "errors": errors, "seconds": time.time() - started},
            )
    facts |= results(jobs)
    measured = [job for job in jobs if "family" in job and "before" in job]
    facts["correlations"] = correlate(parent, widths, blocks, measured)
    facts |= {"errors": errors, "seconds": time.time() - started}
    write_json(options.out, facts)
    text = tables(facts) + (
        f"\n{len(errors)} of {len(jobs)} cuts failed and are left out.\n" if errors else ""
    )
    write_atomic(options.out.with_suffix(".tables.md"), text.encode())
    print(text, flush=True)
    say(started, f"wrote {options.out} and {options.out.with_suffix('.tables.md')}")


def results(jobs: list[dict[str, Any]]) -> dict[str, Any]:
    """What of the jobs goes into the JSON: those that were measured, by part."""
    done = [{**job, "selection": plain(job["selection"])} for job in jobs if "before" in job]
    return {
        "modifications": [j for j in done if "family" in j],
        "cuts": [j for j in done if "axis" in j],
    }


def plain(selection: Selection) -> dict[str, Any]:
    """A selection as JSON: how many of each axis stay (None: the block is out). Which ones follows
    from the seed.
    """
    blocks = [
        None if kept is None else {axis: len(c) for axis, c in kept.items()}
        for kept in selection.blocks
    ]
    return {"blocks": blocks, "hidden": None if selection.hidden is None else len(selection.hidden)}


_loaded: dict[str, Any] = {}
"""What a process of the pool keeps: the setting, the parent, its model and the texts."""


def prepare(setting: Setting) -> None:
    """Load, once in each process."""
    torch.set_num_threads(setting.threads)
    parent = Checkpoint.open(Path(setting.checkpoint))
    model = load_model(parent, device=torch.device(setting.device)).eval().requires_grad_(False)
    validation = texts(setting, "validation")
    _loaded.update(
        setting=setting,
        parent=parent,
        model=model,
        validation=validation.take(min(len(validation), setting.validation_blocks)),
        train=texts(setting, "train") if setting.tokens else None,
    )


def work_on(task: Task) -> dict[str, Any]:
    """The loss under masks, and of the cut model after distillation; an error is returned, so that
    the others go on.
    """
    try:
        model: HybridLM = _loaded["model"]
        with model.masked(task.selection):
            before = loss(model)
        return {
            "number": task.number,
            "before": before,
            "after": recover(task) if task.tokens else None,
        }
    except (
        Exception
    ) as error:  # one cut's failure is reported in the results, and must not cost the others
        return {"number": task.number, "error": f"{type(error).__name__}: {error}"}


def recover(task: Task) -> float:
    """The loss of the cut model after distillation from the parent."""
    setting: Setting = _loaded["setting"]
    with tempfile.TemporaryDirectory() as folder:
        saved = cut(_loaded["parent"], task.selection, Path(folder) / "student")
        student = load_model(saved, device=torch.device(setting.device)).eval()
        settings = Training(
            tokens=task.tokens,
            learning_rate=setting.rate,
            batch=setting.batch,
            final_ratio=0.02,
            save_every=1e9,
        )
        train(
            student,
            distillation(_loaded["model"]),
            _loaded["train"],
            settings,
            Path(folder) / "run",
            identity=json.dumps(task.number),
        )
        return loss(student)


def loss(model: HybridLM) -> float:
    """Validation loss in nats a token."""
    with mixed_precision(torch.device(_loaded["setting"].device)):
        return measure(model, _loaded["validation"], batch=8).loss


def say(started: float, text: str) -> None:
    """A line with the seconds since the start."""
    print(f"{time.time() - started:6.0f} s  {text}", flush=True)


if __name__ == "__main__":
    main()
