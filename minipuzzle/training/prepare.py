"""What a model is set to before it is trained: the precision of its products, and what its blocks
keep for backward.
"""

from __future__ import annotations

from minipuzzle.cost.training import training_bytes
from minipuzzle.machine import free_gpu_bytes
from minipuzzle.model import HybridLM, set_precision
from minipuzzle.settings import Training

SAFE = 0.9
"""Of the memory that is free: fragmentation and what the estimate does not see take the rest."""


def prepare(model: HybridLM, settings: Training, tokens: int, ranks: int = 1) -> str:
    """Set precision and activation checkpointing for steps of ``tokens`` tokens at once; a line
    that says what was chosen.

    Raises: UserError where the precision cannot be had (``set_precision``).
    """
    layers = set_precision(model, settings.precision, settings.bf16_ends)
    wanted, device = settings.activation_checkpointing, next(model.parameters()).device
    model.activation_checkpointing = wanted == "on"
    parts = [f"{len(layers)} linear layers in {settings.precision}"] if layers else []
    if device.type == "cuda":
        need, less = (
            _bytes(model, tokens, checkpointing, ranks) for checkpointing in (False, True)
        )
        free = free_gpu_bytes(device)
        if wanted == "auto":
            model.activation_checkpointing = need > SAFE * free
        chosen = less if model.activation_checkpointing else need
        parts.append(f"{chosen / 2**30:.1f} of {free / 2**30:.1f} GiB free are needed (estimate)")
        if chosen > free:
            parts.append(
                "it may run out: lower --micro-batch, --batch or --length, or use more GPUs with"
                " torchrun"
            )
    if model.activation_checkpointing:
        parts.append(f"activation checkpointing ({wanted})")
    return "; ".join(parts)


def unprepare(model: HybridLM) -> None:
    """A model as one uses it: in eval mode, its products in BF16 or FP32, nothing computed
    twice.
    """
    set_precision(model.eval(), "bf16", 0)
    model.activation_checkpointing = False


def _bytes(model: HybridLM, tokens: int, checkpointing: bool, ranks: int) -> int:
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    shares = 1 if hasattr(model, "adapters") else ranks  # an adapter is whole on every GPU
    return training_bytes(
        model.architecture, tokens, checkpointing=checkpointing, ranks=shares, trained=trained
    )
