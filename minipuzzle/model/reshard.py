"""Models in shards (FSDP2) that ran forward only."""

from __future__ import annotations

from collections.abc import Callable

from minipuzzle.model.hybrid import HybridLM


def reshard(model: HybridLM) -> None:
    """Give back what a forward pass without a backward pass leaves gathered of a model in shards:
    final norm and head, and the embedding where it is the head. Until then they are other tensors
    than those that an optimiser is to hold. A whole model stays as it is.
    """
    give_back: Callable[[], None] | None = getattr(model, "reshard", None)
    if give_back is not None:
        give_back()
