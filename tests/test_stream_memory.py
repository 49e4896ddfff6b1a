"""What a streamed scoring holds at once, and what it refuses to read."""

from itertools import pairwise

import pytest
import torch
from conftest import save, shaken, tiny
from streamed_scores import CPU, LENGTH, VOCAB, run, saved_parent

from minipuzzle import machine
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.errors import UserError
from minipuzzle.importance.curves import narrowings
from minipuzzle.importance.peak import block_bytes, plan_peak
from minipuzzle.model.footprint import forward_bytes
from minipuzzle.model.prefetch import BlockReader
from minipuzzle.ranks import alone
from minipuzzle.settings import ScoreSettings


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    return saved_parent(tmp_path_factory.mktemp("parent"))


def test_peak_has_the_terms_a_pencil_gives(parent):
    settings = ScoreSettings(samples=6, block_samples=3, batch=2)
    peak = plan_peak(
        parent, settings, samples=6, shared=3, length=LENGTH, group=alone(CPU), fast=False
    )
    blocks = parent.architecture.blocks
    count = sum(1 + len(narrowings(b)) for b in blocks)
    row = LENGTH * 32 * 4
    assert peak.needs[0].peak["activations"] <= (6 + 3 * count) * row
    assert peak.needs[0].peak.terms.get("two blocks", 0) <= max(
        block_bytes(a, torch.float32) + block_bytes(b, torch.float32) for a, b in pairwise(blocks)
    )
    assert block_bytes(blocks[1], torch.float32) == 4 * (32 + 2 * 32 * 64)
    assert "activations" in str(peak)
    assert "GiB" in str(peak)


def test_working_set_is_what_the_forward_allocates():
    """An FFN of f channels in FP32 holds norm(h), relu and its square at once; the meta run finds
    just that.
    """
    block = tiny().blocks[1]
    tokens, d, f = 3 * 20, 32, 64
    got = forward_bytes(block, batch=3, length=20, dtype=torch.float32, fast=False)
    assert got == 4 * tokens * (d + 2 * f)
    mamba = tiny().blocks[0]
    assert forward_bytes(mamba, batch=3, length=20, dtype=torch.bfloat16, fast=True) > 0
    twice = forward_bytes(mamba, batch=6, length=20, dtype=torch.float32, fast=False)
    once = forward_bytes(mamba, batch=3, length=20, dtype=torch.float32, fast=False)
    assert twice == pytest.approx(2 * once, rel=0.01)


def test_what_does_not_fit_is_refused_before_it_is_read(parent, tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "available_bytes", lambda: -(1 << 40))
    monkeypatch.setattr(BlockReader, "blocks", lambda *a: pytest.fail("read"))
    with pytest.raises(UserError, match="does not fit") as error:
        run(parent, tmp_path)
    assert "data.length" in error.value.next
    assert "activations" in error.value.got
    monkeypatch.undo()
    assert machine.available_bytes() > 1 << 20
    peak = plan_peak(
        parent, ScoreSettings(), samples=6, shared=3, length=LENGTH, group=alone(CPU), fast=False
    )
    peak.check()


def test_nan_weights_are_refused(tmp_path):
    model = shaken(tiny(vocab=VOCAB))
    with torch.no_grad():
        model.blocks[4].up_proj.weight[3, 3] = float("nan")
    broken = Checkpoint.open(save(model, tmp_path / "broken", tokenizer=False))
    with pytest.raises(UserError, match="NaN"):
        run(broken, tmp_path)


def test_bf16_checkpoint_reads_the_same_by_pieces(parent, tmp_path):
    model = shaken(tiny(vocab=VOCAB)).to(torch.bfloat16)
    stored = Checkpoint.open(save(model, tmp_path / "bf16", tokenizer=False))
    reader = BlockReader(stored, device=CPU, dtype=torch.float32)
    for index, module in reader.blocks(range(7)):
        for name, value in module.named_parameters():
            assert (value == stored.tensor(f"blocks.{index}.{name}").float()).all()
    assert all(p.numel() == 0 for p in module.parameters())
