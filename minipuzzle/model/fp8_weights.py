"""Models without gradients whose blocks keep their matrices in FP8."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, cast

import torch
from torch import nn

from minipuzzle.arch import Architecture
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.errors import UserError
from minipuzzle.kernels import Kernels
from minipuzzle.kernels.grouped_fp8 import run_stored, stored_stack, why_not
from minipuzzle.kernels.stored_fp8 import StoredLinear
from minipuzzle.model.base import ResidualBlock, make_block
from minipuzzle.model.hybrid import HybridLM, default_dtype
from minipuzzle.model.load import INIT_STD
from minipuzzle.model.norm import RMSNorm
from minipuzzle.model.precision import check_sizes


@torch.no_grad()
def fp8_model(
    architecture: Architecture,
    checkpoint: Checkpoint | None,
    *,
    device: torch.device,
    dtype: torch.dtype,
    kernels: Kernels,
) -> HybridLM:
    """A model whose blocks' matrices are FP8 codes and all else is in ``dtype``; random weights
    without a checkpoint.

    Made block by block, so that one at most is ever held in ``dtype``. Raises: UserError for NaN or
    infinite weights, and for sizes that FP8 cannot multiply.
    """
    model = HybridLM(architecture, device="meta", dtype=dtype, kernels=kernels)
    for i, block in enumerate(architecture.blocks):
        with torch.device(device), default_dtype(dtype):
            made = make_block(block, architecture.norm_eps, kernels)
        _fill(made, checkpoint, f"blocks.{i}.")
        check_sizes({(i, name): made for name in block.matrices})
        for name, layer in made.projections.items():
            setattr(made, name, StoredLinear(layer))
        _store_stacks(made)
        model.blocks[i] = made
    for name, module in model.named_children():
        if name != "blocks":
            module.to_empty(device=device)
            around = module.neutral if isinstance(module, RMSNorm) else 0.0
            for parameter in module.parameters():
                parameter.normal_(around, INIT_STD)
            _fill(module, checkpoint, f"{name}.")
    return model.eval()


def keep_codes(model: HybridLM) -> HybridLM:
    """A frozen model whose layers that multiply in FP8 (``set_precision``) hold the codes of their
    weights alone, from now on and for good; those in shards stay as they are. The same model.
    """
    for path in model.fp8_layers:
        owner, _, name = path.rpartition(".")
        layer = cast(nn.Linear, model.get_submodule(path))
        if not hasattr(layer.weight, "to_local"):
            setattr(model.get_submodule(owner), name, StoredLinear(layer))
    left = dict(model.named_modules())
    model.fp8_layers = [p for p in model.fp8_layers if not isinstance(left[p], StoredLinear)]
    return model


def require_grouped(device: torch.device) -> None:
    """Raises: UserError where experts cannot run in FP8."""
    if reason := why_not(device):
        raise UserError(
            "Experts cannot multiply in FP8 here.",
            got=reason,
            allowed="PyTorch's grouped FP8 products on a Hopper GPU (compute capability 9.0) or one"
            " of 10.0",
            next="Leave bench.weights at auto.",
        )


def _store_stacks(module: ResidualBlock) -> None:
    """Let a block keep its stacks as codes; their scales are buffers beside them."""
    scales = []
    device = module.norm.weight.device
    if module.block.stacks and device.type == "cuda":  # elsewhere it is emulated
        require_grouped(device)
    for name in module.block.stacks:
        path, leaf = name.rsplit(".", 1)
        owner = module.get_submodule(path)
        codes, scale = stored_stack(owner.get_parameter(leaf))
        owner.register_parameter(leaf, nn.Parameter(codes, requires_grad=False))
        owner.register_buffer(f"{leaf}_scale", scale)
        scales.append(scale)
    if scales:
        owned = cast(Any, module)
        owned.kernels = replace(
            owned.kernels, run_experts=partial(run_stored, scales=(scales[0], scales[1]))
        )


def _fill(module: nn.Module, checkpoint: Checkpoint | None, prefix: str) -> None:
    if checkpoint is not None:
        for name, tensor in module.state_dict().items():
            checkpoint.read_into(f"{prefix}{name}", tensor)
