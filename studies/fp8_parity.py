r"""Is a model trained in FP8 as good as in BF16? The same hybrid, text and seed, three ways.
docs/results/fp8.md.

    python studies/fp8_data.py --shared ../shared/data --out .carry/fp8             # here, once
    # on the GPU machine; the same command again goes on where it stopped, with the arm that is
    # furthest behind first:
    python studies/fp8_parity.py --arms bf16 fp8 fp8-all --gpus 2 --seconds 540 \
        --data .carry/fp8 --out $OUT
    # three arms on one GPU, under MPS
    CUDA_VISIBLE_DEVICES=1,1,1 python studies/fp8_parity.py --gpus 3 …
    # a table, fp8.png, fp8.json; arms without a CSV there: as kept
    python studies/fp8_parity.py --report FOLDER

101 M parameters, 16,384 words, blocks of 2,048 tokens, 32 at a time, 300 M tokens. ``fp8`` keeps 4
blocks at either end in BF16, ``fp8-all`` none. Validation loss is measured in each arm's own
precision, ten times in the last tenth; their means are compared. Source of the claim:
arXiv:2504.03624 (about 0.1 % in loss).
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import lzma
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import kept
import numpy as np
import torch
from headline_stages import visible_gpu

from minipuzzle.arch import Architecture
from minipuzzle.artifacts import read_json, write_json
from minipuzzle.data import TokenBlocks
from minipuzzle.kernels import choose
from minipuzzle.kinds import Attention, Block, FeedForward, Mamba2
from minipuzzle.model import HybridLM, init_model
from minipuzzle.progress import Silent
from minipuzzle.settings import Training
from minipuzzle.training import mixed_precision, next_token, train
from minipuzzle.training.schedule import learning_rate

ARMS = {
    "bf16": ("bf16", 4),
    "fp8": ("fp8", 4),
    "fp8-all": ("fp8", 0),
    "emulated": ("fp8-emulated", 4),
}
PATTERN = "M-M-M*-M-M-M*-M-M-"
LENGTH, EVALUATIONS, LAST = 2048, 10, 0.1
KEPT = Path(__file__).parent.parent / "docs" / "results" / "fp8.json.xz"
LEAST_SECONDS = 60
"""Of a GPU that an arm is begun for: it loads and compiles first."""
FIELDS = ("tokens", "train_loss", "validation_loss", "learning_rate", "seconds")


def main() -> None:
    """Train an arm for some time, or compare the arms that are done."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS)[:3])
    parser.add_argument(
        "--gpus", type=int, default=2, help="arms at a time, each on one of the visible GPUs"
    )
    parser.add_argument("--arm", choices=ARMS, help="only this one, in this process")
    parser.add_argument(
        "--seconds",
        type=float,
        default=540,
        help="then states are saved, which takes up to 30 more",
    )
    parser.add_argument("--data", type=Path)
    parser.add_argument("--work", type=Path, default=Path("/tmp/parity"))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--tokens", type=int, default=300_000_000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=1.5e-3)
    parser.add_argument("--device", default="cuda")
    parser.add_argument(
        "--tiny", action="store_true", help="does it run at all: a small model, 64 tokens a block"
    )
    parser.add_argument("--report", type=Path)
    options = parser.parse_args()
    if options.report:
        report(options.report)
    elif options.arm:
        run(options)
    else:
        run_all(options)


def architecture(tiny: bool) -> Architecture:
    """The hybrid: every weight's sizes are multiples of 16."""
    d = 64 if tiny else 768
    kinds: dict[str, Block] = {
        "M": Mamba2(
            hidden=d,
            heads=16,
            head_dim=8 if tiny else 64,
            groups=2 if tiny else 4,
            state=16 if tiny else 64,
            chunk_size=32 if tiny else 128,
        ),
        "-": FeedForward(hidden=d, intermediate=256 if tiny else 4096),
        "*": Attention(
            hidden=d,
            q_heads=4 if tiny else 12,
            kv_heads=2 if tiny else 4,
            attn_head_dim=16 if tiny else 64,
        ),
    }
    return Architecture(
        vocab_size=16384, hidden=d, blocks=tuple(kinds[c] for c in PATTERN[: 11 if tiny else None])
    )


