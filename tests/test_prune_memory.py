"""What a cut says that it takes, before the parent is read."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import save, shaken, tiny

from minipuzzle import machine, surgery
from minipuzzle.arch import Selection
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.errors import UserError
from minipuzzle.memory.pruning import PruneLoad, prune_on_cpu, prune_on_gpu
from minipuzzle.memory.scoring import CUDA_LIBRARIES
from minipuzzle.model import load_model
from minipuzzle.runs.prune_memory import check_prune_memory, load_of

LOAD = PruneLoad(part=100, tensor=10, blocks=60, working=20, stream=1, heads=5, piece=2)
CPU = torch.device("cpu")
PROBE = (2, 64)


def test_the_peak_is_the_largest_of_what_a_pencil_adds_up():
    here = prune_on_cpu(LOAD, 1000)
    # malloc keeps twice the largest blocks that are freed
    assert here.total == 1000 + 100 + 3 * 10 + 4 * 2 * 10
    blocks = prune_on_cpu(replace(LOAD, blocks=200), 1000)
    assert blocks.total == 1000 + 200 + 20 + 4 * 1 + 6 * 2 + 2 * (20 + 2)
    heads = prune_on_cpu(replace(LOAD, heads=500), 1000)
    assert heads.total == 1000 + 500 + 4 * 1 + 6 * 2 + 2 * (500 + 2)
    gpu, cpu = prune_on_gpu(LOAD, 1000)
    assert gpu.total == 60 + 20 + 4 * 1 + 6 * 2
    assert cpu.total == 1000 + CUDA_LIBRARIES + 100 + 3 * 10 + 4 * 2 * 10


@pytest.fixture
def cut_in_half(tmp_path):
    """A parent and a selection of its first five blocks."""
    parent = Checkpoint.open(save(shaken(tiny()), tmp_path / "parent"))
    kept = [{} if i < 5 else None for i in range(len(parent.architecture.blocks))]
    return parent, Selection(blocks=tuple(kept))


def test_the_load_is_what_the_check_holds(cut_in_half, tmp_path, monkeypatch):
    parent, selection = cut_in_half
    load = load_of(parent, selection, PROBE)
    assert load.part == parent.bytes
    assert load.tensor == max(t.nbytes for t in load_model(parent).parameters())
    held, read = [], surgery.BlockReader.blocks

    def watched(self, indices):
        sizes = []
        for index, module in read(self, indices):
            sizes.append(sum(p.nbytes for p in module.parameters()))
            yield index, module
        held.append(max(a + b for a, b in pairwise(sizes)))

    monkeypatch.setattr(surgery.BlockReader, "blocks", watched)
    saved = surgery.cut(parent, selection, tmp_path / "cut")
    surgery.verify_logits(parent, saved, selection, np.zeros(PROBE, dtype=np.int64), CPU)
    assert load.blocks == sum(held)


def test_what_does_not_fit_is_refused_before_it_is_read(cut_in_half, monkeypatch, said):
    parent, selection = cut_in_half
    check_prune_memory(parent, [selection], PROBE, CPU)
    assert any("prune takes at most, of CPU memory" in line for line in said)
    monkeypatch.setattr(machine, "available_bytes", lambda: -(1 << 40))
    monkeypatch.setattr(Checkpoint, "tensor", lambda *_: pytest.fail("read"))
    with pytest.raises(UserError, match="Cutting does not fit into the CPU's memory") as error:
        check_prune_memory(parent, [selection], PROBE, CPU)
    assert "I/O buffers" in error.value.got
