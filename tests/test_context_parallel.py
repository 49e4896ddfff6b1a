"""Sequences divided among processes (gloo, on the CPU) give the losses and gradients of whole
ones.
"""

import pytest
import torch
from context_world import same_steps, steps
from launched import together
from safetensors.torch import load_file, save_file

from minipuzzle.errors import UserError
from minipuzzle.model.context_parallel import ContextParallel
from minipuzzle.ranks import Ranks, alone, ranks
from minipuzzle.settings import Training
from minipuzzle.training.update import check_batch

CPU, LENGTH = torch.device("cpu"), 48
CASES = {
    "joined": {},
    "documents": {"isolate_documents": True},
    "recomputed": {"isolate_documents": True, "activation_checkpointing": "on", "micro_batch": 1},
    "answers, taught": {"spans": True},
    "answers": {"spans": True, "taught": False, "count": 1},
    "next token": {"taught": False, "count": 1},
}


def computed(group, parts, name):
    """Two steps: the second is of weights that the first changed."""
    return steps(group, LENGTH, parts, **{"count": 2, **CASES[name]})


def divided(folder, parts, names):
    with ranks(CPU) as group:
        for name in names:
            found = computed(group, parts, name)
            if group.rank == 0:
                save_file(found, folder / f"{name}.safetensors")


@pytest.mark.parametrize(
    ("processes", "parts", "names"),
    [(2, 2, list(CASES)), (3, 3, ["joined"]), (4, 2, ["recomputed"])],
)
def test_divided_sequences_equal_whole_ones(tmp_path, processes, parts, names):
    """A block of each kind, documents that end at borders and cross them, steps of AdamW."""
    together(processes, divided, tmp_path, parts, names)
    for name in names:
        one = computed(alone(CPU), 1, name)
        same_steps(name, one, load_file(tmp_path / f"{name}.safetensors"))


def test_what_cannot_be_divided_is_refused():
    group = Ranks(rank=0, world=4, device=CPU)
    check_batch(Training(batch=2, context_parallel=2), 64, group)
    for batch, parts, length, words in (
        (4, 3, 63, "groups that share a sequence"),
        (3, 2, 64, "cannot be shared equally"),
        (2, 2, 63, "A sequence cannot be divided"),
    ):
        with pytest.raises(UserError, match=words):
            check_batch(Training(batch=batch, context_parallel=parts), length, group)


def test_a_part_shorter_than_a_convolution_is_refused():
    with pytest.raises(UserError, match="shorter than a convolution"):
        ContextParallel(rank=1, world=2).with_tail(torch.zeros(1, 2, 5), 3)
