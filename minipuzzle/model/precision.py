"""What multiplies in FP8: linear layers of all blocks between the first and the last few, never the
head, nor experts (docs/decisions/fp8-and-experts.md).
"""

from __future__ import annotations

import importlib.util
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch

from minipuzzle.errors import UserError
from minipuzzle.kernels.fp8 import MULTIPLE, emulated_linear, engine_linear, plain_linear
from minipuzzle.model.base import ResidualBlock
from minipuzzle.model.hybrid import HybridLM


def mixed_precision(device: torch.device) -> AbstractContextManager[Any]:
    """BF16 products on CUDA, FP32 on a CPU (where BF16 is slower): the same for one GPU and for
    many.
    """
    return torch.autocast("cuda", dtype=torch.bfloat16) if device.type == "cuda" else nullcontext()


def set_precision(model: HybridLM, precision: str, bf16_ends: int) -> list[str]:
    """Let ``model`` multiply in "bf16", "fp8" or "fp8-emulated" from now on; the names of its FP8
    layers.

    ``bf16_ends`` blocks at either end stay in BF16 (arXiv:2504.03624 keeps 4). Parameters, their
    names and dtypes do not change. Raises: UserError where FP8 cannot run here, for weights of
    sizes that it cannot multiply, and where no block is left between the ends.
    """
    for path in model.fp8_layers:
        _set(model, path, "bf16")
    model.fp8_layers = []
    if precision == "bf16":
        return []
    if precision == "fp8":
        require_engine(model.device)
    inner = range(bf16_ends, len(model.blocks) - bf16_ends)
    blocks = {i: cast(ResidualBlock, model.blocks[i]) for i in inner}
    layers = [f"blocks.{i}.{name}" for i, block in blocks.items() for name in block.projections]
    if not layers:
        raise UserError(
            "No block would multiply in FP8.",
            got=f"{len(model.blocks)} blocks, of which {bf16_ends} at either end stay BF16",
            allowed=f"at most {(len(model.blocks) - 1) // 2} at either end",
            next="Lower training.bf16_ends.",
        )
    check_sizes({(i, f"{name}.weight"): b for i, b in blocks.items() for name in b.projections})
    try:
        for path in layers:
            model.fp8_layers.append(path)
            _set(model, path, precision)
    except BaseException:  # out of memory, Ctrl-C: all in FP8 or none
        set_precision(model, "bf16", 0)
        raise
    return model.fp8_layers


def _set(model: HybridLM, path: str, precision: str) -> None:
    """Let a linear layer multiply in a precision."""
    make = {"bf16": plain_linear, "fp8": engine_linear, "fp8-emulated": emulated_linear}
    make[precision](cast(Any, model.get_submodule(path)))


def check_sizes(matrices: dict[tuple[int, str], ResidualBlock]) -> None:
    """Raises: UserError where matrices of a model, by the number of their block and their name in
    it, have sizes that FP8 cannot multiply.
    """
    wrong, why = [], set()
    for (number, name), module in matrices.items():
        weight = module.block.weight(name)
        shape = weight.shape(module.block.sizes)
        # of a stack [count, d_out, d_in] not the count
        dims = [dim for dim in range(len(shape) - 2, len(shape)) if shape[dim] % MULTIPLE]
        if dims:
            wrong.append(f"blocks.{number}.{name} [{', '.join(f'{n:,}' for n in shape)}]")
        why |= {f"{name.removesuffix('.weight')}: {weight.notation(dim)}" for dim in dims}
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise UserError(
            "These weights cannot be multiplied in FP8.",
            got=", ".join(wrong[:3]) + more,
            allowed=f"sizes that are multiples of {MULTIPLE} ({'; '.join(sorted(why))})",
            next=f"Prune to multiples of {MULTIPLE}, or leave training.precision at bf16.",
        )


def require_engine(device: torch.device) -> None:
    """Raises: UserError where FP8 cannot run."""
    reason = ""
    if device.type != "cuda":
        reason = "no CUDA device"
    elif torch.cuda.get_device_capability(device) < (8, 9):
        reason = f"{torch.cuda.get_device_name(device)} does not multiply in FP8"
    elif importlib.util.find_spec("transformer_engine") is None:
        reason = "transformer-engine is not installed"
    if reason:
        raise UserError(
            "FP8 cannot run here.",
            got=reason,
            allowed=(
                "transformer-engine on a Hopper or newer GPU; "
                "training.precision fp8-emulated makes the same casts anywhere, slowly"
            ),
            next="pip install minipuzzle[gpu] on such a machine, or leave"
            " training.precision at bf16.",
        )
