"""Streamed scores against the long way: hooks and whole forwards of the model in memory."""

import numpy as np
import pytest
import torch
from helpers import Watched
from streamed_scores import CPU, distance, ends, run, samples, saved_parent, text, without

from minipuzzle.importance import score, work
from minipuzzle.importance.bits import measured_formats
from minipuzzle.importance.curves import narrowings
from minipuzzle.model import load_model
from minipuzzle.model.base import Context
from minipuzzle.model.prefetch import BlockReader
from minipuzzle.settings import ScoreSettings


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    return saved_parent(tmp_path_factory.mktemp("parent"))


@pytest.mark.parametrize("metric", ["mse", "logit-mse", "kl", "loss"])
@torch.no_grad()
def test_removal_equals_masking_each_block(parent, tmp_path, metric):
    scores = run(parent, tmp_path, metric=metric, curves=False)
    model, x = load_model(parent).eval(), samples(3)
    full = ends(model, without(model), x)
    want = [distance(metric, full, ends(model, without(model, i), x), x) for i in range(8)]
    assert scores.blocks == pytest.approx(want, rel=1e-3, abs=1e-6)
    assert not scores.curves


@pytest.mark.parametrize("metric", ["mse", "kl"])
@torch.no_grad()
def test_curves_equal_masking_the_narrow_block(parent, tmp_path, metric):
    scores = run(parent, tmp_path, metric=metric)
    model, x = load_model(parent).eval(), samples(3)
    full = ends(model, without(model), x)
    assert sorted(scores.curves) == list(range(8))
    for i, block in enumerate(parent.architecture.blocks):
        ((axis, (sizes, errors)),) = scores.curves[i].items()
        assert [(axis, n) for n in sizes] == narrowings(block)
        for size, error in zip(sizes, errors, strict=True):
            width = next(width for width in block.searched if width.axis == axis)
            chosen = width.keep(block, scores.widths[width.score][i], int(size))
            narrow = without(model)
            narrow[i] = chosen
            assert error == pytest.approx(
                distance(metric, full, ends(model, narrow, x), x), rel=1e-3, abs=1e-6
            )


@pytest.mark.parametrize("estimator", ["minitron", "minitron-pre"])
@torch.no_grad()
def test_widths_equal_the_formulas(parent, tmp_path, estimator):
    scores = run(parent, tmp_path, estimator=estimator)
    model, x = load_model(parent).eval(), samples(6)
    hidden = 0
    for i, block in enumerate(model.blocks):
        stream = model.run_blocks(model.embed(x), None, 0, i)
        inputs = block.norm(stream)
        b = parent.architecture.blocks[i]
        hidden = hidden + inputs.abs().mean(1).square().sum(0).sqrt()
        if b.kind == "mlp":
            activation = block.up_proj(inputs)
            activation = activation if estimator == "minitron-pre" else torch.relu(activation) ** 2
            assert np.allclose(
                scores.widths["intermediate"][i],
                activation.abs().mean(1).square().sum(0).sqrt(),
                rtol=1e-4,
            )
        elif b.kind == "mamba":
            rows = block.in_proj.weight[b.inner : 2 * b.inner]
            want = (
                (inputs @ rows.t()).abs().mean(1).square().sum(0).sqrt().view(b.heads, b.head_dim)
            )
            assert np.allclose(scores.widths["head_channels"][i], want, rtol=1e-4)
        else:
            seen = []
            handle = block.o_proj.register_forward_pre_hook(
                lambda m, inputs, seen=seen: seen.append(inputs[0])
            )
            block.branch(stream, Context())
            handle.remove()
            norms = seen[0].unflatten(-1, (b.q_heads, -1)).norm(dim=-1)
            assert np.allclose(
                scores.widths["q_heads"][i], norms.mean(1).square().sum(0).sqrt(), rtol=1e-4
            )
    assert np.allclose(scores.hidden, hidden, rtol=1e-4)


@torch.no_grad()
def test_iterative_equals_brute_force(parent, tmp_path):
    scores = run(parent, tmp_path, iterative=4)
    model, x = load_model(parent).eval(), samples(3)
    full = ends(model, without(model), x)
    order = []
    for _ in range(4):
        damage = {
            i: distance("mse", full, ends(model, without(model, i, *order), x), x)
            for i in range(8)
            if i not in order
        }
        order.append(min(damage, key=damage.get))
    assert scores.meta["removal_order"] == order
    assert (scores.blocks == run(parent, tmp_path / "single").blocks).all()
    assert "removal_order" not in run(parent, tmp_path / "single").meta


def test_more_samples_for_blocks_than_for_widths(parent, tmp_path):
    wide = run(parent, tmp_path / "a", samples=2, block_samples=6, curves=False)
    assert wide.blocks == pytest.approx(
        run(parent, tmp_path / "b", block_samples=6, curves=False).blocks, rel=1e-5
    )
    assert wide.meta["width_samples"] == 2


@pytest.mark.parametrize(
    "options",
    [{}, {"curves": False}, {"iterative": 3}, {"samples": 2, "block_samples": 5}, {"bits": "fp8"}],
)
def test_work_is_what_is_advanced_and_each_weight_is_read_once(
    parent, tmp_path, options, monkeypatch
):
    read = []
    usual = BlockReader._read
    monkeypatch.setattr(
        BlockReader,
        "_read",
        lambda self, index, tensors: (read.append(index), usual(self, index, tensors))[1],
    )
    settings = ScoreSettings(**{"samples": 6, "block_samples": 3, "batch": 2, **options})
    rows = []
    score(parent, text(), settings, device=CPU, partial=tmp_path, progress=Watched(rows.append))
    formats = measured_formats(parent, settings)
    assert sum(rows) == work(settings, parent.architecture, 8, formats)
    if not settings.iterative:
        assert read == list(range(8))
    if options == {"curves": False}:
        assert sum(rows) == 6 * 8 + 3 * 8 * 7 // 2
