"""Models in shards (FSDP2): what of them stays gathered."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch

from minipuzzle.model.hybrid import HybridLM


def in_shards(model: HybridLM) -> bool:
    """Whether each process has a part of its weights (``training.parallel.shard``)."""
    return hasattr(model, "reshard")


def reshard(model: HybridLM) -> None:
    """Give back what a forward pass without a backward pass leaves gathered of a model in shards:
    final norm and head, the embedding where it is the head, and all blocks after ``gather_once``.
    Until then they are other tensors than those that an optimiser is to hold. A whole model stays
    as it is.
    """
    for part in (model, *_parts(model)):
        if hasattr(part, "reshard"):
            part.reshard()


def gather_once(model: HybridLM, once: bool) -> None:
    """Let blocks and embedding of a model in shards stay gathered from their forward pass to their
    backward pass, or, as a model in shards does first, gather them for both (``model.gathered``
    says which).
    """
    model.gathered = once
    for part in _parts(model):
        if hasattr(part, "reshard"):
            part.set_reshard_after_forward(not once)


def gather_ahead(model: HybridLM) -> None:
    """Let the next forward pass of a model in shards on a GPU gather its first weights, which are
    complete by now, while the GPU has other work that it is given after this, such as a teacher's.
    """
    if in_shards(model) and model.device.type == "cuda":
        now = torch.cuda.current_stream(model.device).record_event()
        cast(Any, model).set_post_optim_event(now)


def _parts(model: HybridLM) -> Iterator[Any]:
    """Those that ``shard`` makes groups of: a tied embedding is the root's."""
    yield model.embeddings
    yield from model.blocks
