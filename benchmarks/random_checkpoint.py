"""A slice of a large model with random weights, written as a checkpoint."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import torch

from minipuzzle.arch import Architecture
from minipuzzle.arch.architecture import Tensor as ArchTensor
from minipuzzle.checkpoint import write_checkpoint
from minipuzzle.families import nemotron_h

SHARD_BYTES = 2_000_000_000


def slice_of(whole: Architecture, layers: int) -> Architecture:
    """The first ``layers`` neighbouring blocks that hold every kind of the model (or its first
    ones, if none do).
    """
    kinds = set(whole.pattern)
    starts = range(len(whole.blocks) - layers + 1)
    first = next((s for s in starts if set(whole.pattern[s : s + layers]) == kinds), 0)
    return replace(whole, blocks=whole.blocks[first : first + layers])


def write(architecture: Architecture, path: Path, device: str) -> None:
    """A checkpoint with random BF16 weights, a tensor at a time."""
    generator = torch.Generator(device).manual_seed(0)

    def tensor(name: str) -> torch.Tensor:
        return random_weight(by_name[name], len(architecture.blocks), generator).cpu()

    by_name = {tensor.name: tensor for tensor in architecture.tensors()}
    write_checkpoint(
        path,
        architecture,
        tensor,
        source=None,
        config=nemotron_h.config(architecture, {}),
        shard_bytes=SHARD_BYTES,
    )


def random_weight(tensor: ArchTensor, depth: int, generator: torch.Generator) -> torch.Tensor:
    """Values as ``init_model`` draws them, on the generator's device."""
    value = torch.empty(tensor.shape, dtype=torch.bfloat16, device=generator.device)
    name = tensor.name
    if name.endswith(("norm.weight", ".D")):
        return value.fill_(1.0)
    if name.endswith("A_log"):
        return value.uniform_(1.0, 16.0, generator=generator).log_()
    if name.endswith("dt_bias"):
        return value.uniform_(
            -6.9, -2.3, generator=generator
        )  # softplus(dt_bias) between 0.001 and 0.1
    if name.endswith("bias"):
        return value.zero_()
    residual = name.endswith(("out_proj.weight", "o_proj.weight", "down_proj.weight"))
    std = 0.5 if ".conv." in name else 0.02 / math.sqrt(depth) if residual else 0.02
    return value.normal_(0.0, std, generator=generator)
