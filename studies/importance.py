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
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from importance_analysis import best_cuts, correlate, modifications, tables

from minipuzzle import embedded
from minipuzzle.arch import Selection
from minipuzzle.artifacts import write_atomic, write_json
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.data import TokenBlocks, Tokenizer, load_blocks
from minipuzzle.importance import (
    Collector,
    HiddenCollector,
    magnitude_scores,
    random_scores,
    taylor_scores,
)
from minipuzzle.metrics import measure
from minipuzzle.model import HybridLM, load_model
from minipuzzle.model.head import matmul_fp32
from minipuzzle.scores import Scores
from minipuzzle.settings import Training
from minipuzzle.surgery import cut
from minipuzzle.training import distillation, mixed_precision, train

FORWARD = ("minitron", "minitron-pre", "flap", "contribution")
RANDOM_SEEDS = 3
SHARES = (0.75, 0.5)
CHUNK_TOKENS = 1024


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What every process needs to know."""

    checkpoint: str
    text: str | None
    cache: str
    device: str
    length: int
    validation_blocks: int
    tokens: int
    batch: int
    rate: float
    threads: int


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


def scores(
    setting: Setting, samples: int, seed: int
) -> tuple[dict[str, Scores], dict[str, np.ndarray], Any]:
    """(width scores by estimator, block scores by metric, the parent's architecture)."""
    device = torch.device(setting.device)
    model = load_model(Checkpoint.open(Path(setting.checkpoint)), device=device).eval()
    blocks = texts(setting, "calibration")
    samples = min(samples, len(blocks))
    chosen = torch.from_numpy(blocks.take(samples, seed=seed).tokens.astype(np.int64))
    with mixed_precision(device):
        widths = collect(model, chosen.split(setting.batch), device)
        widths["taylor"] = taylor_scores(model, blocks, samples, setting.batch, seed)
        removal = block_metrics(
            model, chosen[: max(1, samples // 2)].split(min(4, setting.batch)), device
        )
    widths["magnitude"] = magnitude_scores(model)
    widths["random"] = random_scores(model.architecture, 0)
    removal |= {name: widths[name].blocks for name in ("taylor", "magnitude", "random")}
    return widths, removal, model.architecture


@torch.no_grad()
def collect(
    model: HybridLM, batches: Iterable[torch.Tensor], device: torch.device
) -> dict[str, Scores]:
    """The forward estimators, all in one pass."""
    parent = model.architecture
    pairs = list(enumerate(zip(parent.blocks, model.blocks, strict=True)))
    collectors = {
        name: [Collector(block, module, name) for _, (block, module) in pairs] for name in FORWARD
    }
    hidden = [HiddenCollector(block, module) for _, (block, module) in pairs]
    with ExitStack() as stack:
        for collector in [*(c for row in collectors.values() for c in row), *hidden]:
            stack.enter_context(collector)
        for tokens in batches:
            model.hidden_states(tokens.to(device))
    whole = np.sum([collector.scores()["hidden"] for collector in hidden], axis=0)
    found = {}
    for name, row in collectors.items():
        got = [next(iter(collector.scores().values())) for collector in row]
        widths: dict[str, dict[int, np.ndarray]] = {}
        for i, (block, _) in pairs:
            widths.setdefault(block.widths[0].score, {})[i] = got[i]
        found[name] = Scores(
            blocks=np.zeros(len(got)),
            widths=widths,
            hidden=whole if name == "minitron" else None,
            meta={"estimator": name},
        )
    return found


@torch.no_grad()
def block_metrics(
    model: HybridLM, batches: Iterable[torch.Tensor], device: torch.device
) -> dict[str, np.ndarray]:
    """Damage at the model's end of removing each block: mse (arXiv:2411.19146), logit-mse
    (arXiv:2511.16664, not normalised: that is one factor for all), kl, loss; and bi = 1 -
    cos(block's input, its output) (arXiv:2407.14679).
    """
    count = len(model.blocks)
    sums = {name: np.zeros(count) for name in ("mse", "logit-mse", "kl", "loss", "bi")}
    total = 0
    for tokens in batches:
        stream = [model.embed(tokens.to(device))]
        for i in range(count):
            stream.append(model.run_blocks(stream[-1], None, i, i + 1))
        targets = tokens.to(device)[:, 1:].flatten()
        whole = model.final_norm(stream[-1])[:, :-1].flatten(0, 1)
        total += len(targets)
        for j in range(count):
            cosine = torch.cosine_similarity(stream[j].float(), stream[j + 1].float(), dim=-1)[
                :, :-1
            ]
            sums["bi"][j] += (1 - cosine).double().sum().item()
            ends = model.final_norm(model.run_blocks(stream[j], None, j + 1, count))[
                :, :-1
            ].flatten(0, 1)
            sums["mse"][j] += (ends.float() - whole.float()).square().mean(-1).double().sum().item()
            for part in torch.arange(len(targets), device=device).split(CHUNK_TOKENS):
                logits, changed = (
                    matmul_fp32(h[part], model.head_weight.to(h.dtype).t()) for h in (whole, ends)
                )
                sums["logit-mse"][j] += (changed - logits).square().mean(-1).double().sum().item()
                p, q = logits.log_softmax(-1), changed.log_softmax(-1)
                sums["kl"][j] += (p.exp() * (p - q)).double().sum().item()
                sums["loss"][j] += (p - q).gather(1, targets[part, None]).double().sum().item()
    return {name: value / total for name, value in sums.items()}


def texts(setting: Setting, which: str) -> TokenBlocks:
    """The "train", "calibration" (a given text's training half serves both) or "validation" text,
    tokenised once.
    """
    if setting.text is None:
        path = embedded.text_path(which)
    else:
        path = Path(setting.text) / "val" if which == "validation" else Path(setting.text)
    tokenizer = Tokenizer.load(Path(setting.checkpoint))
    return load_blocks(path, tokenizer, block_length=setting.length, cache=Path(setting.cache))


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
