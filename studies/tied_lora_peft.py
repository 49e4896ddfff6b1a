"""PEFT's own adapters in our model, for studies/tied_lora.py."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch

from minipuzzle.adapters import make_plan
from minipuzzle.model import HybridLM

PROJECTIONS = [
    "in_proj",
    "out_proj",
    "up_proj",
    "down_proj",
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
]


def inject_peft(model: HybridLM, kind: str, rank: int, seed: int, device: str) -> dict[str, Any]:
    """Put PEFT's own layers into our model, alpha = rank as ours."""
    from peft import LoraConfig, VeraConfig, inject_adapter_in_model
    from peft.tuners.vera import VeraModel

    torch.manual_seed(seed)
    frozen = 0
    if kind == "lora":
        inject_adapter_in_model(
            LoraConfig(r=rank, lora_alpha=rank, target_modules=PROJECTIONS), model
        )
    else:
        tuner = VeraModel(
            model,
            VeraConfig(r=rank, target_modules=PROJECTIONS, projection_prng_key=seed),
            "default",
        )
        frozen = tuner.vera_A["default"].numel() + tuner.vera_B["default"].numel()
    model.to(device)
    trained = [p for p in model.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.data = parameter.data.float()  # as PEFT does in get_peft_model
    count = sum(p.numel() for p in trained)
    return {
        "trainable": count,
        "bytes": 4 * (count + frozen),
        "lora": make_plan(model.architecture, "lora", rank=rank).lora,
    }


def peft_version() -> str:
    """Empty where PEFT is not there."""
    if importlib.util.find_spec("peft") is None:
        return ""
    import peft

    return str(peft.__version__)
