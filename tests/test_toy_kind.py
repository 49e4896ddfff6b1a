"""A kind of block that no file of minipuzzle knows goes through every room; what it does not
declare raises by name.
"""

import json
import shutil
import sys
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from conftest import shaken
from helpers import TEXT, run
from torch import nn

from minipuzzle import embedded, families
from minipuzzle.arch import Architecture, Selection
from minipuzzle.checkpoint import Checkpoint, write_checkpoint
from minipuzzle.cost.flops import flops_per_token
from minipuzzle.kinds import KINDS, Block, Cache, FeedForward, Flops, Width, weight
from minipuzzle.kinds.axes import Rows
from minipuzzle.kinds.base import NORM
from minipuzzle.memory.footprint import values
from minipuzzle.memory.training import saved_bytes
from minipuzzle.model import load_model
from minipuzzle.model.base import MODULES, ResidualBlock
from minipuzzle.surgery import cut

SIZES = {"hidden": 32, "cells": 4, "parts": 6}
VOCAB = 4096


@dataclass(frozen=True, kw_only=True)
class Toy(Block):
    """out(tanh(in(x))) over ``cells`` cells of ``parts`` parts, both of which get narrower."""

    kind: ClassVar[str] = "toy"
    letter: ClassVar[str] = "T"
    label: ClassVar[str] = "toy block"
    output: ClassVar[str] = "out_proj"
    estimator: ClassVar[str] = "contribution"
    widths: ClassVar[tuple[Width, ...]] = tuple(
        Width(axis=axis, score="toy_parts", of=("cells", "parts"), label=f"toy {axis}")
        for axis in ("cells", "parts")
    )

    cells: int
    parts: int

    @property
    def sizes(self):
        return {"hidden": self.hidden, "cells": self.cells, "parts": self.parts}

    @property
    def weights(self):
        channels = "cells*parts"
        into, out = weight("in_proj.weight", channels, "hidden"), ("hidden", channels)
        return (NORM, into, weight("out_proj.weight", *out))

    @property
    def makers(self):
        return (Rows("in_proj"),)

    @property
    def points(self):
        return {"before_activation": Rows("in_proj")}

    def cache(self, context):
        return Cache()

    def flops(self, context):
        return Flops(matmul=self.product_flops())

    def saved_values(self):
        return 2 * self.hidden + 2 * self.cells * self.parts

    def depends_on_length(self, length):
        return False


class ToyBlock(ResidualBlock):
    kind = "toy"

    def __init__(self, block, eps, kernels):
        super().__init__(block, eps, kernels)
        self.in_proj = nn.Linear(block.hidden, block.cells * block.parts, bias=False)
        self.out_proj = nn.Linear(block.cells * block.parts, block.hidden, bias=False)

    @classmethod
    def new_slot(cls, block, room):
        return None

    def mixer(self, x, context):
        y = torch.tanh(self.in_proj(x))
        return self.out_proj(y if self.kept is None else y * self.kept)


def architecture(config):
    blocks = [
        Toy(**config["toys"][i]) if c == "T" else FeedForward(**config["ffns"][i])
        for i, c in enumerate(config["pattern"])
    ]
    return Architecture(vocab_size=VOCAB, hidden=blocks[0].hidden, blocks=tuple(blocks))


def config(architecture, original):
    plain = [dict(block.sizes) for block in architecture.blocks]
    return {"model_type": "toy", "pattern": architecture.pattern, "toys": plain, "ffns": plain}


def names(architecture):
    return {tensor.name: (f"toy.{tensor.name}",) for tensor in architecture.tensors()}


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    """The family of the toy, as if there were a file of its name; the kind, as long as it is
    tested.
    """
    family = SimpleNamespace(
        FIELDS={}, architecture=architecture, config=config, names=names, extra_files=lambda a: {}
    )
    monkeypatch.setitem(sys.modules, "minipuzzle.families.toy", family)
    monkeypatch.setattr(families, "known", lambda: ["nemotron_h", "toy"])
    monkeypatch.setitem(KINDS, "toy", Toy)
    monkeypatch.setitem(MODULES, "toy", ToyBlock)


KINDS.pop("toy")
MODULES.pop("toy")


def model():
    blocks = (Toy(**SIZES), FeedForward(hidden=32, intermediate=64)) * 3
    return Architecture(vocab_size=VOCAB, hidden=32, blocks=blocks)


@pytest.fixture
def parent(tmp_path):
    made = shaken(model())
    values = made.state_dict()
    write_checkpoint(
        tmp_path / "model",
        made.architecture,
        lambda name: values[name].contiguous(),
        source=None,
        config=config(made.architecture, {}),
        extra={},
    )
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(embedded.teacher_path() / name, tmp_path / "model" / name)
    return Checkpoint.open(tmp_path / "model")