def load(folder: Path, pattern: str, length: int) -> TokenBlocks:
    """The arrays of a folder as blocks; documents run on from one to the next."""
    files = sorted(folder.glob(pattern), key=lambda path: (len(path.name), path.name))
    parts = [np.load(io.BytesIO(lzma.decompress(path.read_bytes()))) for path in files]
    joined = np.concatenate(parts)
    rows = joined[: len(joined) // length * length].reshape(-1, length)
    return TokenBlocks(
        tokens=rows,
        documents=np.zeros(rows.shape, np.int32),
        text_bytes=1,
        fingerprint=hashlib.sha256(rows.tobytes()).hexdigest()[:16],
    )


@torch.no_grad()
def validation_loss(model: HybridLM, blocks: TokenBlocks, batch: int) -> float:
    """Nats per token, in the precision that the model is set to."""
    device = next(model.parameters()).device
    total, count = 0.0, 0
    for start in range(0, len(blocks), batch):
        tokens = torch.from_numpy(blocks.tokens[start : start + batch].astype(np.int64)).to(device)
        with mixed_precision(device):
            found = next_token(model, tokens, None)
        total, count = total + float(found.total), count + found.tokens
    return total / count


def run_all(options: argparse.Namespace) -> None:
    """Arms beside each other, each free GPU taking the one that is furthest behind; what stands
    where at the end.
    """
    end, running, failed = (
        time.monotonic() + options.seconds,
        dict[int, tuple[str, subprocess.Popen[bytes]]](),
        set[str](),
    )
    while True:
        for gpu, (arm, process) in list(running.items()):
            if process.poll() is not None:
                failed |= {arm} if process.returncode else set()
                del running[gpu]
        busy = {arm for arm, _ in running.values()} | failed
        waiting = sorted(
            (a for a in options.arms if a not in busy and not standing(options, a)["done"]),
            key=lambda a: standing(options, a)["tokens"],
        )
        free = [gpu for gpu in range(options.gpus) if gpu not in running]
        seconds = end - time.monotonic()
        if seconds > min(LEAST_SECONDS, options.seconds / 2):
            for gpu, arm in zip(free, waiting, strict=False):
                running[gpu] = (arm, start(options, arm, gpu, seconds))
        if not running:
            break
        time.sleep(0.5)
    found = {arm: standing(options, arm) for arm in options.arms}
    for arm, stands in found.items():
        left = (
            "done"
            if stands["done"]
            else f"{stands['minutes_left']:.1f} minutes left"
            if stands["speed"]
            else "not begun"
        )
        print(
            f"{arm:<10}{stands['tokens']:>13,.0f} tokens {stands['speed']:>9,.0f} tokens/s  {left}"
        )
    if options.out:
        write_json(options.out / "arms.json", found)
        for curve in options.work.glob(
            "*/curve.csv"
        ):  # an arm that was done before this call has written none there
            shutil.copy(curve, options.out / f"{curve.parent.name}.csv")
    for arm in sorted(failed):
        print(f"{arm} FAILED\n" + (options.work / arm / "log.txt").read_text()[-1500:])
    sys.exit(bool(failed))


def start(
    options: argparse.Namespace, arm: str, gpu: int, seconds: float
) -> subprocess.Popen[bytes]:
    """An arm in a process of its own, on the GPU of that place among those that this process may
    use.
    """
    print(f"{arm} on GPU {gpu} for {seconds:.0f} s", flush=True)
    (options.work / arm).mkdir(parents=True, exist_ok=True)
    same = (
        "data",
        "work",
        "tokens",
        "batch",
        "learning_rate",
        "device",
        *(["out"] if options.out else []),
    )
    words = [
        w for name in same for w in (f"--{name.replace('_', '-')}", str(getattr(options, name)))
    ]
    command = [
        sys.executable,
        __file__,
        "--arm",
        arm,
        "--seconds",
        str(seconds),
        *words,
        *(["--tiny"] * options.tiny),
    ]
    environment = {
        "TRITON_CACHE_AUTOTUNING": "1",
        **os.environ,
        "CUDA_VISIBLE_DEVICES": visible_gpu(gpu),
    }
    with (options.work / arm / "log.txt").open("ab") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log)


