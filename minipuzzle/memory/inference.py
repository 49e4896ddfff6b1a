"""What generation holds on a device, by term, before it begins, and the largest batch that fits."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from minipuzzle.arch import Architecture
from minipuzzle.kinds import Block
from minipuzzle.memory.peak import Peak
from minipuzzle.settings import Generation

# Share of a device that is left to libraries' workspaces, CUDA graphs and the gaps between tensors.
HEADROOM = 0.04
LARGEST_BATCH = 1 << 16
LOGIT_BYTES = 4
SCALE_BYTES = 4


class Runtime(Protocol):
    """How a model runs, and what only running a block tells."""

    @property
    def value_bytes(self) -> int:
        """Of a weight, an activation, a key and a value."""

    @property
    def fp8_weights(self) -> bool:
        """Whether the matrices of blocks are held in one byte a value, with a scale each."""

    @property
    def tokens_at_once(self) -> int:
        """Prompts are read in pieces of so many tokens."""

    def forward_bytes(self, block: Block, rows: int, length: int, past: int) -> int:
        """Bytes that a block's forward of [rows, length] tokens after ``past`` holds at most."""

    def slot_bytes(self, block: Block) -> tuple[int, int]:
        """(keys and values of a token, states of a sequence) that decoding holds, in bytes."""


def inference_peak(architecture: Architecture, work: Generation, runtime: Runtime) -> Peak:
    """The peak of ``work.batch`` prompts of ``work.prompt`` tokens, continued greedily by
    ``work.output``: "weights", "kv", "states", "activations", "logits".

    Caches hold prompt + output tokens a row. Activations are those of one piece of a prompt, or of
    one token of all rows, beside the residual stream in the block that holds most; logits those of
    the last prefill and of the decoding step.
    """
    rows = max(1, min(work.batch, runtime.tokens_at_once // work.prompt))
    length = min(work.prompt, runtime.tokens_at_once)
    capacity = work.prompt + work.output
    reading = _activations(architecture, rows, length, work.prompt - length, runtime)
    decoding = _activations(architecture, work.batch, 1, capacity - 1, runtime)
    kv, states = _slots(architecture, capacity, runtime)
    return Peak(
        terms={
            "weights": weight_bytes(architecture, runtime.value_bytes, runtime.fp8_weights),
            "kv": work.batch * kv,
            "states": work.batch * states,
            "activations": max(reading, decoding),
            "logits": LOGIT_BYTES * architecture.vocab_size * (2 * work.batch + rows),
        }
    )


def weight_bytes(architecture: Architecture, size: int, fp8: bool) -> int:
    """Bytes of all weights at ``size`` bytes a value; ``fp8`` holds the matrices of blocks in one,
    with a scale each, experts' with one for each row.
    """
    if not fp8:
        return architecture.parameters * size
    saved = 0
    for block in architecture.blocks:
        for rows, columns in block.projections.values():
            saved += rows * columns * (size - 1) - SCALE_BYTES
        for count, rows, columns in block.stacks.values():  # a scale for each row
            saved += count * rows * (columns * (size - 1) - SCALE_BYTES)
    return architecture.parameters * size - saved


def cache_bytes(architecture: Architecture, rows: int, capacity: int, runtime: Runtime) -> int:
    """Bytes that the caches of ``rows`` rows hold for ``capacity`` tokens each."""
    return rows * sum(_slots(architecture, capacity, runtime))


def largest_batch(
    architecture: Architecture, work: Generation, runtime: Runtime, available: int
) -> int:
    """The most prompts whose peak fits ``available`` bytes with HEADROOM of them left; 0 where one
    does not.
    """

    def fits(batch: int) -> bool:
        peak = inference_peak(architecture, replace(work, batch=batch), runtime)
        return peak.total <= available * (1 - HEADROOM)

    low, high = 0, 1
    while high < LARGEST_BATCH and fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _slots(architecture: Architecture, capacity: int, runtime: Runtime) -> tuple[int, int]:
    """(keys and values, states) of a sequence of up to ``capacity`` tokens."""
    keys = states = 0
    for block in architecture.blocks:
        token, fixed = runtime.slot_bytes(block)
        states += fixed
        if token:  # of so many tokens: a window's at most
            keys += token * (block.cache(capacity).kv // block.cache(1).kv)
    return keys, states


def _activations(
    architecture: Architecture, rows: int, length: int, past: int, runtime: Runtime
) -> int:
    stream = rows * length * architecture.hidden * runtime.value_bytes
    held = [
        runtime.forward_bytes(block, rows, length, past)
        for block in dict.fromkeys(architecture.blocks)
    ]
    return stream + max(2 * stream, *held)
