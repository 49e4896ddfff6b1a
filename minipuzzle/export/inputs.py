"""What the matrices of a model read: the largest magnitudes on a text."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from minipuzzle.errors import InternalError, UserError
from minipuzzle.model import HybridLM
from minipuzzle.model.base import ResidualBlock


@torch.no_grad()
def largest_inputs(model: HybridLM, batches: Iterable[Tensor]) -> dict[str, Tensor]:
    """The largest magnitude [1] of the inputs of each projection, by the canonical name of its
    weight, in FP32 on the CPU; ``batches`` are tokens [b, s].

    Raises: UserError for experts, of which a text may leave some without a token.
    """
    blocks = [cast(ResidualBlock, block) for block in model.blocks]
    stacks = [name for block in blocks for name in block.block.stacks]
    if stacks:
        raise UserError(
            "What experts read is not measured: a text may leave some of them without a token.",
            got=stacks[0],
            allowed="models without a mixture of experts",
            next="Change quantize.format to fp8, which scales inputs while the engine runs.",
        )
    found: dict[str, Tensor] = {}

    def read(name: str, module: Any, inputs: tuple[Tensor, ...]) -> None:
        top = inputs[0].abs().amax().float().reshape(1)
        found[name] = torch.maximum(found[name], top) if name in found else top

    layers = {
        f"blocks.{index}.{name}.weight": layer
        for index, block in enumerate(blocks)
        for name, layer in block.projections.items()
    }
    handles = [
        layer.register_forward_pre_hook(partial(read, name)) for name, layer in layers.items()
    ]
    try:
        for tokens in batches:
            model.hidden_states(tokens)
    finally:
        for handle in handles:
            handle.remove()
    if missing := layers.keys() - found.keys():
        raise InternalError(f"nothing was seen of what {sorted(missing)[0]} reads")
    return {name: top.cpu() for name, top in found.items()}
