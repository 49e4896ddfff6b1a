"""Models from checkpoints and from nothing."""

from __future__ import annotations

import math
from typing import cast

import torch

from minipuzzle.arch import Architecture
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.kernels import Kernels, choose
from minipuzzle.model.base import ResidualBlock
from minipuzzle.model.hybrid import HybridLM

INIT_STD = 0.02


@torch.no_grad()
def load_model(
    checkpoint: Checkpoint,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    kernels: Kernels | None = None,
) -> HybridLM:
    """The checkpoint's model, its tensors read one at a time. Raises: UserError for NaN or infinite
    weights.
    """
    kernels = kernels or choose(torch.device(device))
    made = HybridLM(checkpoint.architecture, device="meta", dtype=dtype, kernels=kernels)
    return _filled(made, checkpoint, device)


@torch.no_grad()
def load_frozen(
    checkpoint: Checkpoint, *, device: torch.device, kernels: Kernels | None = None
) -> HybridLM:
    """The checkpoint's model without gradients. On CUDA its matrices, the embedding included, are
    BF16, in which they are multiplied under autocast anyway; the rest, with which FP32 is computed,
    is FP32. On a CPU all is FP32.

    Raises: UserError for NaN or infinite weights.
    """
    made = frozen_model(checkpoint.architecture, device, kernels=kernels, where="meta")
    return _filled(made, checkpoint, device)


def _filled(model: HybridLM, checkpoint: Checkpoint, device: torch.device | str) -> HybridLM:
    """``model``, made on "meta" (so nothing is drawn in vain), with the checkpoint's weights."""
    model.to_empty(device=device)
    for name, tensor in model.state_dict().items():
        checkpoint.read_into(name, tensor)
    return model


def frozen_dtype(device: torch.device) -> torch.dtype:
    """That of the matrices of a model without gradients; the rest is FP32."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def frozen_model(
    architecture: Architecture,
    device: torch.device,
    *,
    kernels: Kernels | None = None,
    where: str = "",
) -> HybridLM:
    """A model as ``load_frozen`` makes it, without weights; ``where`` "meta" without memory, to be
    put on ``device``.
    """
    model = HybridLM(
        architecture,
        device=where or device,
        dtype=frozen_dtype(device),
        kernels=kernels or choose(device),
    )
    matrices = architecture.matrices
    for name, parameter in model.named_parameters():
        if name not in matrices:
            parameter.data = parameter.data.float()
    return model.requires_grad_(False).eval()


@torch.no_grad()
def init_model(
    architecture: Architecture,
    seed: int,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    kernels: Kernels | None = None,
) -> HybridLM:
    """A model with fresh weights, the same for the same seed on every device.

    Matrices normal of std 0.02, output projections divided by sqrt(blocks)
    (``rescale_prenorm_residual``); the rest as each kind's module ``reset``s it.
    """
    # made on the CPU so that every device starts from the same numbers, but with the kernels of
    # where it will run
    model = HybridLM(
        architecture, dtype=torch.float32, kernels=kernels or choose(torch.device(device))
    )
    generator = torch.Generator().manual_seed(seed)
    blocks = enumerate(architecture.blocks)
    outputs = {f"blocks.{i}.{name}" for i, block in blocks for name in block.outputs}
    matrices = architecture.matrices
    for name, parameter in model.named_parameters():
        if name in matrices:
            std = INIT_STD / math.sqrt(len(architecture.blocks)) if name in outputs else INIT_STD
            parameter.normal_(0.0, std, generator=generator)
        elif name.endswith(".bias"):
            parameter.zero_()
    for block in model.blocks:
        cast(ResidualBlock, block).reset(generator)
    return model.to(device=device, dtype=dtype)


@torch.no_grad()
def frozen(model: HybridLM) -> HybridLM:
    """The model as a teacher: no gradients, and on CUDA its matrices in BF16, in which they are
    multiplied anyway.
    """
    matrices = model.architecture.matrices
    for name, parameter in model.requires_grad_(False).named_parameters():
        if parameter.is_cuda and name in matrices:
            parameter.data = parameter.data.to(torch.bfloat16)
    return model.eval()
