"""What must hold for every metric in minipuzzle/importance/metrics. A new file there is tested by
being there.
"""

import numpy as np
import pytest
import torch
from conftest import save, shaken, tiny

from minipuzzle.arch import Selection
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.data import pack
from minipuzzle.errors import UserError
from minipuzzle.importance import score
from minipuzzle.importance.metrics import find
from minipuzzle.importance.metrics.base import NO_TARGET
from minipuzzle.registry import METRICS
from minipuzzle.settings import ScoreSettings

VOCAB, LENGTH, SAMPLES = 61, 20, 5
ALL = pytest.mark.parametrize("name", METRICS.names())


def ends(logits, seed, n=40):
    """A parent's and a variant's end, and targets, of which every fifth is none."""
    generator = torch.Generator().manual_seed(seed)
    whole = torch.randn(n, VOCAB, generator=generator)
    changed = whole + 0.3 * torch.randn(n, VOCAB, generator=generator)
    targets = torch.randint(0, VOCAB, (n,), generator=generator)
    targets[::5] = NO_TARGET
    return (whole, changed) if logits else (whole[:, :16], changed[:, :16]), targets


def measured(metric, whole, changed, targets):
    known = metric.prepare(whole, targets)
    return metric.distance(known, changed.clone(), targets), metric.scale(whole, targets)


@ALL
def test_it_says_what_it_is(name):
    metric = find(name)
    assert 10 < len(METRICS.summaries()[name]) <= 100
    assert metric.source
    assert metric.unit


@ALL
def test_the_parent_itself_is_at_no_distance_and_another_is_at_one(name):
    metric = find(name)
    (whole, changed), targets = ends(metric.logits, 0)
    before = whole.clone()
    none, scale = measured(metric, whole, whole, targets)
    some, _ = measured(metric, whole, changed, targets)
    assert torch.equal(whole, before)
    assert (some.dtype, some.shape) == (torch.float64, ())
    assert none.item() == pytest.approx(0, abs=1e-6)
    assert some.item() > 1e-3
    assert scale > 0


@ALL
def test_tokens_add_up(name):
    metric = find(name)
    (whole, changed), targets = ends(metric.logits, 1)
    at_once = measured(metric, whole, changed, targets)
    parts = [
        measured(metric, *(t[part] for t in (whole, changed, targets)))
        for part in (slice(0, 13), slice(13, None))
    ]
    for one, first, second in zip(at_once, *parts, strict=True):
        assert float(first + second) == pytest.approx(float(one), rel=1e-6)


@ALL
def test_a_token_that_nothing_follows_has_no_target(name):
    """Whatever follows the last token of a sample is not read."""
    metric = find(name)
    (whole, changed), targets = ends(metric.logits, 2)
    some, scale = measured(metric, whole, changed, torch.full_like(targets, NO_TARGET))
    assert torch.isfinite(some)
    assert np.isfinite(scale)


@ALL
def test_streamed_is_masked(name, tmp_path):
    """Each block's removal and each narrowing, one block at a time, is what the masked model does
    at once.
    """
    metric, model = find(name), shaken(tiny("M-M*-", vocab=VOCAB))
    parent = Checkpoint.open(save(model, tmp_path / "parent"))
    random = np.random.default_rng(0)
    tokens = random.integers(0, VOCAB, SAMPLES * LENGTH).astype("uint32")
    blocks = pack(
        [tokens], block_length=LENGTH, vocab_size=VOCAB, seed=0, fingerprint="t", text_bytes=1
    )
    settings = ScoreSettings(samples=SAMPLES, block_samples=SAMPLES, batch=2, metric=name)
    scores = score(
        parent, blocks, settings, device=torch.device("cpu"), partial=tmp_path / "partial"
    )
    x = torch.from_numpy(blocks.tokens.astype(np.int64))
    targets = torch.cat((x[:, 1:], torch.full_like(x[:, :1], NO_TARGET)), 1).flatten()

    def end(selection):
        with torch.no_grad(), model.masked(selection):
            return (model(x) if metric.logits else model.hidden_states(x)).flatten(0, 1).float()

    everything = [{} for _ in model.blocks]
    whole = end(Selection(blocks=tuple(everything)))

    def error(i, kept):
        changed = end(Selection(blocks=tuple(everything[:i] + [kept] + everything[i + 1 :])))
        distance, scale = measured(metric, whole, changed, targets)
        return distance.item() / scale

    for i, block in enumerate(model.architecture.blocks):
        assert scores.blocks[i] == pytest.approx(error(i, None), rel=1e-3, abs=1e-6)
        for width in block.widths:
            for size, found in zip(*scores.curves[i].get(width.axis, ((), ())), strict=True):
                kept = width.keep(block, scores.widths[width.score][i], int(size))
                assert found == pytest.approx(error(i, kept), rel=1e-3, abs=1e-6)


def test_an_unknown_name_is_refused_with_the_nearest():
    for refuse in (find, lambda name: ScoreSettings(metric=name)):
        with pytest.raises(UserError, match="no metric 'logit-ms'") as caught:
            refuse("logit-ms")
        assert "'logit-mse'" in caught.value.next
