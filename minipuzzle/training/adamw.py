"""Our AdamW: clipping, and BF16 copies of weights, are part of its one pass over what it trains."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from minipuzzle.kernels.adamw import Betas, Stepped, plain_adamw
from minipuzzle.model import HybridLM
from minipuzzle.training.stages import Stage

Copies = dict[torch.nn.Parameter, Tensor]
"""Of parameters, what stands for them in forward and backward passes."""


class AdamW(torch.optim.Optimizer):
    """Steps as torch.optim.AdamW does; where tensors are in shards, on this process's.

    ``copies`` are written wherever their parameters are. ``fused`` takes PyTorch's one pass over
    tensors on a CPU, whose last bits differ from those of the plain step.
    """

    def __init__(self, groups: list[dict[str, Any]], *, fused: bool = False, **shared: Any) -> None:
        super().__init__(groups, shared)
        self.copies: Copies = {}
        self.fused = fused

    def step(self, closure: Any = None, scale: float = 1.0) -> Any:
        """A step at gradients times ``scale``, which may be changed by it; no ``closure``."""
        self.ready()(scale)

    @torch.no_grad()
    def ready(self) -> Callable[[float], None]:
        """What takes a step at the parameters' gradients, as they are when it is called, times a
        scale. On a GPU a kernel for each group's tensors of a kind.
        """
        steps = [self._ready(group) for group in self.param_groups]

        def step(scale: float) -> None:
            for each in steps:
                each(scale)

        return step

    def _ready(self, group: dict[str, Any]) -> Callable[[float], None]:
        parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
        if self.fused:
            return partial(self._step_fused, parameters, group)
        tensors = [self._stepped(parameter, group) for parameter in parameters]
        counts = [self.state[parameter]["step"] for parameter in parameters]
        first, second = group["betas"]
        betas = Betas(first=first, second=second, eps=group["eps"])
        if any(t.weight.is_cuda for t in tensors):
            from minipuzzle.kernels.adamw_cuda import prepared

            run = prepared(tensors, betas)
        else:
            run = partial(plain_adamw, tensors, betas=betas)

        def step(scale: float) -> None:
            run(scale)
            for count in counts:
                count += 1

        return step

    @torch.no_grad()
    def _step_fused(
        self, parameters: list[torch.nn.Parameter], group: dict[str, Any], scale: float
    ) -> None:
        held = [self._held(parameter) for parameter in parameters]
        beta1, beta2 = group["betas"]
        adamw(
            [local_part(parameter.detach()) for parameter in parameters],
            [local_part(parameter.grad) for parameter in parameters],
            [local_part(each["exp_avg"]) for each in held],
            [local_part(each["exp_avg_sq"]) for each in held],
            [],
            [each["step"] for each in held],
            fused=True,
            grad_scale=torch.tensor(1 / scale),  # what gradients are divided by
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )

    def _held(self, parameter: torch.nn.Parameter) -> dict[str, Tensor]:
        held: dict[str, Tensor] = self.state[parameter]
        if not held:
            held["step"] = torch.tensor(0.0)
            held |= {k: torch.zeros_like(parameter) for k in ("exp_avg", "exp_avg_sq")}
        return held

    def _stepped(self, parameter: torch.nn.Parameter, group: dict[str, Any]) -> Stepped:
        held = self._held(parameter)
        step, (beta1, beta2), rate = held["step"].item() + 1, group["betas"], group["lr"]
        return Stepped(
            weight=local_part(parameter.detach()),
            gradient=local_part(parameter.grad),
            first=local_part(held["exp_avg"]),
            second=local_part(held["exp_avg_sq"]),
            copy=self.copies.get(parameter),
            keep=1 - rate * group["weight_decay"],
            rate=rate / (1 - beta1**step),
            root=math.sqrt(1 - beta2**step),
        )


def keep_copies(
    model: HybridLM, optimizer: torch.optim.Optimizer, stages: Sequence[Stage]
) -> Copies:
    """Where the optimiser is ours, and not ``fused``: BF16 copies of the trained FP32 matrices of a
    model's blocks, in which a GPU multiplies them anyway. ``optimizer`` writes them from now on,
    and their gradients are BF16, as products give them; FP32 where ``stages`` sum micro-batches.

    Neither of the embedding, whose few rows of a batch are cast, nor of the head: the loss makes
    its gradient in FP32.
    """
    if not isinstance(optimizer, AdamW) or optimizer.fused:
        return {}
    matrices = model.architecture.matrices
    optimizer.copies = {
        parameter: parameter.detach().bfloat16()
        for name, parameter in model.named_parameters()
        if name.startswith("blocks.")
        and name in matrices
        and parameter.requires_grad
        and parameter.dtype == torch.float32
    }
    sums = any(0 < s.settings.micro_batch < s.settings.batch for s in stages)
    for parameter in optimizer.copies:
        parameter.grad_dtype = torch.float32 if sums else torch.bfloat16
    return optimizer.copies


def local_part(value: Any) -> Tensor:
    """Of a tensor that is in shards what this process has; another is itself."""
    found: Tensor = value.to_local() if hasattr(value, "to_local") else value
    return found
