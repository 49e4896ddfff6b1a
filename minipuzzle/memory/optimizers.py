"""What the optimisers hold of each tensor, in bytes: weights, gradients and both moments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod

from minipuzzle.arch import Architecture
from minipuzzle.arch.architecture import EMBEDDING, FINAL_NORM
from minipuzzle.kinds import Block
from minipuzzle.settings.training import Optimizer

FP32, BF16 = 4, 2
BLOCKS = (256, 128, 64)
"""Numbers of a row that share one scale of a moment in 8 bits."""
FEWEST = 4096
"""Numbers of a tensor whose moments are in 8 bits, at least: as in bitsandbytes and torchao."""
TABLE = 256 * FP32
"""What the codes of a moment stand for."""


@dataclass(frozen=True, kw_only=True)
class Held:
    """Bytes; ``copies`` are the BF16 ones of a block's FP32 matrices, on one GPU."""

    weights: int = 0
    gradients: int = 0
    moments: int = 0
    copies: int = 0

    def __add__(self, other: Held) -> Held:
        return Held(
            weights=self.weights + other.weights,
            gradients=self.gradients + other.gradients,
            moments=self.moments + other.moments,
            copies=self.copies + other.copies,
        )


def eight_bit(optimizer: Optimizer) -> bool:
    """Whether its moments are codes of 8 bits."""
    return optimizer != "adamw"


def half(optimizer: Optimizer) -> bool:
    """Whether the matrices that it trains are BF16, rounded stochastically after a step."""
    return optimizer == "adamw-8bit-bf16"


def block_of(shape: Sequence[int]) -> int:
    """How many numbers of a tensor share a scale; 0 where its moments stay FP32.

    Scales never cross rows, so that any cut of the rows over processes cuts them too.
    """
    row = prod(shape[1:])
    fits = [block for block in BLOCKS if row % block == 0]
    return fits[0] if fits and prod(shape) >= FEWEST else 0


def on_all(shape: Sequence[int], gpus: int, together: int) -> tuple[int, ...]:
    """A stack [experts, rows, columns] as all ``gpus`` hold it, each as many experts as the largest
    share of ``together`` that divide them; 1: it is there once.
    """
    experts = shape[0] if together == 1 else gpus * -(-shape[0] // together)
    return (experts, *shape[1:])


def stacked(block: Block, gpus: int = 1, together: int = 1) -> int:
    """Numbers of a block's stacks, as all ``gpus`` hold them."""
    return sum(prod(on_all(shape, gpus, together)) for shape in block.stacks.values())


def held_by_block(
    model: Architecture, optimizer: Optimizer, gpus: int = 1, together: int = 1
) -> list[Held]:
    """Of each block; last, of the final norm and the two ends. All ``gpus`` are meant, which have
    the rest once and stacks ``on_all``.
    """
    top = {"vocab": model.vocab_size, "hidden": model.hidden}
    matrix = _of(EMBEDDING.shape(top), True, optimizer)
    ends = [matrix] if model.tied_head else [matrix, matrix]
    top_held = replace(sum(ends, _of(FINAL_NORM.shape(top), False, optimizer)), copies=0)
    blocks = (_of_block(block, optimizer, gpus, together) for block in model.blocks)
    return [*blocks, top_held]


def pinned_bytes(model: Architecture, gpus: int) -> int:
    """Of page-locked memory that FP32 shards of a model take in each of ``gpus`` processes: PyTorch
    rounds each tensor up to a power of two (``torch.cuda.host_memory_stats``).
    """
    top = {"vocab": model.vocab_size, "hidden": model.hidden}
    shapes = [EMBEDDING.shape(top)] * (1 if model.tied_head else 2) + [FINAL_NORM.shape(top)]
    for block in model.blocks:
        shapes += [w.shape(block.sizes) for w in block.weights if w.name not in block.buffers]
    each = (FP32 * -(-shape[0] // gpus) * prod(shape[1:]) for shape in shapes)
    return sum(1 << (size - 1).bit_length() for size in each if size)


def state_bytes_each(model: Architecture, optimizer: Optimizer) -> float:
    """Bytes a parameter of a saved state, on average over the model's parameters."""
    whole = sum(held_by_block(model, optimizer), Held())
    return (whole.weights + whole.moments) / model.parameters


@lru_cache(maxsize=4096)
def _of_block(block: Block, optimizer: Optimizer, gpus: int, together: int) -> Held:
    """Plans ask for the same blocks again and again."""
    matrices, stacks, found = block.matrices, block.stacks, Held()
    for w in block.weights:
        if w.name not in block.buffers:
            shape = w.shape(block.sizes)
            shape = on_all(shape, gpus, together) if w.name in stacks else shape
            found += _of(shape, w.name in matrices, optimizer)
    return found


def _of(shape: Sequence[int], matrix: bool, optimizer: Optimizer) -> Held:
    count, block = prod(shape), block_of(shape) if eight_bit(optimizer) else 0
    each = BF16 if matrix and half(optimizer) else FP32
    one = count + FP32 * count // block + TABLE if block else FP32 * count
    return Held(
        weights=each * count,
        gradients=each * count,
        moments=2 * one,
        copies=BF16 * count if matrix and each == FP32 else 0,
    )
