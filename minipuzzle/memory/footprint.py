"""What an architecture's weights and caches take at a workload. A pencil can check each term."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from minipuzzle.arch import Architecture
from minipuzzle.errors import UserError
from minipuzzle.memory.peak import Peak
from minipuzzle.settings import check_tokens

BYTES = {
    "fp32": 4.0,
    "bf16": 2.0,
    "fp16": 2.0,
    "fp8": 1.0,
    "int8": 1.0,
    "fp4": 0.5,
    "mxfp4": 0.53125,
    "nvfp4": 0.5625,
}
"""Bytes a value. fp4 has no scales, as the paper's budget wants; mxfp4 and nvfp4 count theirs (one
byte for each 32 or 16 values).
"""
PARTS = ("weights", "kv", "ssm", "conv")


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What runs at once: ``batch`` sequences of ``context`` tokens, and the dtypes of weights,
    cache and states.
    """

    context: int
    batch: int = 1
    weights: str = "bf16"
    kv: str = "bf16"
    state: str = "bf16"

    def __post_init__(self) -> None:
        for name in (self.weights, self.kv, self.state):
            if name not in BYTES:
                raise UserError(
                    f"Unknown dtype {name!r}.",
                    got=name,
                    allowed=", ".join(BYTES),
                    next="Choose one of those for search.weights, search.kv or search.state.",
                )
        check_tokens(self.batch, self.context, f"batch {self.batch}, context {self.context}")


def resident(architecture: Architecture, workload: Workload) -> Peak:
    """Bytes of "weights", "kv", "ssm" and "conv" at a workload, without activations.

    weights = parameters x bytes; the caches as each kind of block declares them
    (``kinds.Block.cache``), for every sequence. Source: the form of NVIDIA Model Optimizer's
    mcore_memory_footprint_mb; reproduces the 31.7 GiB budget of arXiv:2504.03624.
    """
    sizes = part_bytes(np.asarray(values(architecture, workload.context)), workload)
    return Peak(terms=dict(zip(PARTS, map(int, sizes), strict=True)))


def values(architecture: Architecture, context: int) -> tuple[int, int, int, int]:
    """How many values each of ``PARTS`` has: parameters; keys and values, SSM states and
    convolution windows of a sequence of ``context`` tokens.
    """
    caches = [block.cache(context) for block in architecture.blocks]
    return (
        architecture.parameters,
        sum(cache.kv for cache in caches),
        sum(cache.state for cache in caches),
        sum(cache.window for cache in caches),
    )


def part_bytes(counts: NDArray[np.int64], workload: Workload) -> NDArray[np.float64]:
    """Bytes of each part [..., 4], rounded up, from ``values`` [..., 4] at the workload's context:
    a grid and one model are priced alike.

    float64 because a long context times a large batch can pass int64; exact below 2**53 bytes (9
    PB).
    """
    kv, state = (workload.batch * BYTES[name] for name in (workload.kv, workload.state))
    factors = np.array([BYTES[workload.weights], kv, state, state])
    sizes: NDArray[np.float64] = np.ceil(counts * factors)
    return sizes
