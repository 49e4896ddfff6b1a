"""Each axis of experts, and Mamba's state, cut alone: transformers' model of the parent, masked by
hand, says what transformers' model of our cut file says, and our masked parent too.
"""

import types

import pytest
import torch
from axis_cuts import kept_of
from family_models import FORMS, theirs_of, unclamped
from transformers import AutoModelForCausalLM

from minipuzzle.checkpoint import Checkpoint
from minipuzzle.model import load_model
from minipuzzle.surgery import cut

SIZES = {"experts": 6, "expert_width": 16, "shared_width": 24, "latent": 8, "top_k": 2, "state": 4}
PARENTS = {
    "nemotron_h": ("latent experts in groups, dense too", {"num_experts_per_tok": 3}),
    "granitemoehybrid": ("experts", {}),
    "qwen3_moe": ("plain", {}),
    "olmoe": ("plain", {}),
}
AXES = {
    "nemotron_h": list(SIZES),
    "granitemoehybrid": ["experts", "expert_width", "shared_width", "top_k", "state"],
    "qwen3_moe": ["experts", "expert_width", "top_k"],
    "olmoe": ["experts", "expert_width", "top_k"],
}
ROUTERS = ("NemotronHTopkRouter", "Qwen3MoeTopKRouter", "OlmoeTopKRouter")
GRANITE = "GraniteMoeHybridTopKRouter"


@pytest.fixture(scope="module", params=PARENTS)
def parent(request, tmp_path_factory):
    """A checkpoint with large weights where something is cut, so that the cut is seen."""
    form, fields = PARENTS[request.param]
    theirs = theirs_of(request.param, {**FORMS[request.param][form], **fields})
    folder = tmp_path_factory.mktemp("parent")
    with torch.no_grad():
        for name, value in theirs.named_parameters():
            if name.endswith(("gate.weight", "router.weight")):
                value.mul_(8)
            if ("experts." in name and "shared" not in name) or ".in_proj." in name:
                value.mul_(3)
            if "conv1d" in name:
                value.mul_(2)
    theirs.save_pretrained(folder)
    return Checkpoint.open(folder)


def mask(theirs, checkpoint, selection, axis):
    """Transformers' parent as if what goes were not there, by its own tensors and modules."""
    state = {**dict(theirs.named_parameters()), **dict(theirs.named_buffers())}
    names = checkpoint.family.names(checkpoint.architecture)
    routers = iter([m for m in theirs.modules() if type(m).__name__ in (*ROUTERS, GRANITE)])

    def tensor(index, name):
        return next(state[n] for n in names[f"blocks.{index}.{name}"] if n in state)

    for index, block in enumerate(checkpoint.architecture.blocks):
        router = next(routers) if "experts" in block.sizes else None
        if axis not in block.sizes:
            continue
        ((key, kept),) = selection.blocks[index].items()
        gone = sorted(set(range(block.whole_size(key))) - set(kept))
        if axis == "experts" and block.buffers:
            tensor(index, "router.correction")[gone] = -torch.inf
        elif axis == "experts":
            router.gone = gone
            router.forward = types.MethodType(routed, router)
        elif axis == "top_k":
            router.top_k = SIZES[axis]
        elif axis == "expert_width":
            for i in gone:
                tensor(index, "experts.down_proj")[
                    i // block.expert_width, :, i % block.expert_width
                ] = 0
        elif axis == "shared_width":
            tensor(index, "shared_down_proj.weight")[:, gone] = 0
        elif axis == "state":  # C's rows of the convolution: silu(0) is 0
            first = block.inner + block.groups * block.state
            for name in ("conv.weight", "conv.bias"):
                tensor(index, name)[[first + i for i in gone]] = 0
        else:
            tensor(index, "latent_in_proj.weight")[gone] = 0
            tensor(index, "latent_in_proj.bias")[gone] = 0
            tensor(index, "latent_out_proj.weight")[:, gone] = 0


def routed(self, x):
    """A softmax router of transformers whose logits of experts that are ``gone`` are -inf."""
    logits = torch.nn.functional.linear(x.reshape(-1, x.shape[-1]), self.weight)
    logits[:, self.gone] = -torch.inf
    if type(self).__name__ == GRANITE:
        best, chosen = logits.topk(self.top_k, -1)
        return logits, best.softmax(-1), chosen
    gates, chosen = logits.softmax(-1).topk(self.top_k, -1)
    return logits, gates / gates.sum(-1, keepdim=True) if self.norm_topk_prob else gates, chosen


@pytest.mark.parametrize("axis", SIZES)
@torch.no_grad()
def test_masked_is_cut(parent, axis, tmp_path):
    family = parent.config["model_type"]
    if axis not in AXES[family]:
        assert not any(axis in block.sizes for block in parent.architecture.blocks)
        return
    selection = kept_of(parent.architecture, axis, SIZES[axis])
    tokens = torch.randint(1, 118, (2, 40), generator=torch.Generator().manual_seed(1))
    student = cut(parent, selection, tmp_path / "student")
    assert student.config["model_type"] == family
    loaded = unclamped(AutoModelForCausalLM.from_pretrained(student.path).eval())
    got = loaded(tokens, use_cache=False).logits
    model = load_model(parent).eval()
    whole = model(tokens)
    with model.masked(selection):
        ours = model(tokens)
    by_hand = unclamped(AutoModelForCausalLM.from_pretrained(parent.path).eval())
    mask(by_hand, parent, selection, axis)
    want = by_hand(tokens, use_cache=False).logits
    largest = want.abs().max()
    assert (got - want).abs().max() < 1e-5 * largest
    assert (ours - want).abs().max() < 1e-5 * largest
    assert (whole - want).abs().max() > 0.01 * largest
