"""The optimisers that can be named: our AdamW (``training.adamw``), and torchao's with moments in
8 bits, whose matrices may be BF16 and rounded stochastically; what of them a saved state holds.

Sources: arXiv:1711.05101 (AdamW), arXiv:2110.02861 (moments as codes of 8 bits with a scale a
block), arXiv:2010.06192 (stochastic rounding of BF16 weights); docs/decisions/lean-optimiser.md.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor

from minipuzzle.errors import UserError
from minipuzzle.identity import fingerprint
from minipuzzle.memory.optimizers import block_of, eight_bit, half
from minipuzzle.model import HybridLM
from minipuzzle.settings import Training
from minipuzzle.training.adamw import AdamW, local_part

MOMENTS = ("exp_avg", "exp_avg_sq")


def make_optimizer(model: HybridLM, settings: Training) -> torch.optim.Optimizer:
    """The AdamW that the settings name; the matrices that the architecture names decay, while
    norms, biases, filters, what a recurrence is made of and factors of adapters do not.

    Raises: UserError where torchao is wanted and not there.
    """
    matrices = model.architecture.matrices
    trainable = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups = [
        {
            "params": [p for name, p in trainable if name in matrices],
            "weight_decay": settings.weight_decay,
        },
        {"params": [p for name, p in trainable if name not in matrices], "weight_decay": 0.0},
    ]
    shared: dict[str, Any] = {"lr": settings.learning_rate, "betas": (0.9, 0.95), "eps": 1e-8}
    if not eight_bit(settings.optimizer):
        return AdamW(groups, fused=settings.offload, **shared)
    groups = [group for group in groups if group["params"]]
    made: torch.optim.Optimizer = _lean()(
        groups, **shared, bf16_stochastic_round=half(settings.optimizer)
    )
    made.defaults["seed"] = settings.seed
    return made


def narrow(model: HybridLM, settings: Training) -> None:
    """Hold the trained matrices in BF16, in which they are multiplied anyway, where the settings
    say so; the rest, with which FP32 is computed, stays as it is.
    """
    if not half(settings.optimizer):
        return
    for name, parameter in model.named_parameters():
        if name in model.architecture.matrices:
            parameter.data = parameter.data.to(torch.bfloat16)


def require_optimizer(settings: Training, world: int) -> None:
    """Raises: UserError where torchao is not installed, for BF16 matrices in several processes, and
    for moments in 8 bits on the CPU.
    """
    if not eight_bit(settings.optimizer):
        return
    if settings.offload:
        raise UserError(
            "Offloaded moments are FP32.",
            got=f"training.offload with training.optimizer {settings.optimizer}",
            allowed="training.optimizer adamw: no kernel steps on 8 bits on a CPU",
            next="Leave one of both out.",
        )
    if importlib.util.find_spec("torchao") is None:
        raise UserError(
            "torchao is not installed.",
            got=f"training.optimizer {settings.optimizer}",
            allowed="the package torchao, or training.optimizer adamw",
            next='pip install "minipuzzle[lean]", or leave the optimizer out.',
        )
    if half(settings.optimizer) and world > 1:
        raise UserError(
            "BF16 matrices are trained in one process.",
            got=f"training.optimizer {settings.optimizer}, {world} processes",
            allowed="adamw or adamw-8bit: FSDP2 wants one dtype of all trained weights",
            next="Take adamw-8bit: over several GPUs each holds a share of the FP32 weights.",
        )


def ready_step(
    optimizer: torch.optim.Optimizer, gradients: list[Tensor]
) -> Callable[[float], None]:
    """What takes a step at ``gradients``, which the optimiser's parameters have, times a scale.

    All that does not need the scale is done here, while a GPU may still compute the gradients; the
    step may change them.
    """
    if isinstance(optimizer, AdamW):
        return optimizer.ready()

    def step(scale: float) -> None:
        torch._foreach_mul_([local_part(g) for g in gradients], scale)
        optimizer.step()

    return step


def new_moments(optimizer: torch.optim.Optimizer, parameter: Tensor) -> dict[str, Tensor]:
    """Both moments of a parameter before its first step."""
    make = getattr(optimizer, "_new_buffer", None)
    if make is None:
        return {key: torch.zeros_like(parameter, requires_grad=False) for key in MOMENTS}
    return {
        key: make(parameter, signed) for key, signed in zip(MOMENTS, (True, False), strict=True)
    }


def moment_tensors(key: str, name: str, moment: Any) -> dict[str, Tensor]:
    """What a saved state holds of a parameter's moment, by name: of one in 8 bits its codes
    [rows, ...] uint8 and scales [rows, blocks] FP32, in shards as the parameter is.
    """
    local = moment.to_local() if hasattr(moment, "to_local") else moment
    if not hasattr(local, "codes"):
        return {f"{key}.{name}": moment}
    rows = local.codes.shape[0]
    found = {f"{key}.{name}": local.codes, f"{key}.scale.{name}": local.scale.view(rows, -1)}
    if local is moment:
        return found
    return {label: _as_rows(value, moment) for label, value in found.items()}


def _as_rows(local: Tensor, like: Any) -> Tensor:
    """This process's rows of a tensor that is sharded as ``like``."""
    from torch.distributed.tensor import DTensor

    shape = (like.shape[0], *local.shape[1:])
    made: Tensor = DTensor.from_local(
        local,
        like.device_mesh,
        like.placements,
        run_check=False,
        shape=torch.Size(shape),
        stride=local.stride(),
    )
    return made


@cache
def _lean() -> Any:
    """The class, made when it is first wanted: torchao takes seconds to import."""
    logging.getLogger("torchao").setLevel(logging.ERROR)  # of its kernels for other machines
    from torchao.optim import AdamW8bit
    from torchao.optim.subclass_8bit import OptimState8bit

    class Lean(AdamW8bit):
        """torchao's, with scales that never cross rows, FP32 moments of small tensors, rates as
        plain numbers, and random numbers that follow from the seed and the step: the same in every
        process that holds a copy, and after a resume.
        """

        def _new_buffer(self, p: Any, signed: bool) -> Tensor:
            local, block = p.to_local() if hasattr(p, "to_local") else p, block_of(p.shape)
            out = (
                OptimState8bit.zeros(local.shape, signed, block, local.device)
                if block and local.numel()
                else torch.zeros_like(local, dtype=torch.float32, requires_grad=False)
            )
            if local is not p:
                from torch.distributed.tensor import DTensor

                out = DTensor.from_local(
                    out,
                    p.device_mesh,
                    p.placements,
                    run_check=False,
                    shape=p.shape,
                    stride=p.stride(),
                )
            return out

        def step(self, closure: Any = None) -> Any:
            """As AdamW's. Compiled on a GPU; on a CPU one by one, where no compiler is asked
            for.
            """
            steps = [int(state["step"]) for state in self.state.values() if state]
            torch.manual_seed(
                int(fingerprint(self.defaults["seed"], max(steps, default=0)), 16) >> 1
            )
            device = self.param_groups[0]["params"][0].device
            rates = [group["lr"] for group in self.param_groups]
            for group in self.param_groups:
                group["lr"] = torch.tensor(float(group["lr"]))
            compiled = nullcontext() if device.type == "cuda" else eager()
            with compiled:
                done = super().step(closure)
            for group, rate in zip(self.param_groups, rates, strict=True):
                group["lr"] = rate
            return done

    return Lean


def eager() -> Any:
    """Meanwhile nothing is compiled."""
    return torch.compiler.set_stance("force_eager")
