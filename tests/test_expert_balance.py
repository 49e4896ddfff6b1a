"""What corrects the choice of experts moves towards those with fewer tokens, and is saved."""

import torch
from conftest import save, shaken, tiny
from safetensors.torch import load_file
from world import CPU, distil

from minipuzzle.ranks import alone
from minipuzzle.training.expert_load import expert_load

CORRECTION = "blocks.1.router.correction"


def test_experts_with_fewer_tokens_than_the_mean_are_moved_up():
    model = shaken(tiny("ME", vocab=61))
    correction = model.get_buffer(CORRECTION).zero_()
    with expert_load(model, alone(CPU)) as load:
        for given in ([4, 2, 1, 1], [5, 2, 1, 4]):  # of all steps so far
            load.counts[1].copy_(torch.tensor(given))
            load.balance(0.5)
    # the steps' own: 4, 2, 1, 1 (2 on the mean), then 1, 0, 0, 3 (1 on the mean)
    assert correction.tolist() == [-0.5, 0.5, 1.0, 0.0]


def test_a_balanced_training_goes_on_bit_for_bit(tmp_path):
    save(shaken(tiny("ME*", vocab=61), 0), tmp_path / "student", tokenizer=False)
    save(shaken(tiny("ME*-", vocab=61), 1), tmp_path / "teacher", tokenizer=False)
    distil(tmp_path, alone(CPU), "whole", balance=0.01)
    distil(tmp_path, alone(CPU), "broken", stop_after=3, balance=0.01)
    distil(tmp_path, alone(CPU), "broken", balance=0.01)
    distil(tmp_path, alone(CPU), "never")
    names = ("whole", "broken", "never")
    whole, broken, never = (load_file(tmp_path / f"{name}.safetensors") for name in names)
    assert all(torch.equal(whole[name], broken[name]) for name in whole)
    parent = shaken(tiny("ME*", vocab=61), 0).get_buffer(CORRECTION)
    assert torch.equal(never[CORRECTION], parent)
    assert (whole[CORRECTION] - parent).abs().max() >= 0.01
