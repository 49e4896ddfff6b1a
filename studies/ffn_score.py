"""FFN channels scored before or after the activation, by weights, or at random: the loss of the
embedded teacher with every FFN narrowed by each, before any training.  python studies/ffn_score.py
-> docs/results/ffn_score.md
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from minipuzzle import embedded
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.data import Tokenizer, load_blocks
from minipuzzle.importance import magnitude_scores, random_scores, score
from minipuzzle.metrics import measure
from minipuzzle.model import load_model
from minipuzzle.nas.select import select
from minipuzzle.scores import Scores
from minipuzzle.settings import ScoreSettings
from minipuzzle.space import Shape

WIDTHS = (768, 640, 512, 384)
LENGTH, SAMPLES = 256, 64


def main() -> None:
    """Measure and print the table."""
    path = embedded.teacher_path()
    parent = Checkpoint.open(path)
    model = load_model(parent).eval()
    tokenizer = Tokenizer.load(path)
    calibration = load_blocks(embedded.text_path("calibration"), tokenizer, block_length=LENGTH)
    validation = load_blocks(embedded.text_path("validation"), tokenizer, block_length=LENGTH).take(
        48
    )
    scores: dict[str, Scores] = {
        "magnitude": magnitude_scores(model),
        "random": random_scores(parent.architecture, 0),
    }
    for name, estimator in (("pre", "minitron-pre"), ("post", "minitron")):
        settings = ScoreSettings(
            samples=SAMPLES, block_samples=1, estimator=estimator, curves=False
        )
        with tempfile.TemporaryDirectory() as folder:
            scores[name] = score(
                parent, calibration, settings, device=torch.device("cpu"), partial=Path(folder)
            )
    whole = parent.architecture
    print(f"| FFN width of 896 | {' | '.join(scores)} |\n|---|{'---|' * len(scores)}")
    for width in WIDTHS:
        counts = {kind: whole.count(kind) for kind in whole.kinds}
        shape = Shape.of(counts, {"intermediate": width}, whole.hidden)
        losses = []
        for each in scores.values():
            with model.masked(select(whole, each, shape)):
                losses.append(measure(model, validation).loss)
        print(f"| {width} | {' | '.join(f'{loss:.4f}' for loss in losses)} |", flush=True)
    print(f"parent {measure(model, validation).loss:.4f}")


if __name__ == "__main__":
    main()
