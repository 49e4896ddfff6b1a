"""A state of a model on a GPU goes through pieces of pinned memory and comes back as it was."""

import pytest
import torch
from torch import nn

from minipuzzle.ranks import alone
from minipuzzle.training import shards
from minipuzzle.training.adamw import AdamW
from minipuzzle.training.checkpointing import States

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]
SHARED = {"lr": 1e-3, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}


def test_a_state_comes_back_bit_for_bit(tmp_path, monkeypatch):
    """In pieces that end within a tensor, while later steps change the weights."""
    monkeypatch.setattr(shards, "SHARD_BYTES", 3_000_000)
    monkeypatch.setattr(shards, "PIECE_BYTES", 100_000)
    device = torch.device("cuda")
    layers = nn.Sequential(*[nn.Linear(700, 300).to(device) for _ in range(3)])
    optimizer = AdamW([{"params": list(layers.parameters())}], **SHARED)

    def step():
        optimizer.zero_grad()
        sum(layer(torch.ones(4, 700, device=device)).square().sum() for layer in layers).backward()
        optimizer.step()

    step()
    states = States(tmp_path, "x", alone(device))
    states.save(layers, optimizer, {"tokens": 1, "updates": 1})
    want = [p.detach().clone() for p in layers.parameters()]
    step()
    states.wait()
    assert not torch.equal(layers[0].weight, want[0])
    again = AdamW([{"params": list(layers.parameters())}], **SHARED)
    assert States(tmp_path, "x", alone(device)).load(layers, again) == {"tokens": 1, "updates": 1}
    assert all(torch.equal(a, b) for a, b in zip(layers.parameters(), want, strict=True))
