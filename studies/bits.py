"""Is a mix of formats that search chooses better than one format, or another mix, in as many bytes?

    python studies/bits.py RUN [--seeds 0 1] [--metric kl] [--characters 16000]

The embedded teacher, nothing cut and nothing trained, at NVFP4's bytes and halfway from there to
FP8's: `search --bits --method solver` (context 1: weights, hardly any cache) beside one format for
all and mixes that measure nothing: the ends of the model wide, Mamba and attention wide, and blocks
drawn at random. A seed draws the calibration text that is scored. The search sees one half of the
validation text, the numbers are of the other: KL to the whole model, and its distance to all
in NVFP4 with an interval of 95 % over blocks of text. RUN/bits.jsonl keeps them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from quantised import beginnings
from quantised_mix import FORMATS, mixed

from minipuzzle.arch import Selection
from minipuzzle.cost.files import Files, files_of
from minipuzzle.embedded import teacher_path
from minipuzzle.metrics import answers, measure
from minipuzzle.model.rounded import Rounding
from minipuzzle.rundir import RunDir
from minipuzzle.runs.job import Job
from minipuzzle.settings import Data
from minipuzzle.settings.bits import number, parse_bits


class Study:
    """What is measured of the teacher, and written down."""

    def __init__(self, line: argparse.Namespace) -> None:
        self.line, texts = line, str(beginnings(line.run, line.characters))
        self.data = Data(length=256, validation=texts)
        self.job = self.open(line.run / "whole")
        self.parent = self.job.parent.architecture
        files = files_of(self.job.parent, parse_bits(FORMATS))
        assert files is not None
        self.files: Files = files
        self.model, self.rounding = self.job.load_frozen(self.job.parent), Rounding(self.job.parent)
        text = self.job.validation("eval")
        self.blocks = [text.share(i, len(text)) for i in range(len(text))]
        self.whole = [answers(self.model, one, 1) for one in self.blocks]
        self.base: np.ndarray | None = None

    def open(self, folder: Path) -> Job:
        return Job(RunDir(folder), checkpoint=teacher_path(), data=self.data, device="cpu")

    def bytes(self, formats: Sequence[str]) -> int:
        return self.files.bytes(self.parent, [number(name) for name in formats], "bf16")

    def row(self, budget: str, what: str, formats: Sequence[str]) -> None:
        """Measure a mix and write that down."""
        selection = replace(Selection.everything(self.parent), formats=tuple(formats))
        with self.rounding.applied(self.model, selection):
            found = [
                measure(self.model, one, teacher=whole)
                for one, whole in zip(self.blocks, self.whole, strict=True)
            ]
        kl = np.array([m.kl for m in found])  # [blocks]
        if self.base is None:
            self.base = kl
        less = kl - self.base
        made = {
            "budget": budget,
            "what": what,
            "bytes": self.bytes(formats),
            "loss": float(np.mean([m.loss for m in found])),
            "kl": float(kl.mean()),
            "less": float(less.mean()),
            "interval": float(1.96 * less.std(ddof=1) / len(less) ** 0.5),
            "domains": {
                name: float(np.mean([m.loss for m in found if name in m.domains]))
                for name in sorted({name for m in found for name in m.domains})
            },
            "formats": list(formats),
        }
        with (self.line.run / "bits.jsonl").open("a") as file:
            file.write(json.dumps(made) + "\n")
        print(
            f"| {budget} | {what} | {made['bytes']:,} | {made['loss']:.4f} | {made['kl']:.4f} |"
            f" {made['less']:+.4f} ± {made['interval']:.4f} |",
            flush=True,
        )

    def filled(self, names: Sequence[str], order: Sequence[int], limit: int) -> list[str]:
        """All blocks in the first format, then each in its turn in the widest that still fits."""
        found = [names[0]] * len(self.parent.blocks)
        for i in order:
            wider = ([*found[:i], name, *found[i + 1 :]] for name in reversed(names))
            found = next(made for made in wider if self.bytes(made) <= limit)
        return found

    def naive(self, budget: str, names: Sequence[str], limit: int) -> None:
        """Mixes that measure nothing."""
        blocks = self.parent.blocks
        ends = sorted(range(len(blocks)), key=lambda i: min(i, len(blocks) - 1 - i))
        kinds = sorted(range(len(blocks)), key=lambda i: blocks[i].kind == "mlp")
        self.row(budget, "ends wide", self.filled(names, ends, limit))
        self.row(budget, "Mamba and attention wide", self.filled(names, kinds, limit))
        for draw in range(self.line.draws):
            order = np.random.default_rng(draw).permutation(len(blocks)).tolist()
            self.row(budget, f"random {draw}", self.filled(names, order, limit))

    def searched(self, budget: str, limit: int, seed: int) -> None:
        """The mix that search puts first, scored on the seed's calibration text."""
        line = self.line
        job = self.open(line.run / f"{line.metric}-{seed}")
        score = {"samples": line.samples, "metric": line.metric, "seed": seed}
        moves = {"candidates": line.candidates, "refine": line.refine}
        formats = mixed(job, limit, score, {"validation_blocks": line.blocks, **moves})
        self.row(budget, f"search, {line.metric}, seed {seed}", formats)


def main() -> None:
    """The rows as they come."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--characters", type=int, default=16_000, help="of each validation text")
    parser.add_argument("--samples", type=int, default=8, help="blocks that are scored")
    parser.add_argument("--metric", default="kl", help="of the scores")
    parser.add_argument("--candidates", type=int, default=4, help="of the solver")
    parser.add_argument("--refine", type=int, default=6, help="moves of the local search")
    parser.add_argument("--blocks", type=int, default=16, help="of text that the search sees")
    parser.add_argument("--draws", type=int, default=2, help="random mixes")
    study = Study(parser.parse_args())
    blocks = len(study.parent.blocks)
    for name in ("nvfp4", "fp8"):
        study.row("", f"all {name}", [name] * blocks)
    low, high = (study.bytes([name] * blocks) for name in ("nvfp4", "fp8"))
    budgets = {"NVFP4's": low, "halfway to FP8's": (low + high) // 2}
    study.naive("halfway to FP8's", ("nvfp4", "fp8"), budgets["halfway to FP8's"])
    for seed in study.line.seeds:
        for budget, limit in budgets.items():
            study.searched(budget, limit, seed)
    study.naive("NVFP4's", ("mxfp4", "nvfp4", "fp8"), low)


if __name__ == "__main__":
    main()
