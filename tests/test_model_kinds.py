"""A kind that only this file knows runs: forward, masks, caches, footprint, fresh weights, FP8,
adapters and weight decay ask its two classes, and what these do not declare raises by name.
"""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from conftest import shaken, tiny
from torch import Tensor, nn

from minipuzzle.adapters.plan import make_plan
from minipuzzle.arch import Architecture, Selection
from minipuzzle.generation import generate
from minipuzzle.kinds import KINDS, Block, FeedForward, Width, weight
from minipuzzle.kinds.axes import Rows
from minipuzzle.kinds.base import NORM
from minipuzzle.model import HybridLM, init_model, set_precision
from minipuzzle.model.base import MODULES, Context, ResidualBlock, make_block, new_slot
from minipuzzle.model.cache import Room, Slot
from minipuzzle.model.footprint import forward_bytes
from minipuzzle.settings import Training
from minipuzzle.training.optimizers import make_optimizer


@dataclass(frozen=True, kw_only=True)
class Fading(Block):
    """out(y), y_t = r y_(t-1) + into(x)_t, r a number for each channel."""

    kind: ClassVar[str] = "fading"
    letter: ClassVar[str] = "F"
    label: ClassVar[str] = "fading"
    output: ClassVar[str] = "out"
    estimator: ClassVar[str] = "flap"
    widths: ClassVar[tuple[Width, ...]] = (
        Width(axis="channels", score="channels", of=("channels",), label="channels", shares=(0.5,)),
    )

    channels: int = 16

    @property
    def sizes(self):
        return {"hidden": self.hidden, "channels": self.channels}

    @property
    def weights(self):
        into, out = weight("into.weight", "channels", "hidden"), weight("rate", "channels")
        return (NORM, into, out, weight("out.weight", "hidden", "channels"))

    @property
    def points(self):
        return {"before_fading": Rows("into")}

    def depends_on_length(self, length):
        return False


@dataclass(kw_only=True)
class FadingSlot(Slot):
    """The last y [b, channels]."""

    terms: ClassVar[dict[str, str]] = {"last": "state"}
    last: Tensor


class FadingBlock(ResidualBlock):
    kind = Fading.kind

    def __init__(self, block, eps, kernels):
        super().__init__(block, eps, kernels)
        self.into = nn.Linear(block.hidden, block.channels, bias=False)
        self.rate = nn.Parameter(torch.zeros(block.channels))
        self.out = nn.Linear(block.channels, block.hidden, bias=False)

    @classmethod
    def new_slot(cls, block, room):
        shape = (room.batch, block.channels)
        return FadingSlot(last=torch.zeros(shape, device=room.device, dtype=room.state_dtype))

    def reset(self, generator):
        self.rate.uniform_(0.2, 0.9, generator=generator)

    def mixer(self, x, context):
        values, rows = self.into(x), []
        y = context.slot.last if context.past else torch.zeros_like(values[:, 0])
        for t in range(values.shape[1]):
            y = self.rate * y + values[:, t]
            rows.append(y)
        if context.slot is not None:
            context.slot.last.copy_(y)
        y = torch.stack(rows, 1)
        return self.out(y if self.kept is None else y * self.kept)


# Other tests do not know it: it is there as long as one of this file runs.
KINDS.pop(Fading.kind)
MODULES.pop(Fading.kind)


@pytest.fixture(autouse=True)
def registered():
    """The kind and its module; what a test adds to them is gone after it."""
    before = dict(KINDS), dict(MODULES)
    KINDS[Fading.kind], MODULES[Fading.kind] = Fading, FadingBlock
    yield
    for registry, known in zip((KINDS, MODULES), before, strict=True):
        registry.clear()
        registry.update(known)


def model():
    fading, ffn = Fading(hidden=32), FeedForward(hidden=32, intermediate=64)
    blocks = (fading, ffn, Fading(hidden=32, channels=32), *tiny("M*").blocks)
    return shaken(Architecture(vocab_size=64, hidden=32, blocks=blocks))


TOKENS = torch.randint(0, 64, (2, 21), generator=torch.Generator().manual_seed(1))


def test_every_kind_has_a_module_and_every_module_a_kind():
    assert set(KINDS) == set(MODULES)
    assert {"attention", "mamba", "mlp", "fading"} <= set(KINDS)


@torch.no_grad()
def test_masked_is_cut():
    parent = model()
    kept = ({"channels": (1, 4, 5, 15)}, {}, {"channels": tuple(range(3, 20))}, {}, None)
    selection = Selection(blocks=kept, hidden=tuple(range(0, 32, 2)))
    student = HybridLM(selection.student(parent.architecture)).eval()
    whole, position = parent.state_dict(), selection.kept_blocks
    for tensor in student.architecture.tensors():
        name, axes = tensor.name, {"hidden": selection.hidden}
        if tensor.block is not None:
            index = position[tensor.block]
            name, axes = f"blocks.{index}.{tensor.weight.name}", selection.axes(index)
        sizes = {**tensor.sizes, "hidden": 32}
        if tensor.block is not None:
            sizes = parent.architecture.blocks[index].sizes
        value = whole[name]
        for dim, indices in enumerate(tensor.weight.indices(sizes, axes)):
            if indices is not None:
                value = value.index_select(dim, torch.from_numpy(indices))
        student.get_parameter(tensor.name).copy_(value)
    before = parent(TOKENS)
    with parent.masked(selection):
        assert (parent(TOKENS) - student(TOKENS)).abs().max() < 1e-5
    assert torch.equal(parent(TOKENS), before)


