"""Routed experts with one product for all of them, and a backward pass that keeps little.

``torch.nn.functional.grouped_mm`` multiplies every expert's rows with its matrix in one kernel,
reads no matrix that has no rows, and never waits for the device: this runs inside a CUDA graph.
Between the products each step is one compiled kernel on CUDA. Kept for the backward pass are what
experts read, once a token, and the projected rows: [n, d] and [rows, r].
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from minipuzzle.kernels import experts
from minipuzzle.kernels.experts import Call, Order, Routed, looped
from minipuzzle.kernels.pointwise import compiled, compiles, product_dtype
from minipuzzle.shapes import Float

ALIGNMENT = 16
"""Bytes: rows of matrices begin at multiples of it, or grouped_mm refuses them."""
GATHERED = 32
"""Rows at once where matrices are copied row by row: a bound of their memory."""


Multiply = Callable[[Tensor, Tensor, Order, bool], Tensor]
"""(rows, stack [E, out, in], order, back) -> each expert's rows [rows, in] times its transposed
matrix [rows, out]; going back rows [rows, out] times its matrix [rows, in].
"""


def why_never(device: torch.device) -> str:
    """Why a device has no grouped product in any dtype; "" where it has one."""
    if not hasattr(F, "grouped_mm"):
        return f"torch {torch.__version__} has no grouped_mm"
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0):
        return f"{torch.cuda.get_device_name(device)} has no grouped products"
    return "" if device.type in ("cuda", "cpu", "meta") else f"no grouped products on {device.type}"


def fits(device: torch.device, dtype: torch.dtype, *sizes: int) -> bool:
    """Whether ``grouped_mm`` multiplies matrices of these sizes without waiting for the device."""
    takes = (torch.bfloat16,) if device.type == "cuda" else (torch.bfloat16, torch.float32)
    return (
        not why_never(device)
        and dtype in takes
        and not any(size * dtype.itemsize % ALIGNMENT for size in sizes)
    )


def run_experts(call: Call) -> Float[Tensor, "n d"]:
    """As ``experts.run_experts``, on CUDA in the dtype of autocast; added up in FP32.

    Dtypes and sizes that ``grouped_mm`` does not take run there: in a loop, and on CUDA few rows,
    or any in a CUDA graph, with copies of the matrices.
    """
    x, dtype = call.x, product_dtype(call.x)
    if not fits(x.device, dtype, x.shape[1], call.up.shape[1], call.down.shape[2]):
        copies = x.is_cuda and (
            call.chosen.numel() <= len(call.up) or torch.cuda.is_current_stream_capturing()
        )
        return experts.run_experts(call, product=gathered if copies else looped)
    call = call.to(dtype)
    with torch.autocast("cuda", enabled=False) if x.is_cuda else nullcontext():
        if not torch.is_grad_enabled():
            form = Form.of(call, _multiply)
            return forward(call.x, call.up, call.down, call.weights, form, call.watch)
        if call.watch is not None:  # gradients flow through what it sees
            return experts.run_experts(call, product=grouped)
        form = Form.of(call, _multiply)
        result: Tensor = _Experts.apply(call.x, call.up, call.down, call.weights, form)
        return result


def grouped(rows: Tensor, stack: Tensor, order: Order) -> Tensor:
    """A ``Product``, in one kernel."""
    return _multiply(rows, stack, order, False)


def gathered(rows: Tensor, stack: Tensor, order: Order) -> Tensor:
    """A ``Product`` in any dtype that copies a matrix for each row and does not wait for the
    device: for few rows.
    """
    pieces = zip(rows.split(GATHERED), order.experts.split(GATHERED), strict=True)
    return torch.cat([torch.bmm(stack[e], part[:, :, None])[:, :, 0] for part, e in pieces])


def _multiply(rows: Tensor, stack: Tensor, order: Order, back: bool) -> Tensor:
    """A ``Multiply`` in the stack's dtype."""
    return _product(rows, stack if back else stack.transpose(-2, -1), order)


def _product(a: Tensor, b: Tensor, order: Order) -> Tensor:
    """a [rows, in] times each expert's b [E, in, out] -> [rows, out]; or a [out, rows] times
    b [rows, in], of each expert's rows alone -> [E, out, in].
    """
    if a.is_meta:  # it refuses FP32 there
        return a.new_empty(*(() if b.ndim == 3 else (len(order.offsets) - 1,)), len(a), b.shape[-1])
    result = F.grouped_mm(a, b, offs=order.offsets[1:])
    if b.ndim == 2 and a.is_cuda and torch.cuda.get_device_capability(a.device)[0] > 9:
        # Blackwell's kernel leaves what was in memory for experts without rows (pytorch#172439)
        result.masked_fill_((order.offsets.diff() == 0)[:, None, None], 0)
    return result


class Form(NamedTuple):
    """What is no tensor with a gradient."""

    multiply: Multiply
    order: Order
    activation: str
    gated: bool
    kept: Tensor | None

    @staticmethod
    def of(call: Call, multiply: Multiply) -> Form:
        """A call's, with the products of its stacks."""
        return Form(multiply, call.order(), call.activation, call.gated, call.kept)

    @property
    def ids(self) -> Tensor | None:
        """The rows' experts, where a mask asks for them."""
        return None if self.kept is None else self.order.experts


