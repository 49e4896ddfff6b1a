"""Experts removed one by one while the model streams, what that takes, and what a scoring of
experts holds.
"""

import numpy as np
import pytest
import torch
from family_models import FORMS, theirs_of
from test_scoring_suite import error, near, scored, tokens_of

from minipuzzle.checkpoint import Checkpoint
from minipuzzle.importance import Collector, HiddenCollector, routed, work
from minipuzzle.importance.amount import one_by_one_sentence
from minipuzzle.importance.collect import footprint_hooks
from minipuzzle.importance.curves import narrowings, one_by_one, variants
from minipuzzle.importance.peak import plan_peak
from minipuzzle.kinds import Experts, FeedForward
from minipuzzle.model import load_model
from minipuzzle.model.base import Context
from minipuzzle.model.footprint import _Live, forward_bytes
from minipuzzle.ranks import alone
from minipuzzle.settings import ScoreSettings

CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=["experts", "latent experts in groups, dense too"])
def parent(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("parent")
    theirs_of("nemotron_h", FORMS["nemotron_h"][request.param]).save_pretrained(folder)
    return Checkpoint.open(folder)


@torch.no_grad()
def test_damage_of_an_expert_is_what_masking_it_does(parent, tmp_path):
    found = scored(parent, tmp_path, experts="damage", batch=3)
    plain = scored(parent, tmp_path / "other")
    model, arch = load_model(parent).eval(), parent.architecture
    full = model(tokens_of(3))
    checked = 0
    for i, block in enumerate(arch.blocks):
        if "experts" not in block.score_shapes:
            continue
        want = []
        for j in range(block.experts):
            blocks = [{} for _ in arch.blocks]
            blocks[i] = {"experts": tuple(e for e in range(block.experts) if e != j)}
            with model.blocks[i].masked(blocks[i]):
                want.append(near(error(full, model(tokens_of(3)))))
        assert found.widths["experts"][i].tolist() == want
        assert max(found.widths["experts"][i]) > 0
        # their curve needs a ranking before the pass ends
        assert "experts" not in found.curves[i]
        assert set(plain.curves[i]) - {"experts"} == set(found.curves[i])
        checked += 1
    assert checked
    assert np.allclose(found.blocks, plain.blocks, rtol=1e-4)


def test_what_it_takes_is_counted_first(parent):
    arch = parent.architecture
    plain, damage = (ScoreSettings(curves=False, experts=name) for name in ("reap", "damage"))
    counts = [len(variants(arch, i, False, "damage")) for i in range(len(arch.blocks))]
    experts = [b.experts if isinstance(b, Experts) else 0 for b in arch.blocks]
    assert counts == [1 + n for n in experts]
    each = plain.block_samples
    more = sum(n * (len(counts) - i) * each for i, n in enumerate(experts))
    assert work(damage, arch, 10**6) - work(plain, arch, 10**6) == more
    times = 1 + more / work(plain, arch, 10**6)
    assert f"one by one: {times:.1f} times the" in one_by_one_sentence(damage, arch, 10**6)
    assert one_by_one_sentence(plain, arch, 10**6) == ""
    need = {"samples": 4, "shared": 2, "length": 32, "group": alone(CPU), "fast": False}
    peaks = [
        plan_peak(parent, s, **need).needs[0].peak.terms["activations"] for s in (plain, damage)
    ]
    row = 32 * arch.hidden * 4
    assert peaks[1] - peaks[0] == sum(experts) * 2 * row


def test_experts_that_none_can_spare_are_not_removed():
    full = Experts(hidden=8, experts=4, top_k=4, expert_width=8)
    assert one_by_one(full) is None
    assert one_by_one(Experts(hidden=8, experts=5, top_k=4, expert_width=8)) is not None
    assert one_by_one(FeedForward(hidden=8, intermediate=8)) is None
    assert "experts" not in dict(narrowings(full))
    few = narrowings(Experts(hidden=8, experts=8, top_k=5, expert_width=8))
    assert [size for axis, size in few if axis == "experts"] == [6]


@torch.no_grad()
def test_a_scoring_of_experts_holds_what_was_planned(parent, monkeypatch):
    """PyTorch's tensors of a pass on real ones, under the collectors, within a tenth. Pieces are
    as small beside the rows as those of a large model.
    """
    monkeypatch.setattr(routed, "ROWS", 64)
    settings, model = ScoreSettings(samples=4, batch=4, curves=False), load_model(parent).eval()
    for block, module in zip(parent.architecture.blocks, model.blocks, strict=True):
        if not block.stacks:
            continue
        h = torch.randn(4, 512, block.hidden)
        with (
            Collector(block, module, settings.estimator),
            HiddenCollector(block, module),
            _Live([h, *module.parameters(), *module.buffers()]) as live,
        ):
            module.branch(h, Context())
        planned = forward_bytes(
            block,
            batch=4,
            length=512,
            dtype=torch.float32,
            fast=False,
            watch=footprint_hooks(block, settings.estimator),
        )
        assert live.peak <= 1.1 * planned
        assert planned <= 1.1 * live.peak
