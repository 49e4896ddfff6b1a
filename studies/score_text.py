"""On how many samples must each block be removed and narrowed, so that a search finds as good a
model?

    OMP_NUM_THREADS=1 python studies/score_text.py score FOLDER [--tiny]    a quarter of an hour
    OMP_NUM_THREADS=1 python studies/score_text.py search FOLDER [--tiny]   the same
    python studies/score_text.py table FOLDER

The embedded teacher on a CPU. Each variant's error is kept of every sample, so a scoring with fewer
samples is a sum over some of them: DRAWS of each number, from one half of the calibration text and
from the other. What ranks channels and heads is of all the text, as by default (1,024 samples).
Each draw's scores propose candidates, which are ranked on one half of the validation text; the
other half says what the first of them loses. docs/results/search_text.md.
"""

from __future__ import annotations

import argparse
import bz2
import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from score_text_table import COUNTS, table
from search_text import by_block, hidden
from search_text_table import ranks

from minipuzzle import embedded
from minipuzzle.arch import Selection
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.data import TokenBlocks, Tokenizer, load_blocks
from minipuzzle.importance import score
from minipuzzle.importance.curves import Variant
from minipuzzle.importance.ends import error_sums, errors
from minipuzzle.importance.found import Found
from minipuzzle.importance.streams import Streams
from minipuzzle.model import HybridLM, load_model
from minipuzzle.nas.plan import make_plan
from minipuzzle.nas.propose import propose_each
from minipuzzle.scores import Scores
from minipuzzle.settings import ScoreSettings, SearchSettings

LENGTH, SAMPLES, DRAWS, SOLVED = 256, 320, 48, 12
BUDGETS, CANDIDATES = ("83%", "60%"), 24
CHOOSE, REPORT = 32, 96
GIB = 0.5


def main() -> None:
    """Measure, or print what was measured."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("score", "search", "table"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tiny", action="store_true", help="a rehearsal")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.what == "table":
        print(table(options.folder))
    else:
        {"score": measure, "search": searched}[options.what](options.folder, options.tiny)


def texts(which: str, parent: Checkpoint) -> TokenBlocks:
    """The embedded texts of that name."""
    with tempfile.TemporaryDirectory() as folder:
        for file in sorted(embedded.text_path(which).glob("*.txt.bz2")):
            (Path(folder) / file.stem).write_bytes(bz2.decompress(file.read_bytes()))
        return load_blocks(Path(folder), Tokenizer.load(parent.path), block_length=LENGTH)


class Sample:
    """Of ``streams`` one sample of each variant, for ``error_sums``."""

    def __init__(self, streams: Streams, number: int) -> None:
        self.streams, self.number = streams, number
        self.variants, self.device = streams.variants, streams.device

    def variant(self, number: int) -> torch.Tensor:
        """[1, s, hidden]."""
        return self.streams.variant(number)[self.number : self.number + 1]


def measure(folder: Path, tiny: bool) -> None:
    """Write scores of the whole text, and each sample's error sums [samples, variants + 1]."""
    parent = Checkpoint.open(embedded.teacher_path())
    text = texts("calibration", parent)
    text = text.take(24 if tiny else SAMPLES)
    rows: list[NDArray[np.float64]] = []
    variants: list[Variant] = []

    def each(
        streams: Any, reference: Any, norm: Any, head: Any, tokens: Any, *rest: Any
    ) -> NDArray[np.float64]:
        parts = [slice(k, k + 1) for k in range(len(tokens))]
        new = [
            error_sums(
                Sample(streams, k),
                reference[part],
                norm,
                head,
                tokens[part],
                *rest,  # type: ignore[arg-type]
            )
            for k, part in enumerate(parts)
        ]
        rows.extend(new)
        variants[:] = streams.variants
        np.save(folder / "sums.npy", np.array(rows))
        print(f"{len(rows)} of {len(text)} samples", flush=True)
        return np.sum(new, axis=0)

    with (
        mock.patch("minipuzzle.importance.stream.error_sums", each),
        tempfile.TemporaryDirectory() as partial,
    ):
        settings = ScoreSettings(samples=len(text), block_samples=len(text), activations=GIB)
        found = score(parent, text, settings, device=torch.device("cpu"), partial=Path(partial))
    found.save(folder / "scores.safetensors")
    (folder / "variants.json").write_text(json.dumps([asdict(variant) for variant in variants]))