def forward(
    x: Tensor,
    up: Tensor,
    down: Tensor,
    weights: Tensor,
    form: Form,
    watch: Callable[[Routed], None] | None = None,
    keep: Callable[[Tensor], None] | None = None,
) -> Tensor:
    """The sums [n, d], without gradients; ``keep`` gets the projected rows [rows, r], which else
    end early.
    """
    order, multiply = form.order, form.multiply
    projected = multiply(_rows(x, order, weights), up, order, False)
    if keep is not None:
        keep(projected)
    channels = _fused(_channels, projected)(projected, form.ids, *form[2:])  # [rows, I]
    del projected
    outputs = multiply(channels, down, order, False)  # [rows, d]
    if watch is not None:
        watch(
            Routed(
                channels=channels,
                outputs=outputs,
                gates=weights.flatten()[order.order],
                experts=order.experts,
                offsets=order.offsets,
                places=order.inverse.view(weights.shape),
            )
        )
    del channels
    result: Tensor = _fused(_sums, outputs)(outputs, order.inverse.view(weights.shape), weights)
    return result


class _Experts(torch.autograd.Function):
    """Rows are weighted after the down product, in FP32. Backward, a weight's gradient is
    (down^T g) . channels, so that no outputs have to be kept; channels are made again.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, up: Tensor, down: Tensor, weights: Tensor, form: Form
    ) -> Tensor:
        kept: list[Tensor] = []
        result = forward(x, up, down, weights, form, keep=kept.append)
        ctx.save_for_backward(x, up, down, weights, *kept)
        ctx.form = form
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, up, down, weights, projected = ctx.saved_tensors
        form: Form = ctx.form
        order, multiply = form.order, form.multiply
        need_x, need_up, need_down, need_weights = ctx.needs_input_grad[:4]
        places = order.inverse.view(weights.shape)
        g = _rows(grads[0], order, weights)  # [rows, d], of weighted outputs
        by_channel = multiply(g, down, order, True)  # [rows, I], of weighted channels
        # gradients of weights [rows] and projected rows [rows, r]; weighted channels [rows, I]
        d_weights, d_projected, channels = _fused(_channels_backward, projected)(
            projected, by_channel, weights.flatten()[order.order], form.ids, *form[2:]
        )
        del by_channel
        d_x = d_up = d_down = None
        if need_down:
            d_down = _product(g.t(), channels, order)  # [E, d, I]
        del g, channels
        if need_up:
            d_up = _product(d_projected.t(), _rows(x, order, weights), order)  # [E, r, d]
        if need_x:
            d_rows = multiply(d_projected, up, order, True)  # [rows, d]
            d_x = _fused(_sums, d_rows)(d_rows, places, order.there)
        d_weights = d_weights[places].to(weights.dtype) if need_weights else None
        return d_x, d_up, d_down, d_weights, None


def _fused(function: Callable[..., Any], rows: Tensor) -> Callable[..., Any]:
    return compiled(function) if compiles(rows) else function


def _rows(x: Tensor, order: Order, weights: Tensor) -> Tensor:
    """What each row's token has in x [n, d]: [rows, d]."""
    result: Tensor = _fused(_gather, x)(x, order.order, weights.shape[1])
    return result


def _gather(x: Tensor, places: Tensor, choices: int) -> Tensor:
    return x[places // choices]


def _channels(
    projected: Tensor, ids: Tensor | None, activation: str, gated: bool, kept: Tensor | None
) -> Tensor:
    """The channels [rows, I] of projected rows [rows, r]."""
    first, up = projected.chunk(2, -1) if gated else (projected, None)
    if activation == "relu2":
        first = first.relu()
        value = first * first
    else:
        value = F.silu(first)
    channels = value if up is None else value * up
    return channels if kept is None else channels * kept[ids]


def _sums(outputs: Tensor, places: Tensor, weights: Tensor | None) -> Tensor:
    """Each token's rows [n, k] of ``outputs`` [rows, d], weighted: their sum in FP32 [n, d]."""
    own = outputs[places].float()  # [n, k, d]
    return (own if weights is None else own * weights[..., None]).sum(1).to(outputs.dtype)


def _channels_backward(
    projected: Tensor,
    by_channel: Tensor,
    weights: Tensor,
    ids: Tensor | None,
    activation: str,
    gated: bool,
    kept: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """(gradients of the weights [rows] FP32 and of ``projected`` [rows, r], weighted channels
    [rows, I]); ``by_channel`` [rows, I] is the gradient of weighted channels.
    """
    first, up = projected.float().chunk(2, -1) if gated else (projected.float(), None)
    if activation == "relu2":
        positive = first.relu()
        value, slope = positive * positive, 2 * positive
    else:
        sigmoid = first.sigmoid()
        value, slope = first * sigmoid, sigmoid * (1 + first * (1 - sigmoid))
    g, channels = by_channel.float(), value if up is None else value * up
    if kept is not None:
        g, channels = g * kept[ids], channels * kept[ids]
    d_weights, weights = (g * channels).sum(-1), weights.float()[:, None]
    g = g * weights
    d_projected = g * slope if up is None else torch.cat((g * up * slope, g * value), -1)
    return d_weights, d_projected.to(projected.dtype), (channels * weights).to(projected.dtype)
