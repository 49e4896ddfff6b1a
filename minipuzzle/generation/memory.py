"""What generation will hold on the device, term by term, before it begins, and the largest batch
that fits.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import lru_cache

import torch

from minipuzzle.arch import Architecture
from minipuzzle.generation.step import TOKENS_AT_ONCE
from minipuzzle.kinds import Block
from minipuzzle.model.base import new_slot
from minipuzzle.model.footprint import forward_bytes
from minipuzzle.settings import Generation

HEADROOM = 0.04
"""Share of a device that is left to libraries' workspaces, CUDA graphs and the gaps between
tensors.
"""
MOST = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """How a model runs: dtype of weights, activations, keys and values; dtype of Mamba states;
    mamba-ssm's kernels or not.

    ``fp8_weights``: the matrices of blocks in one byte a value.
    """

    dtype: torch.dtype
    state_dtype: torch.dtype
    fast: bool
    fp8_weights: bool = False
    tokens_at_once: int = TOKENS_AT_ONCE


@dataclass(frozen=True, kw_only=True)
class Peak:
    """Bytes at the worst moment."""

    weights: int
    kv: int
    states: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        """All of them."""
        return sum(asdict(self).values())


def plan(architecture: Architecture, work: Generation, runtime: Runtime) -> Peak:
    """The peak of ``work.batch`` prompts of ``work.prompt`` tokens, continued greedily by
    ``work.output``.

    Caches hold prompt + output tokens a row. Activations are those of one piece of a prompt, or of
    one token of all rows, beside the residual stream in the block that holds most
    (``model.footprint``); logits those of the last prefill and of the decoding step.
    """
    size = runtime.dtype.itemsize
    rows = max(1, min(work.batch, runtime.tokens_at_once // work.prompt))
    length = min(work.prompt, runtime.tokens_at_once)
    reading = _activations(architecture, rows, length, work.prompt - length, runtime)
    speaking = _activations(architecture, work.batch, 1, work.prompt + work.output - 1, runtime)
    kv = states = 0
    for block in architecture.blocks:
        each = _row_bytes(block, work.prompt + work.output, runtime.dtype, runtime.state_dtype)
        kv, states = kv + each[0] * work.batch, states + each[1] * work.batch
    return Peak(
        weights=weight_bytes(architecture, size, runtime.fp8_weights),
        kv=kv,
        states=states,
        activations=max(reading, speaking),
        logits=4 * architecture.vocab_size * (2 * work.batch + rows),
    )


def weight_bytes(architecture: Architecture, size: int, fp8: bool) -> int:
    """Bytes of all weights at ``size`` bytes a value; ``fp8`` holds the matrices of blocks in one,
    with a scale each.
    """
    if not fp8:
        return architecture.parameters * size
    total = 0
    for tensor in architecture.tensors():
        matrix = tensor.block is not None and len(tensor.shape) == 2
        total += tensor.weight.numel(tensor.sizes) * (1 if matrix else size) + (4 if matrix else 0)
    return total


def cache_bytes(
    architecture: Architecture,
    rows: int,
    capacity: int,
    dtype: torch.dtype,
    state_dtype: torch.dtype,
) -> int:
    """Bytes that the caches of ``rows`` rows hold for ``capacity`` tokens each."""
    total = 0
    for block in architecture.blocks:
        kv, state = _row_bytes(block, 1, dtype, state_dtype)
        total += rows * (kv * capacity + state)
    return total


def largest_batch(
    architecture: Architecture, work: Generation, runtime: Runtime, available: int
) -> int:
    """The most prompts whose peak fits ``available`` bytes with HEADROOM of them left; 0 where one
    does not.
    """

    def fits(batch: int) -> bool:
        asked = Generation(batch=batch, prompt=work.prompt, output=work.output)
        return plan(architecture, asked, runtime).total <= available * (1 - HEADROOM)

    low, high = 0, 1
    while high < MOST and fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _activations(
    architecture: Architecture, rows: int, length: int, past: int, runtime: Runtime
) -> int:
    stream = rows * length * architecture.hidden * runtime.dtype.itemsize
    held = [
        _forward(block, rows, length, past, runtime.dtype, runtime.fast)
        for block in dict.fromkeys(architecture.blocks)
    ]
    return stream + max(2 * stream, *held)


@lru_cache(maxsize=4096)
def _forward(
    block: Block, rows: int, length: int, past: int, dtype: torch.dtype, fast: bool
) -> int:
    return forward_bytes(block, batch=rows, length=length, dtype=dtype, fast=fast, past=past)


@lru_cache(maxsize=4096)
def _row_bytes(
    block: Block, capacity: int, dtype: torch.dtype, state_dtype: torch.dtype
) -> tuple[int, int]:
    slot = new_slot(block, 1, capacity, device="meta", kv_dtype=dtype, state_dtype=state_dtype)
    return (0, 0) if slot is None else (slot.nbytes("kv"), slot.nbytes("state", "window"))
