"""Each axis of gated DeltaNet cut alone: transformers' model of the parent, masked by hand, says
what transformers' model of our cut file says, and our masked parent too.

Zeroed channels leave the size that they had in the norm over values and in the scale of queries: in
both places a factor and the norm's epsilon make up for it, exactly.
"""

import numpy as np
import pytest
import torch
from axis_cuts import kept_of
from family_models import FORMS, theirs_of
from transformers import AutoModelForCausalLM

from minipuzzle import families
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.errors import UserError
from minipuzzle.importance import random_scores
from minipuzzle.kinds import DeltaNet
from minipuzzle.model import load_model
from minipuzzle.nas.choices import make_choices
from minipuzzle.settings import SearchSettings
from minipuzzle.space import bounds, levels
from minipuzzle.surgery import cut

SIZES = {"key_groups": 3, "group_heads": 1, "key_dim": 4, "value_dim": 7}
FAMILIES = ["olmo_hybrid", "qwen3_next"]


@pytest.fixture(scope="module", params=FAMILIES)
def parent(request, tmp_path_factory):
    """A checkpoint with large weights where something is cut, so that the cut is seen."""
    theirs = theirs_of(request.param, next(iter(FORMS[request.param].values())))
    folder = tmp_path_factory.mktemp("parent")
    with torch.no_grad():
        for name, value in theirs.named_parameters():
            if "conv1d" in name:
                value.mul_(3)
    theirs.save_pretrained(folder)
    return Checkpoint.open(folder)


def mask(theirs, checkpoint, selection, axis):
    """Transformers' parent as if what goes were not there, by its own tensors and modules."""
    state, names = dict(theirs.named_parameters()), checkpoint.family.names(checkpoint.architecture)
    norms = iter([m for m in theirs.modules() if type(m).__name__.endswith("RMSNormGated")])
    for index, block in enumerate(checkpoint.architecture.blocks):
        if not isinstance(block, DeltaNet):
            continue
        (conv,) = (state[n] for n in names[f"blocks.{index}.conv.weight"] if n in state)
        (out,) = (state[n] for n in names[f"blocks.{index}.out_proj.weight"] if n in state)
        norm, ((key, kept),) = next(norms), selection.blocks[index].items()
        gone = sorted(set(range(block.whole_size(key))) - set(kept))
        if axis in ("key_groups", "group_heads"):
            heads = out.unflatten(1, (block.whole_size(key), -1))
            heads[:, gone] = 0
            continue
        share = SIZES[axis] / block.sizes[axis]
        norm.variance_epsilon *= share
        if axis == "value_dim":
            conv[2 * block.keys :].unflatten(0, (block.heads, -1))[:, gone] = 0
            norm.weight.mul_(share**0.5)
        else:
            conv[: 2 * block.keys].unflatten(0, (2, -1))[:, gone] = 0


@pytest.mark.parametrize("axis", SIZES)
@torch.no_grad()
def test_masked_is_cut(parent, axis, tmp_path):
    selection = kept_of(parent.architecture, axis, SIZES[axis])
    tokens = torch.randint(1, 118, (2, 40), generator=torch.Generator().manual_seed(1))
    student = cut(parent, selection, tmp_path / "student")
    assert student.config["model_type"] == parent.config["model_type"]
    loaded = AutoModelForCausalLM.from_pretrained(student.path).eval()
    got = loaded(tokens, use_cache=False).logits
    model = load_model(parent).eval()
    whole = model(tokens)
    with model.masked(selection):
        ours = model(tokens)
    by_hand = AutoModelForCausalLM.from_pretrained(parent.path).eval()
    mask(by_hand, parent, selection, axis)
    want = by_hand(tokens, use_cache=False).logits
    largest = want.abs().max()
    assert (got - want).abs().max() < 2e-5 * largest
    assert (ours - want).abs().max() < 2e-5 * largest
    assert (whole - want).abs().max() > 0.01 * largest


def test_a_kind_that_has_to_stay_stays():
    """transformers refuses an OLMo Hybrid without attention: neither a grid nor a solver offers
    one, and none is written.
    """
    parent = families.find("olmo_hybrid").architecture(FORMS["olmo_hybrid"]["plain"])
    assert "one block of kind attention stays at least" in parent.rules.sentences()
    settings = SearchSettings(budget=("80%",), method="solver")
    last = levels(())[-1]
    assert last.blocks["attention"] == 0
    space = bounds(parent, last, settings)
    assert {kind: low for kind, (low, _) in space.counts.items()} == {
        "attention": 1,
        "delta_net": 1,
        "mlp": 1,
    }
    scores = random_scores(parent, seed=0)
    choices = make_choices(
        parent,
        scores,
        space,
        settings,
        lambda block: np.array([float(block.parameters)]),
        np.array([float(sum(block.parameters for block in parent.blocks))]),
        ("parameters",),
    )
    whole = [0] * len(parent.blocks)
    for kind in ("attention", "delta_net"):
        first, second = sorted(parent.indices(kind), key=scores.blocks.__getitem__)
        for gone, fits in (([first], True), ([second], False), ([first, second], False)):
            state = [None if i - i % 2 in gone else option for i, option in enumerate(whole)]
            assert choices.fits(tuple(state)) == fits
    gone = parent.indices("attention")
    kept = [i for i in range(len(parent.blocks)) if i - i % 2 not in gone]
    with pytest.raises(UserError, match="be without attention blocks"):
        parent.rules.check(parent.blocks, kept, [parent.blocks[i] for i in kept])