def standing(options: argparse.Namespace, arm: str) -> dict[str, Any]:
    """How far an arm is: tokens, tokens/s with what was spent on validation, minutes left, and what
    it said when done.
    """
    log, facts = options.work / arm / "run/log.csv", options.work / arm / "done.json"
    rows = list(csv.DictReader(log.read_text().splitlines())) if log.exists() else []
    tokens, seconds = (float(rows[-1][name]) if rows else 0.0 for name in ("tokens", "seconds"))
    speed = tokens / seconds if seconds else 0.0
    done = read_json(facts) if facts.exists() else {"done": False}
    left = (options.tokens - tokens) / speed / 60 if speed else None
    return {"tokens": tokens, "speed": speed, "minutes_left": left, **done}


def run(options: argparse.Namespace) -> None:
    """Train until the tokens or the seconds are used up. Rows of the CSV after the last saved state
    are made again.
    """
    started = time.monotonic()
    timer = threading.Timer(options.seconds, lambda: os.kill(os.getpid(), signal.SIGTERM))
    timer.daemon = True  # an arm that fails ends at once
    timer.start()
    precision, ends = ARMS[options.arm]
    length, device = 64 if options.tiny else LENGTH, torch.device(options.device)
    settings = Training(
        tokens=options.tokens,
        batch=options.batch,
        learning_rate=options.learning_rate,
        warmup=0.02,
        final_ratio=0.02,
        precision=precision,
        bf16_ends=ends,
        save_every=240,
    )
    text, held = (
        load(options.data, "train-*.npy.xz", length),
        load(options.data, "val.npy.xz", length),
    )
    model = init_model(architecture(options.tiny), 0, device=device, kernels=choose(device))
    print(
        f"{options.arm}: {model.architecture.parameters:,} parameters, {text.tokens.size:,} tokens"
        f" of text, {held.tokens.size:,} of validation, kernels {model.kernels.name}",
        flush=True,
    )
    folder = options.work / options.arm
    folder.mkdir(parents=True, exist_ok=True)
    table = Table(folder / "curve.csv", options.out / f"{options.arm}.csv" if options.out else None)

    class Curve(Silent):
        def update(self, completed: float, **numbers: float) -> None:
            if table.due(used := int(completed), options.tokens):
                done = used / (options.batch * length)
                table.add(
                    used,
                    numbers["loss"],
                    validation_loss(model, held, options.batch),
                    learning_rate(settings, done, settings.steps(length)),
                    time.monotonic() - started,
                )

    try:
        train(
            model,
            next_token,
            text,
            settings,
            folder / "run",
            identity=options.arm,
            progress=Curve(),
        )
    except SystemExit:
        print(
            f"{options.arm}: stopped after {table.rows[-1]['tokens'] if table.rows else 0:,}"
            " tokens, go on",
            flush=True,
        )
    else:
        print(f"{options.arm}: done", flush=True)
        name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
        write_json(
            folder / "done.json",
            {
                "done": True,
                "parameters": model.architecture.parameters,
                "device": name,
                "torch": torch.__version__,
            },
        )
    os._exit(0)  # the timer must not end whoever comes next


