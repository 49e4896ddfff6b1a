"""Which heads and channels a narrower block keeps: the best by score, within the groups that couple
them. No torch.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def top(values: NDArray[np.float64], count: int) -> tuple[int, ...]:
    """The positions of the ``count`` largest values, ascending; of equal values the first ones."""
    order = np.argsort(-values, kind="stable")[:count]
    return tuple(np.sort(order).tolist())


def top_heads(
    channels: NDArray[np.float64], count: int, groups: int, width: int | None = None
) -> tuple[int, ...]:
    """The ``count`` best Mamba heads, equally many in each group, ascending.

    A head's score is the L2 norm of its channel scores ([heads, head_dim]), over the ``width`` best
    channels when head channels are cut too. Source: arXiv:2504.11409, section 3.1 (f_h over D_top;
    ranked within each group).
    """
    if width is not None:
        channels = channels[:, list(top_channels(channels, width))]
    strength = np.sqrt(np.square(channels).sum(axis=1)).reshape(groups, -1)
    per_group = strength.shape[1]
    best = [g * per_group + h for g in range(groups) for h in top(strength[g], count // groups)]
    return tuple(best)


def top_channels(channels: NDArray[np.float64], width: int) -> tuple[int, ...]:
    """The ``width`` best head channels, the same for all heads (s_d: L2 over heads), ascending."""
    return top(np.sqrt(np.square(channels).sum(axis=0)), width)


def top_kv_heads(
    q_heads: NDArray[np.float64], count: int, kv_heads: int
) -> dict[str, tuple[int, ...]]:
    """The ``count`` best KV heads with all their query heads: {"kv_heads": ..., "q_heads": ...},
    ascending.

    A KV head's score is the L2 norm over the scores of the query heads that read it (ours: as
    Mamba's heads over their channels, arXiv:2504.11409); ``q_heads`` [q_heads].
    """
    group = len(q_heads) // kv_heads
    kept = top(np.sqrt(np.square(q_heads).reshape(kv_heads, group).sum(axis=1)), count)
    return {"kv_heads": kept, "q_heads": tuple(k * group + h for k in kept for h in range(group))}
