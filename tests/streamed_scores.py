"""A tiny parent scored in a stream, and its distances the long way: whole forwards in memory."""

import os

import numpy as np
import pytest
import torch
from conftest import save, shaken, tiny

from minipuzzle.arch import Selection
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.data import pack
from minipuzzle.importance import score
from minipuzzle.settings import ScoreSettings

VOCAB, LENGTH = 61, 20
CPU = torch.device("cpu")


def text(count=8):
    tokens = torch.randint(0, VOCAB, (count, LENGTH), generator=torch.Generator().manual_seed(0))
    return pack(
        [tokens.numpy().astype("uint32").ravel()],
        block_length=LENGTH,
        vocab_size=VOCAB,
        seed=0,
        fingerprint="t",
        text_bytes=1,
    )


def saved_parent(folder):
    return Checkpoint.open(save(shaken(tiny("M-M*-M-*", vocab=VOCAB)), folder, tokenizer=False))


def run(parent, folder, **options):
    options = {"samples": 6, "block_samples": 3, "batch": 2, **options}
    return score(parent, text(), ScoreSettings(**options), device=CPU, partial=folder / "partial")


def gib(rows):
    """``ScoreSettings.activations`` that hold so many samples of that parent."""
    return (rows + 0.5) * LENGTH * 32 * 4 / 2**30


def score_in(path, folder):
    """Scores of the checkpoint at ``path`` into FOLDER/scores, or scores0, scores1 by rank."""
    scores = run(Checkpoint.open(path), folder, samples=7, batch=1)
    scores.save(folder / f"scores{os.environ.get('RANK', '')}")


def samples(count, of=6):
    return torch.from_numpy(text().take(of, seed=0).tokens[:count].astype(np.int64))


def ends(model, blocks, x):
    """(hidden states before the head, logits) of the model that keeps what ``blocks`` says."""
    with model.masked(Selection(blocks=tuple(blocks))):
        return model.hidden_states(x), model(x)


def without(model, *removed):
    return [None if j in removed else {} for j in range(len(model.blocks))]


def distance(metric, full, changed, x):
    (h, logits), (h2, logits2) = full, changed
    if metric == "mse":
        return (h - h2).square().mean().item()
    if metric == "logit-mse":
        return ((logits - logits2).square().sum() / logits.square().sum()).item()
    p, q = logits.log_softmax(-1), logits2.log_softmax(-1)
    if metric == "kl":
        return (p.exp() * (p - q)).sum(-1).mean().item()
    picked = [-t[:, :-1].gather(2, x[:, 1:, None]).mean().item() for t in (q, p)]
    return picked[0] - picked[1]


def same(whole, again, rel=0.0):
    assert again.blocks == pytest.approx(whole.blocks, rel=rel, abs=0)
    assert again.hidden == pytest.approx(whole.hidden, rel=rel, abs=0)
    assert set(again.widths) == set(whole.widths)
    for name, found in whole.widths.items():
        for i, want in found.items():
            assert np.allclose(again.widths[name][i], want, rtol=rel, atol=0)
    for i, axes in whole.curves.items():
        for axis, (sizes, errors) in axes.items():
            assert (again.curves[i][axis][0] == sizes).all()
            assert again.curves[i][axis][1] == pytest.approx(errors, rel=rel, abs=0)