class Table:
    """The curve: rows in memory and in two files. A run that goes on drops what it will measure
    again.
    """

    def __init__(self, path: Path, copy: Path | None) -> None:
        self.paths = [path] if copy is None else [path, copy]
        self.rows: list[dict[str, float]] = []
        if path.exists():
            with path.open() as file:
                self.rows = [
                    {key: float(value) for key, value in row.items()}
                    for row in csv.DictReader(file)
                ]
        self._begun = False

    def due(self, used: int, budget: int) -> bool:
        """Whether to measure: every hundredth in the last tenth, every fiftieth before, and never
        twice.
        """
        if not self._begun:  # the first call says where the run goes on
            self._begun = True
            self.rows = [row for row in self.rows if row["tokens"] <= used]
            return False
        step = budget * (LAST / EVALUATIONS if used > (1 - LAST) * budget else 0.02)
        last = self.rows[-1]["tokens"] if self.rows else 0
        return used // step > last // step or used >= budget > last

    def add(self, *values: float) -> None:
        """Append a row and write."""
        self.rows.append(dict(zip(FIELDS, values, strict=True)))
        print(
            "  ".join(f"{name} {value:,.4g}" for name, value in self.rows[-1].items()), flush=True
        )
        for path in self.paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("w", newline="") as file:
                writer = csv.DictWriter(file, FIELDS)
                writer.writeheader()
                writer.writerows(self.rows)


def report(folder: Path) -> None:
    """A table of the arms against BF16, their curves in fp8.json and fp8.png. An arm that is not
    done is not compared.
    """
    curves: dict[str, list[dict[str, float]]] = {}
    columns = kept.read(KEPT)["curves"]
    for arm in ARMS:
        if arm in columns:
            curves[arm] = [
                dict(zip(columns[arm], row, strict=True))
                for row in zip(*columns[arm].values(), strict=True)
            ]
        if (folder / f"{arm}.csv").exists():
            with (folder / f"{arm}.csv").open() as file:
                curves[arm] = [
                    {key: float(value) for key, value in row.items()}
                    for row in csv.DictReader(file)
                ]
    final: dict[str, Any] = {}
    for arm, rows in curves.items():
        end = rows[-1]["tokens"]
        tail = [row for row in rows if row["tokens"] > (1 - LAST) * end]
        final[arm] = {
            "tokens": end,
            "validation_loss": float(np.mean([r["validation_loss"] for r in tail])),
            "rows": len(tail),
        }
    base, whole = final["bf16"]["validation_loss"], max(row["tokens"] for row in final.values())
    print(f"{'arm':<10}{'tokens':>14}{'validation loss, last tenth':>30}{'against BF16':>15}")
    for arm, row in final.items():
        comparable = row["tokens"] == whole == final["bf16"]["tokens"]
        row["relative"] = row["validation_loss"] / base - 1 if comparable else None
        against = f"{row['relative']:>+15.3%}" if comparable else f"{'not done':>15}"
        print(f"{arm:<10}{row['tokens']:>14,.0f}{row['validation_loss']:>30.5f}{against}")
    shown = ("tokens", "train_loss", "validation_loss")
    columns = {
        arm: {name: [round(row[name], 5) for row in rows] for name in shown}
        for arm, rows in curves.items()
    }
    write_json(folder / "fp8.json", {"last_tenth": final, "curves": columns})
    plot(curves, folder / "fp8.png")


def plot(curves: dict[str, list[dict[str, float]]], path: Path) -> None:
    """Validation loss, and its difference from BF16's at the same token."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4))
    base = {row["tokens"]: row["validation_loss"] for row in curves["bf16"]}
    for arm, rows in curves.items():
        x = [row["tokens"] / 1e6 for row in rows]
        left.plot(x, [row["validation_loss"] for row in rows], label=arm)
        both = [row for row in rows if row["tokens"] in base]
        apart = [100 * (row["validation_loss"] / base[row["tokens"]] - 1) for row in both]
        right.plot([row["tokens"] / 1e6 for row in both], apart, label=arm)
    left.set(
        xlabel="million tokens",
        ylabel="validation loss, nats/token",
        ylim=(None, base[max(base)] + 1.0),
    )
    right.set(xlabel="million tokens", ylabel="% of BF16's", ylim=(-1, 1))
    left.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=80)


if __name__ == "__main__":
    main()