def drawn(folder: Path, tiny: bool) -> Iterator[tuple[int, int, Scores]]:
    """(samples, number of the draw, scores by them) of each draw, of both halves in turn."""
    sums = np.load(folder / "sums.npy")
    whole = Scores.load(folder / "scores.safetensors")
    variants = [Variant(**v) for v in json.loads((folder / "variants.json").read_text())]
    architecture = Checkpoint.open(embedded.teacher_path()).architecture
    generator = np.random.default_rng(0)
    for number in range(2 if tiny else DRAWS):
        half = sums[number % 2 :: 2]
        for count in COUNTS:
            if count > len(half):
                continue
            chosen = half[generator.permutation(len(half))[:count]].sum(0)
            found = Found(architecture)
            found.add_errors(variants, errors(chosen, 0))
            some = found.scores({})
            yield count, number, replace(whole, blocks=some.blocks, curves=some.curves)


def searched(folder: Path, tiny: bool) -> None:
    """Write of each budget and draw what is picked, and of each pick the loss of every block of the
    half that reports; what was measured before is kept.
    """
    parent = Checkpoint.open(embedded.teacher_path())
    model, whole = load_model(parent).eval(), texts("validation", parent)
    choose = whole.every_other(0).take(4 if tiny else CHOOSE)
    report = whole.every_other(1).take(4 if tiny else REPORT)
    measured = {"choose": Measured(model, choose), "report": Measured(model, report)}
    picks: list[dict[str, Any]] = []
    for count, number, scores in drawn(folder, tiny):
        damages = [float(e) for each in scores.curves.values() for _, c in each.values() for e in c]
        pick: dict[str, Any] = {"samples": count, "draw": number, "curves": damages}
        pick |= {"blocks": scores.blocks.tolist(), "picked": {}}
        for budget in BUDGETS:
            settings = SearchSettings(budget=(budget,), candidates=CANDIDATES)
            plan = make_plan(parent.architecture, settings)
            found = [c.selection for c in plan.candidates(scores, 4 if tiny else CANDIDATES)]
            rows = np.array([measured["choose"](one) for one in found]).mean(1)  # [candidates, 4]
            best = {"grid": found[int(ranks(rows, "agreement").argmin())]}
            if number < SOLVED:
                settings = replace(settings, method="solver")
                (proposals, *_) = propose_each(
                    parent.architecture, scores, plan.widest(settings), settings, plan.prices, 1
                )
                (solved, *_) = proposals.candidates(plan.bytes, 1)
                best["solver"] = solved.selection
            for way, selection in best.items():
                rows = np.array(measured["report"](selection))  # [blocks, 4]
                pick["picked"][f"{budget}, {way}"] = rows[:, 0].tolist()
        picks.append(pick)
        (folder / "picks.json").write_text(json.dumps(picks))
        seen = ", ".join(f"{len(m.found)} {name}" for name, m in measured.items())
        print(f"draw {number}, {count} samples; measured {seen}", flush=True)


class Measured:
    """(loss, accuracy, agreement, KL) of each block of a text under a selection's masks."""

    def __init__(self, model: HybridLM, text: TokenBlocks) -> None:
        self.model, self.text = model, text
        self.said = hidden(model, text, len(text), "fp32")
        self.found: dict[str, list[list[float]]] = {}

    def __call__(self, selection: Selection) -> list[list[float]]:
        """[blocks][4]."""
        key = str(selection)
        if key not in self.found:
            with self.model.masked(selection):
                own = hidden(self.model, self.text, len(self.text), "fp32")
            self.found[key] = by_block(self.model, self.text, own, self.said)
        return self.found[key]


if __name__ == "__main__":
    main()
