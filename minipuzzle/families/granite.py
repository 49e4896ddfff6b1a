"""Granite 3: Llama with multipliers of the embedding, of attention's scores and of what each block
adds, and a divisor of the logits.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from minipuzzle.arch import Architecture
from minipuzzle.families import llama
from minipuzzle.families._fields import flag, number, own
from minipuzzle.families.llama import FIXED_HEADS, biases, extra_files, names, read, write
from minipuzzle.kinds import Attention

__all__ = ["FIELDS", "architecture", "config", "extra_files", "names"]
MULTIPLIERS = dict.fromkeys(
    ("embedding_multiplier", "logits_scaling", "residual_multiplier", "attention_multiplier"), 1.0
)
FIELDS = llama.FIELDS | MULTIPLIERS


def architecture(config: dict[str, Any]) -> Architecture:
    """As ``llama.architecture``."""
    fields = own(config, FIELDS)
    bias = flag(fields, "attention_bias")
    plain = read(
        fields, bias=bias, out_bias=bias, mlp_bias=flag(fields, "mlp_bias"), rules=FIXED_HEADS
    )
    residual = number(fields, "residual_multiplier")
    scale = number(fields, "attention_multiplier")
    blocks = (replace(b, scale=scale) if isinstance(b, Attention) else b for b in plain.blocks)
    return replace(
        plain,
        blocks=tuple(replace(b, residual_multiplier=residual) for b in blocks),
        embedding_multiplier=number(fields, "embedding_multiplier"),
        logits_divisor=number(fields, "logits_scaling"),
    )


def config(architecture: Architecture, original: dict[str, Any]) -> dict[str, Any]:
    """As ``llama.config``."""
    attention = next((b for b in architecture.blocks if isinstance(b, Attention)), None)
    others: dict[str, Any] = {
        "embedding_multiplier": architecture.embedding_multiplier,
        "logits_scaling": architecture.logits_divisor,
        "attention_multiplier": attention.scale if attention else 1.0,
        "residual_multiplier": architecture.blocks[0].residual_multiplier,
    }
    others |= biases(architecture)
    return write(architecture, original, "granite", "GraniteForCausalLM", **others)
