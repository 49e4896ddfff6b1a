"""Scoring with a memory: sums are saved as batches finish, and a run that dies goes on after the last saved one.

Sums are float64 and are added in batch order, so a resumed result equals an uninterrupted one bit for bit.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import save

from minipuzzle.artifacts import Scores, fingerprint, write_atomic
from minipuzzle.data import TokenBlocks
from minipuzzle.importance.blocks import removal_errors
from minipuzzle.importance.widths import WidthScores, add_batch
from minipuzzle.model import HybridLM
from minipuzzle.recipe import ScoreSettings

SAVE_EVERY_SECONDS = 5.0


def score(
    model: HybridLM, blocks: TokenBlocks, settings: ScoreSettings, *, identity: str, partial: Path,
    advance: Callable[[int], None] = lambda batches: None,
) -> Scores:  # fmt: skip
    """Score every block, FFN channel and Mamba head channel of ``model``; ``advance`` is told of batches done.

    ``partial`` is where unfinished sums live. Samples are blocks of text chosen by seed; fewer than asked for are
    used when the text has fewer, and the result's ``meta`` says how many.
    """
    width_samples, block_samples = min(settings.samples, len(blocks)), min(settings.block_samples, len(blocks))
    identity = fingerprint(identity, asdict(settings), blocks.fingerprint)
    widths = WidthScores(model, settings.ffn)
    removals = np.zeros(len(model.blocks))
    done = _load(partial, identity, widths, removals)
    batches = [("width", n) for n in _cut(width_samples, settings.batch)]
    batches += [("block", n) for n in _cut(block_samples, settings.batch)]
    device = next(model.parameters()).device
    chosen = blocks.take(max(width_samples, block_samples), seed=settings.seed).tokens
    advance(done)
    saved = time.monotonic()
    for number, (kind, part) in enumerate(batches[done:], start=done + 1):
        tokens = torch.from_numpy(chosen[part].astype(np.int64)).to(device)
        if kind == "width":
            with widths:
                add_batch(widths, tokens)
        else:
            removals += removal_errors(model, tokens) * len(tokens)
        advance(1)
        if time.monotonic() - saved > SAVE_EVERY_SECONDS and number < len(batches):
            _save(partial, identity, number, widths, removals)
            saved = time.monotonic()
    intermediate, head_channels = widths.scores()
    meta = {
        **asdict(settings), "estimator": "minipuzzle", "width_samples": width_samples,
        "block_samples": block_samples, "block_length": blocks.block_length, "data": blocks.fingerprint,
    }  # fmt: skip
    return Scores(
        blocks=removals / block_samples, intermediate=intermediate, head_channels=head_channels, meta=meta
    )


def work(settings: ScoreSettings, available: int) -> int:
    """How many batches ``score`` will run over a text of ``available`` blocks."""
    parts = (min(settings.samples, available), min(settings.block_samples, available))
    return sum(len(_cut(samples, settings.batch)) for samples in parts)


def _cut(samples: int, batch: int) -> list[slice]:
    return [slice(start, min(start + batch, samples)) for start in range(0, samples, batch)]


def _save(path: Path, identity: str, done: int, widths: WidthScores, removals: np.ndarray) -> None:
    tensors = {"removals": removals, **{f"squares.{i}": s for i, s in widths.squares.items()}}
    write_atomic(path, save(tensors, metadata={"about": json.dumps({"identity": identity, "done": done})}))


def _load(path: Path, identity: str, widths: WidthScores, removals: np.ndarray) -> int:
    if not path.exists():
        return 0
    with safe_open(path, framework="np") as file:
        about = json.loads(file.metadata()["about"])
        if about["identity"] != identity:
            return 0  # sums of other settings: this run's inputs changed, so it starts over
        removals += file.get_tensor("removals")
        for i in widths.squares:
            widths.squares[i] += file.get_tensor(f"squares.{i}")
    return int(about["done"])
