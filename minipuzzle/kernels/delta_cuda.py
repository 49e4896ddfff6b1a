"""The gated delta rule through flash-linear-attention's kernels (fla-core). Imported only when they
are chosen.
"""

from __future__ import annotations

import torch
from fla.ops.gated_delta_rule import chunk_gated_delta_rule, fused_recurrent_gated_delta_rule
from torch import Tensor

from minipuzzle.kernels import delta


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
    """As ``delta.delta_rule``, which runs what is in FP32: Triton multiplies that in TF32."""
    if v.dtype == torch.float32:
        return delta.delta_rule(
            q, k, v, decay, beta, documents=documents, initial_state=initial_state
        )
    tensors = {"q": q, "k": k, "v": v, "g": decay.float(), "beta": beta}
    if documents is None:
        y, state = chunk_gated_delta_rule(
            **tensors, initial_state=initial_state, output_final_state=True
        )
        return y, state
    # documents one after another in a single row, each from a state of its own
    starts, first, last = document_starts(documents)
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
    return y.view_as(v), ends[last]


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
    q: Tensor, k: Tensor, v: Tensor, state: Tensor, decay: Tensor, beta: Tensor
) -> Tensor:
    """As ``delta.delta_step``."""
    y, new = fused_recurrent_gated_delta_rule(
        q=q[:, None],
        k=k[:, None],
        v=v[:, None],
        g=decay.float()[:, None],
        beta=beta[:, None],
        initial_state=state.float(),
        output_final_state=True,
    )
    state.copy_(new)
    return y[:, 0]
