"""The factors of an adapter as parameters on the model's root, added to frozen projections by
hooks.

A projection stays what it was (an nn.Linear, a kernel's module): its weights keep their canonical
names and are neither copied nor changed, and diag(v) B diag(u) A is never made. Once a forward,
before the first block, all layers of a group fold u into A and v into B ([r, d_in] and [d_out, r] a
layer, in the dtype of the products), so a layer adds one product of rank r and one that accumulates
onto W x. Tied tensors are registered once, on the root, which FSDP2 asks for.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from minipuzzle.adapters.plan import FACTORS, AdapterPlan, Group, Mask
from minipuzzle.errors import UserError
from minipuzzle.model import HybridLM
from minipuzzle.model.base import ResidualBlock


class GroupFactors(nn.Module):
    """A, B, u, v of a group: see ``Group.shapes``. FP32; only those that the mask trains require
    gradients.
    """

    A: Tensor
    B: Tensor
    u: Tensor | None
    v: Tensor | None

    def __init__(self, group: Group, mask: Mask, device: torch.device) -> None:
        super().__init__()
        self.scale = group.alpha / group.rank
        self.sites = group.sites
        shapes = group.shapes(mask)
        for factor in FACTORS:
            values = torch.zeros(shapes[factor], device=device) if factor in shapes else None
            trained = factor in mask.train
            self.register_parameter(
                factor, None if values is None else nn.Parameter(values, requires_grad=trained)
            )
        self.folded: list[tuple[Tensor, Tensor]] = []

    def fold(self, dtype: torch.dtype) -> None:
        """Make the pairs ((alpha/r) diag(u) A, diag(v) B) that the layers of this forward read.

        Those of the step before go first: they hold its autograd graph, whose gradient accumulators
        keep the stream they were made on, and a step captured on another one would fail.
        """
        self.folded = []
        a, b = self.A, self.B
        if self.u is not None:
            a = (self.u * self.scale)[..., None] * a
        elif self.scale != 1:
            a = a * self.scale
        if self.v is not None:
            b = self.v[..., None] * b
        self.folded = list(zip(self._each(a.to(dtype)), self._each(b.to(dtype)), strict=True))

    def _each(self, factor: Tensor) -> tuple[Tensor, ...]:
        """Of each site: [rows, columns], or of a stack [count, rows, columns]."""
        if not self.sites[0].stack:
            return factor.unbind(0) if factor.ndim == 3 else (factor,) * len(self.sites)
        counts = [site.stack for site in self.sites]
        if factor.ndim == 3:
            return factor.split(counts)
        return tuple(factor.expand(count, -1, -1) for count in counts)


class Adapters(nn.Module):
    """All groups of a plan, by name."""

    def __init__(self, plan: AdapterPlan, device: torch.device) -> None:
        super().__init__()
        self.plan = plan
        self.groups = nn.ModuleDict(
            {group.name: GroupFactors(group, plan.mask, device) for group in plan.groups}
        )
        self.handles: list[RemovableHandle] = []

    def tensors(self) -> dict[str, Tensor]:
        """ "group.factor" -> values, frozen ones included."""
        return {name.removeprefix("groups."): p.detach() for name, p in self.named_parameters()}

    def again(self, model: HybridLM) -> None:
        """Attach adapters of the same plan to a copy of the model, for the values of these."""
        attach(model, self.plan)

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take the values of ``tensors``. Raises: UserError where no training could start from them
        (``check_start``).
        """
        for name, parameter in self.named_parameters():
            parameter.copy_(tensors[name.removeprefix("groups.")])
        check_start(self.plan, self.tensors())


