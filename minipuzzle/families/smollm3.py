"""SmolLM 3: Llama in which every fourth layer has no position embedding (``no_rope_layers``), and a tied head."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from minipuzzle.arch import Architecture, Attention
from minipuzzle.families._fields import error, positive, windowless
from minipuzzle.families.llama import FIXED_HEADS, biases, extra_files, names, read, write
from minipuzzle.families.qwen2 import whole, window

__all__ = ["architecture", "config", "extra_files", "names"]
DEFAULTS = {"num_key_value_heads": 4, "max_position_embeddings": 32768, "rope_theta": 2_000_000.0,
            "tie_word_embeddings": True}  # fmt: skip


def architecture(config: dict[str, Any]) -> Architecture:
    """As ``llama.architecture``; a layer that ``no_rope_layers`` has a 0 for has no RoPE."""
    fields = DEFAULTS | config
    windowless(fields, window({"max_window_layers": 0, **fields}))
    bias = bool(fields.get("attention_bias", False))
    turning = read(fields, bias=bias, out_bias=bias, mlp_bias=bool(fields.get("mlp_bias", False)), rules=FIXED_HEADS)
    every = positive(fields, "no_rope_layer_interval", 4)
    turned = fields.get("no_rope_layers") or [int((i + 1) % every != 0) for i in range(len(turning.blocks) // 2)]
    if not isinstance(turned, list) or len(turned) < len(turning.blocks) // 2:
        raise error("no_rope_layers has not an entry for each layer.", got=turned, allowed="a list of 0 and 1")
    blocks = (replace(b, rope=b.rope if turned[i // 2] else None) if isinstance(b, Attention) else b
              for i, b in enumerate(turning.blocks))  # fmt: skip
    return replace(turning, blocks=tuple(blocks))


def config(architecture: Architecture, original: dict[str, Any]) -> dict[str, Any]:
    """As ``llama.config``."""
    turned = [int(b.rope is not None) for b in architecture.blocks if isinstance(b, Attention)]
    own = {**whole(architecture), **biases(architecture), "no_rope_layers": turned}
    return write(architecture, original, "smollm3", "SmolLM3ForCausalLM", **own)
