"""From scores to the channels and heads that a block keeps, best first within the groups that engines can run."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from minipuzzle.arch.architecture import Architecture
from minipuzzle.arch.blocks import Attention, FeedForward, Mamba2
from minipuzzle.artifacts import Scores
from minipuzzle.errors import UserError


def narrowed(parent: Architecture, scores: Scores, index: int, size: int | None) -> dict[str, tuple[int, ...]]:
    """What block ``index`` keeps at a size of its axis (FFN channels, Mamba heads, KV heads): nothing named when whole.

    KV heads go with their query heads (arXiv:2411.19146 narrows attention by KV group); a group's score is the L2 norm
    of its query heads' scores. Raises: UserError where the scores have none for query heads.
    """
    block = parent.blocks[index]
    if isinstance(block, FeedForward) and size is not None and size < block.intermediate:
        return {"intermediate": _top(scores.intermediate[index], size)}
    if isinstance(block, Mamba2) and size is not None and size < block.heads:
        return {"heads": top_heads(scores.head_channels[index], size, block.groups)}
    if isinstance(block, Attention) and size is not None and size < block.kv_heads:
        if index not in scores.q_heads:
            raise UserError(
                "The scores have none for attention heads.", got=f"an estimator without them in block {index}",
                allowed="scores with q_heads", next="Run minipuzzle score again, or leave KV heads whole.",
            )  # fmt: skip
        strength = np.sqrt(np.square(scores.q_heads[index].reshape(block.kv_heads, -1)).sum(axis=1))
        groups, each = _top(strength, size), block.q_heads // block.kv_heads
        return {"kv_heads": groups, "q_heads": tuple(g * each + k for g in groups for k in range(each))}
    return {}


def top_heads(channels: NDArray[np.float64], count: int, groups: int, width: int | None = None) -> tuple[int, ...]:
    """The ``count`` best Mamba heads, equally many in each group, ascending.

    A head's score is the L2 norm of its channel scores ([heads, head_dim]), over the ``width`` best channels when head
    channels are cut too. Source: arXiv:2504.11409, section 3.1 (f_h over D_top; ranked within each group).
    """
    if width is not None:
        channels = channels[:, list(top_channels(channels, width))]
    strength = np.sqrt(np.square(channels).sum(axis=1)).reshape(groups, -1)
    per_group = strength.shape[1]
    best = [g * per_group + h for g in range(groups) for h in _top(strength[g], count // groups)]
    return tuple(best)


def top_channels(channels: NDArray[np.float64], width: int) -> tuple[int, ...]:
    """The ``width`` best head channels, the same for all heads (s_d: L2 over heads), ascending."""
    return _top(np.sqrt(np.square(channels).sum(axis=0)), width)


def _top(values: NDArray[np.float64], count: int) -> tuple[int, ...]:
    order = np.argsort(-values, kind="stable")[:count]
    return tuple(int(i) for i in np.sort(order))

