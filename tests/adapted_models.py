"""Tiny models with an adapter whose factors are all away from their start."""

import torch
from conftest import shaken, tiny

from minipuzzle.adapters import attach, make_plan
from minipuzzle.adapters.saved import SavedAdapter

MASKS = (
    "lora",
    "tl5",
    "tl6",
    "vera",
    "tied:A,u,v",
    "tied:B,u,v",
    "tied:B",
    "tied:A",
    "tied:u",
    "layer:A,B,u,v",
    "layer:B",
)


def adapted(mask, target="all", seed=0, rank=3, alpha=None):
    """A tiny model with an adapter whose factors are all away from their start."""
    model = shaken(tiny("M-M*-M*-", vocab=61))
    adapters = attach(
        model, make_plan(model.architecture, mask, rank=rank, target=target, alpha=alpha), seed=seed
    )
    shake(adapters)
    return model


@torch.no_grad()
def shake(adapters, scale=0.2):
    generator = torch.Generator().manual_seed(7)
    for parameter in adapters.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=generator) * scale)


def tokens_of(model, length=24):
    return torch.randint(
        0, model.architecture.vocab_size, (2, length), generator=torch.Generator().manual_seed(3)
    )


def saved_of(model, base=None):
    return SavedAdapter(plan=model.adapters.plan, tensors=model.adapters.tensors(), base=base)