def test_what_it_costs_is_what_it_declares():
    toy, arch = Toy(**SIZES), model()
    assert toy.parameters == 32 + 2 * 32 * 24
    without = replace(arch, blocks=arch.blocks[1::2])
    assert arch.parameters - without.parameters == 3 * toy.parameters
    assert flops_per_token(arch, 9).total - flops_per_token(without, 9).total == 3 * 4 * 32 * 24
    assert saved_bytes(toy) == 2 * (2 * 32 + 2 * 24)
    assert values(arch, 1)[1:] == (0, 0, 0)
    assert arch.pattern == "T-T-T-"
    assert arch.homogeneous
    assert not replace(arch, blocks=(replace(toy, parts=5), *arch.blocks[1:])).homogeneous


def test_what_it_does_not_declare_raises_by_name():
    @dataclass(frozen=True, kw_only=True)
    class Silent(Block):
        kind: ClassVar[str] = "silent"

    KINDS.pop("silent")
    block = Silent(hidden=8)
    for ask, name in (
        (lambda: block.sizes, "sizes"),
        (lambda: block.weights, "weights"),
        (lambda: block.parameters, "weights"),
        (lambda: block.cache(1), "cache"),
        (lambda: block.flops(1), "flops"),
        (lambda: block.saved_values(), "saved_values"),
        (lambda: block.projections, "weights"),
        (lambda: block.points, "points"),
        (lambda: block.makers, "makers"),
        (lambda: block.depends_on_length(1), "depends_on"),
    ):
        with pytest.raises(NotImplementedError, match=f"'silent' does not declare {name}"):
            ask()
    with pytest.raises(NotImplementedError, match="declare letter"):
        str(Architecture(vocab_size=8, hidden=8, blocks=(block,)).pattern)
    with pytest.raises(NotImplementedError, match="'silent'"):
        shaken(Architecture(vocab_size=8, hidden=8, blocks=(block,)))


def test_experts_in_a_stack_are_not_taken_for_nothing():
    """A weight of three dimensions that a kind does not explain is no silent zero in FLOPs or in
    the list of what adapters, FP8 and weight decay touch.
    """

    @dataclass(frozen=True, kw_only=True)
    class Stack(Toy):
        @property
        def weights(self):
            return (*super().weights, weight("experts.weight", "cells", "parts", "hidden"))

    for ask in (lambda b: b.projections, lambda b: b.flops(1)):
        with pytest.raises(NotImplementedError, match=r"'toy'.*experts\.weight"):
            ask(Stack(**SIZES))


@pytest.mark.parametrize(
    "kept", [{"cells": (0, 2, 3)}, {"parts": (1, 4)}, {"cells": (1, 3), "parts": (0, 1, 5)}]
)
def test_masked_is_cut(parent, tmp_path, kept):
    selection = Selection(
        blocks=(kept, {}, None, {"intermediate": tuple(range(40))}, kept, {}),
        hidden=tuple(range(0, 32, 2)),
    )
    student = cut(parent, selection, tmp_path / "student")
    toy = student.architecture.blocks[0]
    assert (toy.cells, toy.parts) == (
        len(kept.get("cells", range(4))),
        len(kept.get("parts", range(6))),
    )
    tokens = torch.randint(0, VOCAB, (2, 11))
    whole = load_model(parent)
    with torch.no_grad():
        with whole.masked(selection):
            masked = whole(tokens)
        assert torch.allclose(masked, load_model(student)(tokens), atol=2e-4)


@pytest.mark.parametrize("method", ["solver", "minipuzzle"])
def test_from_scores_to_the_report(parent, tmp_path, method):
    folder = tmp_path / "run"
    common = ("--run", folder, "--device", "cpu", "--data", TEXT)
    run("score", parent.path, *common, "--length", 32, "--samples", 8, "--block-samples", 4)
    run(
        "search",
        parent.path,
        *common,
        "--length",
        32,
        "--budget",
        "97%",
        "--multiple",
        8,
        "--method",
        method,
        "--candidates",
        4,
        "--top",
        1,
        "--validation-blocks",
        2,
    )
    run("prune", "--run", folder)
    found = json.loads((folder / "search.json").read_text())
    (student,) = (folder / "candidates").iterdir()
    small = Checkpoint.open(student).architecture
    assert small.parameters <= 0.97 * model().parameters
    toys = [block for block in small.blocks if block.kind == "toy"]
    assert toys
    assert found["funnel"]
    run("report", "--run", folder)
    page = (folder / "report.html").read_text()
    assert "toy block" in page
