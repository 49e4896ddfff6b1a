"""What a search may save: does BF16 rank candidates as FP32 does, and how much text do they need?

    OMP_NUM_THREADS=1 python studies/search_text.py run FILE [--tiny]
    python studies/search_text.py table FILE
    python studies/search_text.py count              blocks that run for all candidates together

The embedded teacher on a CPU, where BF16 is what a GPU computes: matrices and the residual stream
in BF16, products summed in FP32 (``torch.autocast``), norms, scan and logits in FP32. Candidates
are those of the paper's grid at each budget, measured block by block of 128 tokens; half of the
blocks choose, the other half are the truth. docs/results/search_text.md.
"""

from __future__ import annotations

import argparse
import bz2
import json
import tempfile
from contextlib import nullcontext
from itertools import product
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from search_text_table import BLOCKS, CANDIDATES, table

from minipuzzle import embedded
from minipuzzle.arch import Architecture
from minipuzzle.checkpoint import Checkpoint, read_config
from minipuzzle.data import TokenBlocks, Tokenizer, load_blocks
from minipuzzle.importance import score
from minipuzzle.model import HybridLM, load_model
from minipuzzle.model.head import matmul_fp32
from minipuzzle.nas.plan import make_plan
from minipuzzle.nas.propose import propose_each
from minipuzzle.nas.rank import TOGETHER
from minipuzzle.scores import Scores
from minipuzzle.settings import ScoreSettings, SearchSettings

LENGTH, BATCH, CHARACTERS = 128, 8, 30_000
BUDGETS = ("80%", "50%")
IN_BF16 = 16


def main() -> None:
    """Measure, or print what was measured."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("run", "table", "count"))
    parser.add_argument("file", type=Path, nargs="?")
    parser.add_argument("--tiny", action="store_true", help="a rehearsal")
    options = parser.parse_args()
    if options.what == "count":
        count()
        return
    if options.what == "run":
        options.file.write_text(json.dumps(run(options.tiny)) + "\n")
    print(table(json.loads(options.file.read_text())))


def run(tiny: bool) -> dict[str, Any]:
    """Scores and candidates in both precisions."""
    parent = Checkpoint.open(embedded.teacher_path())
    count, blocks, in_bf16 = (4, 8, 4) if tiny else (CANDIDATES, BLOCKS, IN_BF16)
    samples = 4 if tiny else 8
    text = {which: texts(which, parent).take(blocks) for which in ("calibration", "validation")}
    scores = {p: scored(parent, text["calibration"], samples, p) for p in ("fp32", "bf16")}
    found: dict[str, Any] = {
        "torch": torch.__version__,
        "damages": {p: damages(each) for p, each in scores.items()},
        "budgets": {},
    }
    models = {"fp32": load_model(parent).eval(), "bf16": rounded(load_model(parent).eval())}
    whole = text["validation"]
    for budget in BUDGETS[:1] if tiny else BUDGETS:
        plan = make_plan(parent.architecture, SearchSettings(budget=(budget,), candidates=count))
        picked = {p: plan.candidates(each, count) for p, each in scores.items()}
        rows: dict[str, list[list[list[float]]]] = {"fp32": [], "bf16": []}
        for precision, limit in (("fp32", len(whole)), ("bf16", in_bf16)):
            model = models[precision]
            said = hidden(model, whole, limit, precision)
            for candidate in picked["fp32"]:
                with model.masked(candidate.selection):
                    own = hidden(model, whole, limit, precision)
                rows[precision].append(by_block(model, whole, own, said))
            print(f"{budget}: {len(rows[precision])} candidates in {precision}", flush=True)
        same = {p: {(c.blocks, str(c.student)) for c in each} for p, each in picked.items()}
        found["budgets"][budget] = {
            "rows": rows,
            "same candidates": len(same["fp32"] & same["bf16"]),
        }
    return found


def count() -> None:
    """Print the blocks that run for CANDIDATES together and one by one, by budget and method:
    nothing is computed.
    """
    print("| | one by one | together | of it |\n|---|--:|--:|--:|")
    eight = Path(__file__).resolve().parent.parent / "docs/examples/nemotron-h-8b"
    parents = {
        "embedded": Checkpoint.open(embedded.teacher_path()).architecture,
        "8B's shape": read_config(eight)[1],
    }
    for (name, parent), budget, method in product(
        parents.items(), BUDGETS, ("minipuzzle", "solver")
    ):
        scores, model = drawn(parent), HybridLM(parent, device="meta")
        settings = SearchSettings(budget=(budget,), method=method, candidates=CANDIDATES)
        plan = make_plan(parent, settings)
        found = plan.candidates(scores, CANDIDATES)
        if method == "solver":
            widest = plan.widest(settings)
            each = propose_each(parent, scores, widest, settings, plan.prices, CANDIDATES)
            found = each[0].candidates(plan.bytes, 1)
        found = sorted(found, key=lambda candidate: candidate.path)
        alone = sum(len(c.blocks) for c in found)
        together = sum(
            model.branches([c.selection for c in found[at : at + TOGETHER]]).count
            for at in range(0, len(found), TOGETHER)
        )
        print(
            f"| {name}, {budget}, {method}: {len(found)} candidates | {alone:,} | {together:,} |"
            f" {together / alone:.0%} |",
            flush=True,
        )


def drawn(parent: Architecture) -> Scores:
    """Scores of nothing: damages over two orders of magnitude."""
    generator = np.random.default_rng(0)
    widths: dict[str, dict[int, NDArray[np.float64]]] = {}
    for i, block in enumerate(parent.blocks):
        for width in block.own_widths:
            values = generator.lognormal(size=width.score_shape(block))
            widths.setdefault(width.score, {})[i] = values
    blocks = generator.lognormal(sigma=1.2, size=len(parent.blocks))
    return Scores(blocks=blocks, widths=widths, hidden=generator.random(parent.hidden), meta={})


def texts(which: str, parent: Checkpoint) -> TokenBlocks:
    """The embedded texts of that name, CHARACTERS of each."""
    with tempfile.TemporaryDirectory() as folder:
        for file in sorted(embedded.text_path(which).glob("*.txt.bz2")):
            text = bz2.decompress(file.read_bytes()).decode()[:CHARACTERS]
            (Path(folder) / file.stem).write_text(text)
        return load_blocks(Path(folder), Tokenizer.load(parent.path), block_length=LENGTH)


def scored(parent: Checkpoint, text: TokenBlocks, samples: int, precision: str) -> Scores:
    """The teacher's scores in a precision."""
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    forced = mock.Mock(return_value=(dtype, "the study"))
    with (
        mock.patch("minipuzzle.importance.stream.compute_dtype", forced),
        mock.patch("minipuzzle.importance.peak.compute_dtype", forced),
        tempfile.TemporaryDirectory() as folder,
    ):
        settings = ScoreSettings(samples=2 * samples, block_samples=samples)
        return score(
            parent, text, settings, device=torch.device("cpu"), partial=Path(folder) / "state"
        )


