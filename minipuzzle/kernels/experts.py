"""What routed experts compute, in plain PyTorch: sum over a token's choices of
weight * down_e(f(up_e x)), or down_e(silu(gate_e x) * up_e x) where they are gated.

Rows (a token and one of its choices) are sorted by expert, so that an expert's rows are one matrix.
Products with a stack of matrices are loops here, and this is the oracle of the faster ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from minipuzzle.kernels.pointwise import channels_of, compiled, compiles, product_dtype
from minipuzzle.shapes import Bool, Float, Int

COMPARED = 512
"""Rows that are put in order by comparing each with each, on CUDA."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """Rows, sorted by expert. Row i is token ``order[i] // k``'s choice ``order[i] % k``; choice j
    of token t is row ``inverse[t * k + j]``.

    ``chosen`` [n * k], as tokens have them; ``order`` [rows], ``inverse`` [n * k] int64;
    ``offsets`` [E + 1] int32: where each expert's rows begin, and the end. ``there`` [n, k] bool:
    the choices that have a row (the others' ``inverse`` is some row), None where all have.
    """

    chosen: Tensor
    order: Tensor
    inverse: Tensor
    offsets: Tensor
    there: Tensor | None = None

    @staticmethod
    def of(chosen: Int[Tensor, "n k"], count: int, rows: int | None = None) -> Order:
        """Of the choices among ``count`` experts; a token's rows keep their order. All but ``rows``
        of them are the number ``count``, and get none.
        """
        ids = chosen.flatten()
        few = len(ids) <= COMPARED and compiles(chosen)
        order, inverse, offsets = (compiled(_compared) if few else _sorted)(ids, count)
        there = None if rows is None else chosen < count
        if rows is not None:  # they come last
            order, inverse = order[:rows], inverse.clamp(max=rows - 1)
        return Order(chosen=ids, order=order, inverse=inverse, offsets=offsets, there=there)

    @property
    def experts(self) -> Tensor:
        """Each row's expert [rows], ascending."""
        return self.chosen[self.order]


def _sorted(ids: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """(order, inverse, offsets) of ``Order``."""
    # a GPU sorts the fewer bits the faster
    experts, order = ids.to(torch.int16).sort(stable=True)
    places = torch.arange(len(order), device=ids.device)
    bounds = torch.arange(count + 1, dtype=torch.int16, device=ids.device)
    inverse = torch.empty_like(order).scatter_(0, order, places)
    return order, inverse, torch.searchsorted(experts, bounds, out_int32=True)


def _compared(ids: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """As ``_sorted``, each row compared with each: three kernels instead of a dozen, which is what
    a decode step's time is made of.
    """
    places, bounds = (torch.arange(n, device=ids.device) for n in (len(ids), count + 1))
    own, other, at = ids[:, None], ids[None], places[:, None]  # [rows, 1], [1, rows], [rows, 1]
    inverse = ((other < own) | ((other == own) & (places < at))).sum(1)
    order = ((inverse == at) * places).sum(1)
    return order, inverse, (other < bounds[:, None]).sum(1, dtype=torch.int32)


Product = Callable[[Tensor, Tensor, Order], Tensor]
"""(rows [rows, in], stack [E, out, in], order) -> [rows, out]: each expert's rows times its
transposed matrix.
"""


@dataclass(frozen=True)
class Call:
    """What experts are asked to compute, on ``x`` [n, d]: ``up`` [E, r, d] and ``down`` [E, d, I]
    are their matrices, ``chosen`` [n, k] int64 each token's experts, ``weights`` [n, k] its gates.

    ``activation`` is "relu2" or "silu". r = I, or 2 I where ``gated``: gate rows, then up rows.
    ``kept`` [E, I] bool: the channels of each expert that its down matrix still reads. ``watch`` is
    called with the rows; gradients flow through what it sees. ``rows``: how many choices there are,
    where the others are the number E and weigh 0.
    """

    x: Float[Tensor, "n d"]
    up: Float[Tensor, "e r d"]
    down: Float[Tensor, "e d i"]
    weights: Float[Tensor, "n k"]
    chosen: Int[Tensor, "n k"]
    activation: str
    gated: bool
    kept: Bool[Tensor, "e i"] | None = None
    watch: Callable[[Routed], None] | None = None
    rows: int | None = None

    def to(self, dtype: torch.dtype) -> Call:
        """The same with input and matrices in a dtype."""
        return replace(self, x=self.x.to(dtype), up=self.up.to(dtype), down=self.down.to(dtype))

    def order(self) -> Order:
        """Its rows by expert."""
        return Order.of(self.chosen, len(self.up), self.rows)


@dataclass(frozen=True, kw_only=True)
class Routed:
    """What scoring reads of experts: rows sorted by expert.

    ``channels`` [rows, I], what the down matrices read; ``outputs`` [rows, d] before they are
    weighted; ``gates`` [rows], the weights; ``experts`` [rows] int64, ascending; ``offsets``
    [E + 1] int32: where each expert's rows begin, and the end; ``places`` [n, k] int64: the row of
    each choice of a token.
    """

    channels: Tensor
    outputs: Tensor
    gates: Tensor
    experts: Tensor
    offsets: Tensor
    places: Tensor


def looped(rows: Tensor, stack: Tensor, order: Order) -> Tensor:
    """A ``Product``, one expert after another, in any dtype. Waits for the device."""
    if rows.is_meta:  # no sizes there; what is allocated are the pieces and their concatenation
        return torch.empty_like(rows.new_empty(len(rows), stack.shape[1]))
    sizes = order.offsets.diff().tolist()
    pieces = zip(rows.split(sizes), stack.unbind(), strict=True)
    # one expert at least: nothing else says that no rows have a gradient
    products = [F.linear(part, matrix) for part, matrix in pieces if len(part)]
    return torch.cat(products) if products else rows.new_empty(0, stack.shape[1])


def run_experts(call: Call, *, product: Product = looped) -> Float[Tensor, "n d"]:
    """Sum over choices [n, d] in x's dtype, or that of autocast on CUDA; added up in the wider of
    it and the weights' dtype.
    """
    call = call.to(product_dtype(call.x))
    order, chosen, weights = call.order(), call.chosen, call.weights
    rows = call.x[order.order // chosen.shape[1]]  # [rows, d]
    projected = product(rows, call.up, order)  # [rows, r]
    channels = channels_of(call.activation, call.gated)(projected)  # [rows, I]
    if call.kept is not None:
        channels = channels * call.kept[order.experts]
    outputs = product(channels, call.down, order)  # [rows, d]
    if call.watch is not None:
        call.watch(
            Routed(
                channels=channels,
                outputs=outputs,
                gates=weights.flatten()[order.order],
                experts=order.experts,
                offsets=order.offsets,
                places=order.inverse.view_as(chosen),
            )
        )
    # each token's own rows are added up: the same sum every time, which index_add_'s is not
    own = outputs[order.inverse.view_as(chosen)]  # [n, k, d]
    return (own * weights[..., None]).sum(1).to(call.x.dtype)
