"""Training of the students that studies/search_quality.py finds, and its texts."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from minipuzzle import embedded
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.data import TokenBlocks, Tokenizer, load_blocks
from minipuzzle.metrics import measure
from minipuzzle.model import HybridLM, load_model
from minipuzzle.runs.race import Leg, race
from minipuzzle.settings import Training
from minipuzzle.training import distillation, mixed_precision, train

LENGTH = 512


CHOICE_BLOCKS = 48


def short_runs(
    students: list[Checkpoint], teacher: HybridLM, options: dict[str, Any], choice: TokenBlocks
) -> tuple[Checkpoint, list[float]]:
    """(the student with the lowest loss after its short run, the losses): the race of minipuzzle
    distill.
    """
    cuts = {str(n): student for n, student in enumerate(students)}
    models: dict[str, HybridLM] = {}

    def run(name: str, leg: Leg) -> float:
        if not leg.before:
            models[name] = load_model(cuts[name], device=torch.device(options["device"])).eval()
        batch = max(1, options["batch"] // leg.smaller)
        return trained(models[name], teacher, {**options, "batch": batch}, leg.tokens, 0, choice)

    found = race(list(cuts), options["short_tokens"], run)
    return cuts[found.winner], list(found.short.values())


def trained(
    model: HybridLM,
    teacher: HybridLM,
    options: dict[str, Any],
    tokens: int,
    seed: int,
    text: TokenBlocks,
) -> float:
    """The loss on a text of a student after it was distilled with a seed."""
    device = torch.device(options["device"])
    blocks = texts(options["text"], Path(options["cache"]), "train")
    settings = Training(
        tokens=tokens,
        learning_rate=options["rate"],
        batch=options["batch"],
        seed=seed,
        final_ratio=0.02,
        save_every=1e9,
    )
    with tempfile.TemporaryDirectory() as folder:
        train(model, distillation(teacher), blocks, settings, Path(folder), identity=str(seed))
    with mixed_precision(device):
        return measure(model, text, batch=32).loss


def texts(folder: str, cache: Path, which: str) -> TokenBlocks:
    """The training or validation text, tokenised once."""
    tokenizer = Tokenizer.load(embedded.teacher_path())
    path = Path(folder) if which == "train" else Path(folder) / "val"
    return load_blocks(path, tokenizer, block_length=LENGTH, cache=cache)
