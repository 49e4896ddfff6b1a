"""A model whose weights stay as they are: matrices in BF16 on CUDA, which halves them and casts none of them each step."""

from __future__ import annotations

import torch

from minipuzzle.checkpoint import Checkpoint
from minipuzzle.kernels import Kernels
from minipuzzle.model import HybridLM


@torch.no_grad()
def load_frozen(checkpoint: Checkpoint, *, device: torch.device, kernels: Kernels | None = None) -> HybridLM:
    """The checkpoint's model without gradients. On CUDA its matrices are BF16; vectors, which are computed with in FP32,
    and the embedding, whose dtype the residual stream takes on, are FP32. On a CPU all is FP32."""
    narrow = device.type == "cuda"
    model = HybridLM(checkpoint.architecture, device=device, dtype=torch.bfloat16 if narrow else torch.float32, kernels=kernels)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1 or name == "embeddings.weight":
            parameter.data = parameter.data.float()
        checkpoint.read_into(name, parameter.data)
    return model.requires_grad_(False).eval()
