"""The gated delta rule through flash-linear-attention's kernels (fla-core). Imported only when they
are chosen.
"""

from __future__ import annotations

import torch
from fla.ops.gated_delta_rule import chunk_gated_delta_rule
from fla.ops.gated_delta_rule.fused_recurrent import fused_recurrent_gated_delta_rule_fwd_kernel
from torch import Tensor

from minipuzzle.kernels import delta
from minipuzzle.kernels import delta_backward as delta_backward  # registers itself with fla

STEP_COLUMNS = 16
"""Channels of values, columns of a state, that a program of ``delta_step`` updates: of 8, 16 and 32
the best or within 2 % of it at 1 and 8 rows, 11 % above 8 at 64 (docs/results/delta_net.md).
"""


def delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    decay: Tensor,
    beta: Tensor,
    *,
    documents: Tensor | None = None,
    initial_state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """As ``delta.delta_rule``, which runs what is in FP32: Triton multiplies that in TF32.

    fla compiles and tunes its kernels anew for each number of heads, a minute or two each, and a
    search tries dozens. Here each key group is a row of its own with its heads, which share nothing
    with the others: one tuning serves every number of groups.
    """
    if v.dtype == torch.float32:
        return delta.delta_rule(
            q, k, v, decay, beta, documents=documents, initial_state=initial_state
        )
    groups = k.shape[2]
    # [g b, s, 1 or h/g, ...]
    tensors = {"q": q, "k": k, "v": v, "g": decay.float(), "beta": beta}
    tensors = {name: delta.by_group(t, groups, 2) for name, t in tensors.items()}
    if initial_state is not None:
        initial_state = delta.by_group(initial_state, groups, 1)
    if documents is None:
        y, state = chunk_gated_delta_rule(
            **tensors, initial_state=initial_state, output_final_state=True
        )
    else:
        # documents one after another in a single row, each from a state of its own
        starts, first, last = document_starts(documents.repeat(groups, 1))
        states = None
        if initial_state is not None:
            states = initial_state.new_zeros(len(starts) - 1, *initial_state.shape[1:])
            states[first] = initial_state
        y, ends = chunk_gated_delta_rule(
            **{name: tensor.flatten(0, 1)[None] for name, tensor in tensors.items()},
            initial_state=states,
            output_final_state=True,
            cu_seqlens=starts,
        )
        y, state = y.view(tensors["v"].shape), ends[last]
    return delta.from_groups(y, groups, 2), delta.from_groups(state, groups, 1)


def document_starts(documents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of ``documents`` [b, s], whose rows lie one after another: (the first token of each and the
    end, int64; the first document of each row [b], and the last).
    """
    batch, length = documents.shape
    begins = torch.ones_like(documents, dtype=torch.bool)  # [b, s]
    begins[:, 1:] = documents[:, 1:] != documents[:, :-1]
    starts = begins.flatten().nonzero()[:, 0]
    counts = begins.sum(1).cumsum(0)  # [b]: documents up to the end of each row
    end = starts.new_tensor([batch * length])
    return torch.cat((starts, end)), counts - begins.sum(1), counts - 1


def delta_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: Tensor,
    decay: Tensor,
    beta: Tensor,
    *,
    columns: int = STEP_COLUMNS,
) -> Tensor:
    """As ``delta.delta_step``. fla's own call writes a new state, which would have to be copied.
    A program of its kernel writes what it alone has read, so that both may be one tensor: half the
    bytes.

    Raises: ValueError for a state that is not contiguous.
    """
    if not state.is_contiguous():
        raise ValueError(f"a recurrent state with the strides {state.stride()}")
    batch, heads, values = v.shape
    groups, keys = k.shape[1:]
    q, k, v, decay, beta = (t.contiguous() for t in (q, k, v, decay, beta))
    y = torch.empty_like(v)
    with torch.cuda.device_of(v):
        fused_recurrent_gated_delta_rule_fwd_kernel[(-(-values // columns) * batch * heads,)](
            q=q,
            k=k,
            v=v,
            g=decay,
            gk=None,
            gv=None,
            beta=beta,
            A_log=None,
            dt_bias=None,
            o=y,
            h0=state,
            ht=state,
            cu_seqlens=None,
            scale=keys**-0.5,
            T=1,
            H=groups,
            HV=heads,
            K=keys,
            V=values,
            BK=1 << (keys - 1).bit_length(),
            BV=columns,
            IS_BETA_HEADWISE=True,
            USE_QK_L2NORM_IN_KERNEL=False,
            APPLY_BETA_SIGMOID=False,
            ALLOW_NEG_EIGVAL=False,
            STATE_V_FIRST=False,
            num_warps=1,
            num_stages=3,
        )
    return y
