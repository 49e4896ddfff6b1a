"""A family whose files hold tensors in pieces: a stack of packed matrices, and a packed matrix."""

import sys
from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar

import torch
from safetensors.torch import load_file, save_file

from minipuzzle import families
from minipuzzle.arch import Architecture
from minipuzzle.checkpoint import Checkpoint, write_checkpoint
from minipuzzle.families._parts import Interleaved, named
from minipuzzle.kinds import KINDS, Block, Width, weight
from minipuzzle.kinds.base import NORM

SIZES = {"hidden": 6, "cells": 5, "parts": 4}


@dataclass(frozen=True, kw_only=True)
class Cells(Block):
    """A stack of matrices, two of them packed in each, a packed matrix, and a buffer."""

    kind: ClassVar[str] = "honeycomb"
    letter: ClassVar[str] = "Y"
    label: ClassVar[str] = "cells"
    estimator: ClassVar[str] = "contribution"
    buffers: ClassVar[tuple[str, ...]] = ("correction",)
    widths: ClassVar[tuple[Width, ...]] = (
        Width(axis="cells", score="cells", of=("cells",), label="cells"),
        Width(axis="parts", score="parts", of=("cells", "parts"), label="parts", each="cells"),
    )

    cells: int
    parts: int

    @property
    def sizes(self):
        return {"hidden": self.hidden, "cells": self.cells, "parts": self.parts}

    @property
    def stacks(self):
        return {"cells.gate_up": (self.cells, 2 * self.parts, self.hidden)}

    @property
    def weights(self):
        return (
            NORM,
            weight("correction", "cells"),
            weight("cells.gate_up", "cells", "parts + parts", "hidden"),
            weight("packed.weight", "cells + hidden", "hidden"),
            weight("wide.weight", "cells + hidden + cells", "hidden"),
            weight("laid.weight", "cells + cells*parts + cells", "hidden"),
        )


FORMS = {
    "cells.gate_up": (("cells.{expert}.gate.weight", "cells.{expert}.up.weight"), "cells.gate_up"),
    "packed.weight": (("one.weight", "two.weight"), "packed.weight"),
    "wide.weight": (("first.weight", "first.weight", "second.weight"), "wide.weight"),
    "laid.weight": (Interleaved("laid_by_cell.weight"), "laid.weight"),
}


def architecture(config):
    blocks = tuple(Cells(hidden=6, **sizes) for sizes in config["blocks"])
    return Architecture(vocab_size=9, hidden=6, blocks=blocks)


def config(architecture, original):
    blocks = [{"cells": b.cells, "parts": b.parts} for b in architecture.blocks]
    return {"model_type": "cells", "blocks": blocks}


def names(architecture):
    result = {}
    for tensor in architecture.tensors():
        prefix = "" if tensor.block is None else f"layers.{tensor.block}."
        patterns = FORMS.get(tensor.weight.name, (tensor.weight.name,))
        result[tensor.name] = tuple(named(p, prefix, tensor.shape[0]) for p in patterns)
    return result


def install(monkeypatch):
    """The family and its kind, as long as a test runs."""
    module = SimpleNamespace(
        FIELDS={}, architecture=architecture, config=config, names=names, extra_files=lambda a: {}
    )
    monkeypatch.setitem(sys.modules, "minipuzzle.families.cells", module)
    monkeypatch.setattr(families, "known", lambda: ["cells"])
    monkeypatch.setitem(KINDS, "honeycomb", Cells)


KINDS.pop("honeycomb")
MODEL = Architecture(
    vocab_size=9, hidden=6, blocks=(Cells(**SIZES), Cells(hidden=6, cells=3, parts=2))
)


def values():
    generator = torch.Generator().manual_seed(0)
    return {
        t.name: torch.randn(t.shape, generator=generator).to(
            torch.float32 if t.name.endswith("correction") else torch.bfloat16
        )
        for t in MODEL.tensors()
    }


def write(folder, shard_bytes=5_000_000_000, source=None, tensors=None):
    write_checkpoint(
        folder,
        MODEL,
        (tensors or values()).__getitem__,
        source=source,
        config=config(MODEL, {}),
        shard_bytes=shard_bytes,
    )
    return Checkpoint.open(folder)


def files(folder):
    return {
        name: value
        for file in folder.glob("*.safetensors")
        for name, value in load_file(file).items()
    }


def as_stacks(folder):
    """The same weights, each tensor in one piece, as in transformers' memory."""
    tensors, singles = values(), names(MODEL)
    folder.mkdir()
    save_file(
        {singles[name][-1]: value for name, value in tensors.items()}, folder / "model.safetensors"
    )
    return folder