@torch.no_grad()
def test_a_cache_gives_what_the_whole_text_does():
    whole = model()
    cache = whole.new_cache(2, 30)
    parts = [whole(TOKENS[:, :9], cache=cache)]
    parts += [whole(TOKENS[:, i : i + 1], cache=cache) for i in range(9, 21)]
    assert (torch.cat(parts, 1) - whole(TOKENS)).abs().max() < 1e-5
    prompts = [[1, 2, 3], [4, 5]]
    for prompt, answer in zip(prompts, generate(whole, prompts, 5), strict=True):
        text = torch.tensor([prompt + answer])
        assert whole(text)[0, len(prompt) - 1 : -1].argmax(-1).tolist() == answer
    room = Room(batch=3, capacity=9, device=torch.device("cpu"), kv_dtype=torch.bfloat16)
    slot = new_slot(Fading(hidden=8), room)
    assert (slot.nbytes("kv"), slot.nbytes("state", "window")) == (0, 3 * 16 * 4)


def test_points_and_branch():
    module, seen = model().blocks[0], {}
    for point in ("branch_input", "channels", "before_fading"):
        module.watch(point, lambda x, point=point: seen.setdefault(point, x))
    h = torch.randn(2, 7, 32, generator=torch.Generator().manual_seed(0))
    added = module.branch(h, Context())
    assert torch.equal(seen["branch_input"], module.norm(h))
    assert torch.equal(seen["before_fading"], module.into(module.norm(h)))
    assert torch.equal(module.out(seen["channels"]), added)
    assert torch.equal(module(h, Context()), h + added)
    mask = torch.arange(32) < 5
    assert torch.equal(module(h, Context(hidden_mask=mask)), h + added * mask)


def test_what_is_done_to_matrices_is_done_to_its_own():
    made = model()
    names = {id(parameter): name for name, parameter in made.named_parameters()}
    decaying, others = (
        {names[id(p)] for p in group["params"]}
        for group in make_optimizer(made, Training(weight_decay=0.1)).param_groups
    )
    assert {"blocks.0.into.weight", "blocks.2.out.weight"} <= decaying
    assert {"blocks.0.rate", "blocks.0.norm.weight"} <= others
    fresh = init_model(made.architecture, seed=0)
    assert 0.2 <= fresh.blocks[0].rate.min() < fresh.blocks[0].rate.max() <= 0.9
    groups = make_plan(made.architecture, "lora", rank=2).groups
    assert {"into", "out"} <= {group.sites[0].projections[0] for group in groups}
    fading = HybridLM(Architecture(vocab_size=64, hidden=32, blocks=(Fading(hidden=32),) * 3))
    assert set_precision(fading, "fp8-emulated", 1) == ["blocks.1.into", "blocks.1.out"]
    assert forward_bytes(
        Fading(hidden=32), batch=2, length=3, dtype=torch.float32, fast=False
    ) >= 4 * 2 * 3 * (32 + 2 * 16)


def test_what_is_not_declared_raises_by_name():
    @dataclass(frozen=True, kw_only=True)
    class Bare(Block):
        kind: ClassVar[str] = "bare"

    for member in ("letter", "label", "output", "widths", "estimator", "sizes", "projections"):
        missing = "weights" if member == "projections" else member
        with pytest.raises(NotImplementedError, match=f"'bare' does not declare {missing}"):
            getattr(Bare(hidden=32), member)

    KINDS.pop(Fading.kind)  # whose letter and axes it takes

    @dataclass(frozen=True, kw_only=True)
    class Bare(Fading):
        kind: ClassVar[str] = "bare"

    with pytest.raises(NotImplementedError, match="no module runs the kind 'bare'"):
        make_block(Bare(hidden=32), 1e-5, None)

    class BareBlock(ResidualBlock):
        kind = Bare.kind

        def __init__(self, block, eps, kernels):
            super().__init__(block, eps, kernels)
            self.into = nn.Linear(32, 16, bias=False)
            self.rate = nn.Parameter(torch.zeros(16))

    try:
        module = make_block(Bare(hidden=32), 1e-5, None)
        calls = {
            "mixer": lambda: module.branch(torch.zeros(1, 2, 32), Context()),
            "new_slot": lambda: new_slot(
                module.block,
                Room(batch=1, capacity=2, device=torch.device("cpu"), kv_dtype=torch.float32),
            ),
            "reset of rate": lambda: module.reset(torch.Generator()),
            "the point 'elsewhere'": lambda: module.watch("elsewhere", print),
        }
        for member, call in calls.items():
            with pytest.raises(NotImplementedError, match=f"'bare' does not declare {member}"):
                call()
    finally:
        MODULES.pop("bare")


def test_an_axis_that_no_mask_reaches_raises():
    @dataclass(frozen=True, kw_only=True)
    class Tied(Fading):
        widths: ClassVar[tuple[Width, ...]] = (
            *Fading.widths,
            Width(axis="rates", score="rates", of=("rates",), label="rates"),
        )

        @property
        def sizes(self):
            return {**super().sizes, "rates": 4}

    module = FadingBlock(Tied(hidden=32), 1e-5, None)
    with pytest.raises(NotImplementedError, match="how the axis 'rates' is masked"):
        module.masks({"rates": (0,)})
