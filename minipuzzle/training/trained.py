"""Which weights of a model are trained: all, norms or routers alone, or all but routers."""

from __future__ import annotations

from torch import Tensor, nn

from minipuzzle.arch import Architecture
from minipuzzle.errors import UserError
from minipuzzle.model import HybridLM
from minipuzzle.settings.training import Trained

NORM = "norm.weight"
"""How the names of norms' weights end: of a block, of queries and keys, of a gate, of the top."""


def choose_trained(model: HybridLM, which: Trained) -> None:
    """Let these weights of a model be trained, and no other.

    Raises: UserError where there are none.
    """
    names = trained_names(model.architecture, which)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in names)


def trained_names(architecture: Architecture, which: Trained) -> frozenset[str]:
    """Their names in a model. ``which`` is no "auto": a command says what that means.

    Raises: UserError for routers alone of a model without any.
    """
    names = {t.name for t in architecture.tensors()} - architecture.buffers
    routers = {
        f"blocks.{i}.{name}" for i, b in enumerate(architecture.blocks) for name in b.routers
    }
    if which == "routers" and not routers:
        raise UserError(
            "This model has no routers to train.",
            got="training.train routers",
            allowed="a mixture of experts, or all, all-but-routers or norms",
            next="Leave that setting out, or take norms.",
        )
    found = {
        "all": names,
        "all-but-routers": names - routers,
        "norms": {name for name in names if name.endswith(NORM)},
        "routers": routers,
    }
    return frozenset(found[which])


def trained_count(architecture: Architecture, which: Trained) -> int:
    """How many parameters these are. Raises: as ``trained_names``."""
    names = trained_names(architecture, which)
    return sum(t.weight.numel(t.sizes) for t in architecture.tensors() if t.name in names)


def trainable(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The named parameters that are trained: only they, and what the optimiser knows of them, are
    saved.
    """
    return [
        (name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad
    ]


def trained_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The trained parameters by their names in a state, without gradients, and the buffers, which
    training may change; those of an adapter's frozen base are left out.
    """
    found = {f"model.{name}": parameter.detach() for name, parameter in trainable(model)}
    if any(name.startswith("model.adapters.") for name in found):
        return found
    return found | {f"model.{name}": buffer for name, buffer in model.named_buffers()}