def damages(scores: Scores) -> list[float]:
    """Of every removal, then of every narrowing."""
    curves = [e for axes in scores.curves.values() for _, errors in axes.values() for e in errors]
    return [*scores.blocks.tolist(), *map(float, curves)]


def rounded(model: HybridLM) -> HybridLM:
    """Its matrices in BF16, as a GPU holds them."""
    for name, parameter in model.requires_grad_(False).named_parameters():
        if name in model.architecture.matrices:
            parameter.data = parameter.data.bfloat16()
    return model


@torch.no_grad()
def hidden(model: HybridLM, text: TokenBlocks, limit: int, precision: str) -> torch.Tensor:
    """[limit, s - 1, hidden], before the head."""
    products = torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else nullcontext()
    with products:
        rows = [
            model.hidden_states(torch.from_numpy(text.tokens[a : a + BATCH].astype("int64")))
            for a in range(0, limit, BATCH)
        ]
    return torch.cat(rows)[:, :-1]


@torch.no_grad()
def by_block(
    model: HybridLM, text: TokenBlocks, own: torch.Tensor, said: torch.Tensor
) -> list[list[float]]:
    """(loss, accuracy, agreement, KL from the parent) of each block."""
    head, rows = model.head_weight, []
    for i, (h, t) in enumerate(zip(own, said, strict=True)):
        targets = torch.from_numpy(text.tokens[i, 1:].astype("int64"))
        p = matmul_fp32(h, head.t()).log_softmax(-1)  # [s - 1, v]
        q = matmul_fp32(t, head.t()).log_softmax(-1)
        best = p.argmax(-1)
        rows.append(
            [
                float(-p.gather(1, targets[:, None]).double().mean()),
                float((best == targets).double().mean()),
                float((best == q.argmax(-1)).double().mean()),
                float((q.exp() * (q - p)).sum(-1).double().mean()),
            ]
        )
    return rows


if __name__ == "__main__":
    main()