def attach(model: HybridLM, plan: AdapterPlan, *, seed: int = 0) -> Adapters:
    """Freeze ``model``, put a plan's adapters on its root as ``model.adapters``, initialised, and
    return them.

    The model computes the same as before until the adapters are trained. Raises: ValueError where
    it has some already.
    """
    if hasattr(model, "adapters"):
        raise ValueError("this model has adapters already")
    model.requires_grad_(False)
    modules = dict(model.named_modules())
    device = model.embeddings.weight.device
    adapters = Adapters(plan, device)
    model.adapters = adapters
    initialise(adapters, seed)
    handles = adapters.handles
    for group in plan.groups:
        factors: Any = adapters.groups[group.name]
        module, _, last = next(group.sites[0].weights())[0].rpartition(".")
        handles.append(
            model.embeddings.register_forward_pre_hook(
                partial(_fold, factors, modules[module], last)
            )
        )
        for layer, site in enumerate(group.sites):
            if site.stack:
                block = cast(ResidualBlock, model.blocks[site.block])
                pair = partial(_folded, factors, layer)
                handles.append(block.add_low_rank(site.projections[0], group.rank, pair))
                continue
            for name, rows in site.parts():
                whole = len(site.projections) == 1
                handles.append(
                    modules[name].register_forward_hook(
                        partial(_add, factors, layer, None if whole else rows)
                    )
                )
    return adapters


def detach(model: HybridLM) -> None:
    """Take the adapters off; the weights are as they were before ``attach``."""
    adapters: Any = model.adapters
    for handle in adapters.handles:
        handle.remove()
    del model.adapters


@torch.no_grad()
def initialise(adapters: Adapters, seed: int) -> None:
    """Start where Delta W is 0 and some factor has a gradient, the same for the same seed on every
    device.

    The factor that is 0: B where it is trained, else v, else A, else u. A is uniform within
    1/sqrt(d_in) (as LoRA's), a frozen B within sqrt(6/r) (as VeRA's in PEFT), the rest of u and v
    1.
    """
    generator = torch.Generator().manual_seed(seed)
    zero = next(factor for factor in ("B", "v", "A", "u") if factor in adapters.plan.mask.train)
    bounds = {"A": 1.0, "B": math.sqrt(6)}
    for name, parameter in adapters.named_parameters():
        factor = name.rsplit(".", 1)[1]
        if factor in bounds:
            bound = bounds[factor] / math.sqrt(parameter.shape[-1])
            parameter.copy_(
                torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator)
            )
        else:
            parameter.fill_(1.0)
        if factor == zero:
            parameter.zero_()


def check_start(plan: AdapterPlan, tensors: dict[str, Tensor]) -> None:
    """Raises: UserError where a layer's gradients are all 0 for good: two factors are 0, or a
    frozen one is.
    """
    for group in plan.groups:
        for layer in range(group.layers):
            zero = [
                f
                for f in ("A", "B", "u", "v")
                if (t := tensors.get(f"{group.name}.{f}")) is not None
                and not _of_layer(f, t, layer).any()
            ]
            if len(zero) > 1 or set(zero) - set(plan.mask.train):
                raise UserError(
                    f"The adapter of {group.name}, layer {layer}, can never learn.",
                    got=f"{' and '.join(zero)} all 0, trained: {', '.join(plan.mask.train)}",
                    allowed="at most one factor that is 0, and that one trained",
                    next="Start anew from a preset, or from a file whose factors are not 0.",
                )


def _of_layer(factor: str, tensor: Tensor, layer: int) -> Tensor:
    stacked = factor in ("u", "v") or tensor.ndim == 3
    return tensor[layer] if stacked else tensor


def _folded(factors: GroupFactors, site: int) -> tuple[Tensor, Tensor]:
    return factors.folded[site]


def _fold(factors: GroupFactors, of: Any, name: str, module: nn.Module, args: Any) -> None:
    device = factors.A.device.type
    factors.fold(
        torch.get_autocast_dtype(device)
        if torch.is_autocast_enabled(device)
        else getattr(of, name).dtype
    )


def _add(
    factors: GroupFactors,
    layer: int,
    rows: slice | None,
    module: nn.Module,
    args: tuple[Tensor, ...],
    y: Tensor,
) -> Tensor:
    a, b = factors.folded[layer]
    b = b if rows is None else b[rows]
    x = args[0].flatten(0, -2).to(a.dtype)
    return torch.addmm(y.flatten(0, -2), x @ a.t(), b.t()).view_as(y)
