"""The same operations through mamba-ssm's and causal-conv1d's kernels. Imported only when they are
chosen.
"""

from __future__ import annotations

import torch
from causal_conv1d import causal_conv1d_fn, causal_conv1d_update
from mamba_ssm.ops.triton.layernorm_gated import rmsnorm_fn
from mamba_ssm.ops.triton.selective_state_update import selective_state_update
from mamba_ssm.ops.triton.ssd_combined import (
    mamba_chunk_scan_combined,
    mamba_split_conv1d_scan_combined,
)
from torch import Tensor

from minipuzzle.kernels import reference

# causal-conv1d's channel-last layout: strides and channels must be multiples of this.
CHANNEL_MULTIPLE = 8


def causal_conv(x: Tensor, weight: Tensor, bias: Tensor | None, documents: Tensor | None) -> Tensor:
    """As ``reference.causal_conv``."""
    channels = x.shape[2]
    # Channels of zeros up to a multiple: 0 * weight is 0, and they are cut off at the end.
    extra = -channels % CHANNEL_MULTIPLE
    if extra:
        x = torch.nn.functional.pad(x, (0, extra))
        weight = torch.nn.functional.pad(weight, (0, 0, 0, extra))
        bias = None if bias is None else torch.nn.functional.pad(bias, (0, extra))
    # A slice of a packed projection has that projection's strides.
    if any(stride % CHANNEL_MULTIPLE for stride in x.stride()[:2]) or x.stride(2) != 1:
        x = x.contiguous()
    ids = None if documents is None else documents.to(torch.int32).contiguous()
    y = causal_conv1d_fn(
        x.transpose(1, 2),  # [b, c, s], channels last in memory
        weight.to(x.dtype),
        None if bias is None else bias.to(x.dtype),
        seq_idx=ids,
        activation="silu",
    ).transpose(1, 2)
    return y[..., :channels] if extra else y


def causal_conv_step(x: Tensor, window: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """As ``reference.causal_conv_step``, in the window's dtype: the kernel wants one for both."""
    dtype = window.dtype
    bias = None if bias is None else bias.to(dtype)
    return causal_conv1d_update(
        x.to(dtype).contiguous(), window, weight.to(dtype), bias, activation="silu"
    ).to(x.dtype)


def scan(
    x: Tensor,
    dt: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    d: Tensor,
    *,
    chunk_size: int,
    documents: Tensor | None = None,
    initial_state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """As ``reference.scan``."""
    ids = None if documents is None else documents.to(torch.int32).contiguous()
    y, state = mamba_chunk_scan_combined(
        x,
        dt,
        a.float(),
        b,
        c,
        chunk_size=chunk_size,
        D=d.float(),
        seq_idx=ids,
        initial_states=initial_state,
        return_final_states=True,
    )
    return y, state


def scan_step(
    x: Tensor, state: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor
) -> Tensor:
    """As ``reference.scan_step``."""
    heads, width, size = state.shape[1:]
    return selective_state_update(
        state,
        x,
        dt[..., None].expand(-1, -1, width),
        a.float()[:, None, None].expand(heads, width, size),
        b,
        c,
        d.float()[:, None].expand(heads, width),
        dt_bias=torch.zeros_like(a)[:, None].expand(heads, width),
    )


def gated_norm(
    y: Tensor, z: Tensor, weight: Tensor, groups: int, eps: float, kept: Tensor | None = None
) -> Tensor:
    """As ``reference.gated_norm``; masks run there, since the kernel has none."""
    if kept is not None:
        return reference.gated_norm(y, z, weight, groups, eps, kept)
    return rmsnorm_fn(
        y.contiguous(),
        weight,
        None,
        z=z.contiguous(),
        eps=eps,
        group_size=y.shape[-1] // groups,
        norm_before_gate=False,
    )


def mix(
    projected: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor | None,
    dt_bias: Tensor,
    a_log: Tensor,
    d: Tensor,
    norm_weight: Tensor,
    *,
    head_dim: int,
    groups: int,
    chunk_size: int,
    eps: float,
    documents: Tensor | None,
) -> Tensor:
    """in_proj's output [b, s, z|x|B|C|dt] -> what out_proj gets [b, s, heads * head_dim].

    Only ``projected`` and the scan's output are kept for the backward pass; the convolution and the
    states are made again. The sizes of projection and convolution must be multiples of
    CHANNEL_MULTIPLE.
    """
    ids = None if documents is None else documents.to(torch.int32).contiguous()
    # The states' parameters in FP32, as the scan sums; what is multiplied in the stream's dtype.
    return mamba_split_conv1d_scan_combined(
        projected,
        conv_weight.to(projected.dtype),
        None if conv_bias is None else conv_bias.to(projected.dtype),
        dt_bias.float(),
        -a_log.float().exp(),
        d.float(),
        chunk_size,
        seq_idx=ids,
        rmsnorm_weight=norm_weight,
        rmsnorm_eps=eps,
        headdim=head_dim,
        ngroups=groups,
        norm_before_gate=False,
    )
