"""What the matrices of a model read on a text: the largest magnitudes, or the sums of squares."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from minipuzzle.checkpoint.cached import SCALES
from minipuzzle.errors import InternalError, UserError
from minipuzzle.model import HybridLM
from minipuzzle.model.base import ResidualBlock

Reader = Callable[[str, Tensor, Tensor | None], None]
"""Called with the canonical name of a matrix and the rows [n, columns] that it reads; of a stack
with those of all experts, and ``offsets`` [experts + 1]: where each one's begin, and the end.
"""


@dataclass(frozen=True, kw_only=True)
class Squares:
    """Of a matrix (``experts`` 1) or of a stack: ``sums`` [experts, columns] FP64 of the squares of
    what it read, over so many rows, ``counts`` [experts] int64.
    """

    sums: Tensor
    counts: Tensor


def largest_inputs(model: HybridLM, batches: Iterable[Tensor]) -> dict[str, Tensor]:
    """The largest magnitude [1] of the inputs of each projection, by the canonical name of its
    weight, in FP32 on the CPU; ``batches`` are tokens [b, s].

    Raises: UserError for experts, of which a text may leave some without a token.
    """
    stacks = [name for block in model.architecture.blocks for name in block.stacks]
    if stacks:
        raise UserError(
            "What experts read is not measured: a text may leave some of them without a token.",
            got=stacks[0],
            allowed="models without a mixture of experts",
            next="Change quantize.format to fp8, which scales inputs while the engine runs.",
        )
    found: dict[str, Tensor] = {}

    def read(name: str, rows: Tensor, offsets: Tensor | None) -> None:
        _note_largest(found, name, rows)

    _read_all(model, batches, read)
    return {name: top.cpu() for name, top in found.items()}


@torch.no_grad()
def largest_cached(model: HybridLM, batches: Iterable[Tensor]) -> dict[str, Tensor]:
    """The largest magnitude [1] of all keys and of all values of each block that caches them, by
    "blocks.3.keys" and "blocks.3.values", in FP32 on the CPU; ``batches`` are tokens [b, s].
    """
    found: dict[str, Tensor] = {}
    with ExitStack() as stack:
        for index, module in enumerate(model.blocks):
            block = cast(ResidualBlock, module)
            for what in SCALES if block.block.cache(1).kv else ():
                read = partial(_note_largest, found, f"blocks.{index}.{what}")
                stack.callback(block.watch(what, read).remove)
        for tokens in batches:
            model.hidden_states(tokens)
    return {name: top.cpu() for name, top in found.items()}


def _note_largest(found: dict[str, Tensor], name: str, values: Tensor) -> None:
    top = values.abs().amax().float().reshape(1)
    found[name] = torch.maximum(found[name], top) if name in found else top


def squared_inputs(model: HybridLM, batches: Iterable[Tensor]) -> dict[str, Squares]:
    """Of each projection and stack of experts, by canonical name, on the CPU; ``batches`` are
    tokens [b, s].
    """
    found: dict[str, Squares] = {}

    def read(name: str, rows: Tensor, offsets: Tensor | None) -> None:
        counts = rows.new_tensor([len(rows)], dtype=torch.int64)
        if offsets is not None:
            counts = offsets.diff().long()  # [experts]
        squares = rows.float().square()
        sums = torch.segment_reduce(squares, "sum", lengths=counts, axis=0).double().cpu()
        before = found.get(name)
        counts = counts.cpu()
        if before is not None:
            sums, counts = before.sums + sums, before.counts + counts
        found[name] = Squares(sums=sums, counts=counts)

    _read_all(model, batches, read)
    return found


@contextmanager
def watching(index: int, block: ResidualBlock, read: Reader) -> Iterator[None]:
    """Within it ``read`` sees, at every pass, what the matrices of block ``index`` read."""
    own = f"blocks.{index}."
    entered: list[Tensor] = []

    def watch(name: str, layer: nn.Module) -> Any:
        return layer.register_forward_pre_hook(
            lambda module, given: read(name, given[0].flatten(0, -2), None)
        )

    def routed(found: Any) -> None:
        choices = found.places.flatten().argsort()  # [rows]: which choice of which token
        rows = entered.pop()[choices // found.places.shape[1]]  # [rows, latent or hidden]
        for stack in block.block.stacks:
            mine = found.channels if stack.endswith("down_proj") else rows
            read(own + stack, mine, found.offsets)

    handles = [watch(f"{own}{name}.weight", layer) for name, layer in block.projections.items()]
    if block.block.stacks:
        handles += [block.watch("expert_inputs", entered.append), block.watch("routed", routed)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def _read_all(model: HybridLM, batches: Iterable[Tensor], read: Reader) -> None:
    missing = {
        f"blocks.{index}.{name}"
        for index, block in enumerate(model.architecture.blocks)
        for name in block.matrices
    }

    def noted(name: str, rows: Tensor, offsets: Tensor | None) -> None:
        missing.discard(name)
        read(name, rows, offsets)

    with ExitStack() as stack:
        for index, block in enumerate(model.blocks):
            stack.enter_context(watching(index, cast(ResidualBlock, block), noted))
        for tokens in batches:
            model.hidden_states(tokens)
    if missing:
        raise InternalError(f"nothing was seen of what {min(missing)} reads")
