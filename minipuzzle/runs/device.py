"""Where a stage computes and in which dtype, from the names that options give them."""

from __future__ import annotations

import torch

from minipuzzle.errors import UserError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def pick_device(name: str) -> torch.device:
    """The torch device for "auto", "cpu" or "cuda". Raises: UserError where it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cpu" or (name.startswith("cuda") and torch.cuda.is_available()):
        return torch.device(name)
    raise UserError(
        "This device cannot be used.",
        got=name,
        allowed="auto, cpu" + (", cuda" if torch.cuda.is_available() else ""),
        next="Leave job.device out to take the best one here.",
    )


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype of weights and activations for "auto" (BF16 on CUDA, FP32 elsewhere), "fp32" or
    "bf16".

    Raises: UserError for another name.
    """
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if name not in DTYPES:
        raise UserError(
            "This dtype is not computed in.",
            got=name,
            allowed="auto, fp32, bf16",
            next="Change job.dtype.",
        )
    return DTYPES[name]


def device_name(device: torch.device) -> str:
    """What a person calls the device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"
