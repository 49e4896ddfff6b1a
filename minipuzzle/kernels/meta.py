"""The fast kernels on "meta" tensors: they allocate what the real ones do and compute nothing.

``minipuzzle.model.footprint`` counts what a block holds with them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, empty_like
from torch.overrides import TorchFunctionMode

from minipuzzle.kernels.choose import Kernels
from minipuzzle.kernels.delta import CHUNK
from minipuzzle.kernels.experts import Call, Routed


class FlashAttentionMeta(TorchFunctionMode):
    """Attention as CPU and CUDA run it, without a matrix of scores; on meta PyTorch would take the
    form that has one.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            query = args[0]  # [b, heads, s, d]; CUDA's kernel writes [b, s, heads, d]
            return query.new_empty(
                *query.shape[:1], query.shape[2], query.shape[1], query.shape[3]
            ).transpose(1, 2)
        return func(*args, **(kwargs or {}))


def mamba_ssm_meta(reference: Kernels) -> Kernels:
    """Kernels that allocate what a GPU's forward does (ssd_combined.py, causal_conv1d, fla's
    gated_delta_rule, kernels.grouped) and compute nothing.
    """

    def causal_conv(
        x: Tensor, weight: Tensor, bias: Tensor | None, documents: Tensor | None
    ) -> Tensor:
        return empty_like(x)

    def scan(
        x: Tensor,
        dt: Tensor,
        a: Tensor,
        b: Tensor,
        c: Tensor,
        d: Tensor,
        *,
        chunk_size: int,
        **_: Any,
    ) -> Any:
        batch, length, heads, width = x.shape
        groups, size = b.shape[2:]
        chunks = -(-length // chunk_size)
        held = [
            dt.new_empty(2, batch, heads, chunks, chunk_size),  # dt and its decay, FP32
            dt.new_empty(batch, chunks, heads, width, size),  # states that chunks add
            c.new_empty(batch, chunks, heads, width, size),  # states that enter them
            dt.new_empty(batch, chunks, groups, chunk_size, chunk_size),  # C B^T
        ]
        out = x.new_empty(x.shape)
        del held
        return out, dt.new_empty(batch, heads, width, size)

    def gated_norm(
        y: Tensor, z: Tensor, weight: Tensor, groups: int, eps: float, kept: Tensor | None = None
    ) -> Tensor:
        if kept is not None:  # as kernels.cuda: the kernel has no masks
            masked: Tensor = reference.gated_norm(y, z, weight, groups, eps, kept)
            return masked
        y, z = y.contiguous(), z.contiguous()
        return empty_like(y)

    def causal_conv_step(x: Tensor, window: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return empty_like(x)

    def scan_step(
        x: Tensor, state: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor
    ) -> Tensor:
        return empty_like(x)

    return replace(
        reference,
        causal_conv=causal_conv,
        causal_conv_step=causal_conv_step,
        scan=scan,
        scan_step=scan_step,
        gated_norm=gated_norm,
        run_experts=_run_experts,
        delta_rule=_delta_rule,
        delta_step=_delta_step,
    )


def _delta_rule(
    q: Tensor, k: Tensor, v: Tensor, decay: Tensor, beta: Tensor, **_: Any
) -> tuple[Tensor, Tensor]:
    batch, length, heads, values = v.shape
    keys, chunks = k.shape[-1], -(-length // CHUNK)
    solved = v.new_empty(batch, length, heads, CHUNK), v.new_empty(batch, length, heads, keys)
    fresh, written = v.new_empty(v.shape), v.new_empty(v.shape)
    entering = v.new_empty(batch, chunks, heads, keys, values)
    state = v.new_empty(batch, heads, keys, values, dtype=torch.float32)
    del solved, fresh
    y = v.new_empty(v.shape)
    del entering, written
    return y, state


def _delta_step(
    q: Tensor, k: Tensor, v: Tensor, state: Tensor, decay: Tensor, beta: Tensor
) -> Tensor:
    return v.new_empty(v.shape)


def _run_experts(call: Call) -> Tensor:
    x, chosen = call.x, call.chosen
    order, count = call.order(), chosen.numel()
    held = [x.new_empty(count, x.shape[1]), x.new_empty(count, call.up.shape[1])]  # rows, projected
    del held[0]
    channels = x.new_empty(count, call.down.shape[2])
    held.clear()
    outputs = x.new_empty(count, x.shape[1])
    if call.watch is not None:
        call.watch(
            Routed(
                channels=channels,
                outputs=outputs,
                gates=call.weights.flatten()[order.order],
                experts=order.experts,
                offsets=order.offsets,
                places=order.inverse.view_as(chosen),
            )
        )
    del channels
    return empty_like(x)
