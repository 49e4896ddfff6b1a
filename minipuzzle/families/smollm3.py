"""SmolLM 3: Llama in which every fourth layer has no position embedding (``no_rope_layers``), and a
tied head.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from minipuzzle.arch import Architecture
from minipuzzle.families._fields import error, flag, own, positive
from minipuzzle.families._layers import LAYER_FIELDS
from minipuzzle.families._windows import slid, window_of, windows, write_windows
from minipuzzle.families.llama import FIXED_HEADS, biases, extra_files, names, read, write
from minipuzzle.kinds import Attention

__all__ = ["FIELDS", "architecture", "config", "extra_files", "names"]
FIELDS = LAYER_FIELDS | {
    "intermediate_size": None,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32768,
    "rope_theta": 2_000_000.0,
    "tie_word_embeddings": True,
    "attention_bias": False,
    "mlp_bias": False,
    "no_rope_layers": None,
    "no_rope_layer_interval": 4,
    "use_sliding_window": False,
    "sliding_window": None,
    "layer_types": None,
}


def architecture(config: dict[str, Any]) -> Architecture:
    """As ``llama.architecture``; a layer that ``no_rope_layers`` has a 0 for has no RoPE."""
    fields = own(config, FIELDS)
    turned, window = _turned(fields), window_of(fields)
    active = flag(fields, "use_sliding_window") and window is not None
    # layers that are listed slide whatever use_sliding_window is
    own_windows = windows(fields, window, [active and not turns for turns in turned])
    bias = flag(fields, "attention_bias")
    turning = read(
        fields, bias=bias, out_bias=bias, mlp_bias=flag(fields, "mlp_bias"), rules=FIXED_HEADS
    )
    blocks = (
        replace(b, rope=b.rope if turned[i // 2] else None) if isinstance(b, Attention) else b
        for i, b in enumerate(turning.blocks)
    )
    return slid(replace(turning, blocks=tuple(blocks)), own_windows)


def config(architecture: Architecture, original: dict[str, Any]) -> dict[str, Any]:
    """As ``llama.config``."""
    turned = [int(b.rope is not None) for b in architecture.blocks if isinstance(b, Attention)]
    others = {**write_windows(architecture), **biases(architecture), "no_rope_layers": turned}
    return write(architecture, original, "smollm3", "SmolLM3ForCausalLM", **others)


def _turned(fields: Mapping[str, Any]) -> list[int]:
    """A 0 or 1 for each layer: whether it has RoPE."""
    layers = positive(fields, "num_hidden_layers")
    every = positive(fields, "no_rope_layer_interval")
    turned = fields["no_rope_layers"]
    if turned is None:
        return [int((i + 1) % every != 0) for i in range(layers)]
    numbers = isinstance(turned, list) and all(isinstance(entry, int) for entry in turned)
    if not numbers or len(turned) < layers:
        raise error(
            "no_rope_layers has not an entry for each layer.",
            got=turned,
            allowed="a list of 0 and 1",
        )
    return turned[:layers]
