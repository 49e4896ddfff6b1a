"""Qwen 3 with experts: Qwen 3, but the feed-forward of most layers is SwiGLU experts."""

from __future__ import annotations

from typing import Any

from minipuzzle.arch import Architecture
from minipuzzle.families import llama
from minipuzzle.families._experts import (
    DENSE_FIELDS,
    EXPERT_FIELDS,
    EXPERT_TENSORS,
    second_blocks,
    write_dense,
    write_experts,
)
from minipuzzle.families._fields import flag, own
from minipuzzle.families._layers import LAYER_FIELDS, Tensors, first, layer_names
from minipuzzle.families._parts import Name
from minipuzzle.families._windows import slid, window_of, windows_of
from minipuzzle.families.llama import biases, extra_files, read, write

__all__ = ["FIELDS", "architecture", "config", "extra_files", "names"]
FIELDS = (
    LAYER_FIELDS
    | EXPERT_FIELDS
    | DENSE_FIELDS
    | {
        "intermediate_size": None,
        "moe_intermediate_size": None,
        "num_key_value_heads": 4,
        "max_position_embeddings": 32768,
        "attention_bias": False,
        "use_sliding_window": False,
        "sliding_window": 4096,
    }
)
TENSORS: Tensors = {**llama.TENSORS, "moe": EXPERT_TENSORS}
WIDTH = "moe_intermediate_size"


def architecture(config: dict[str, Any]) -> Architecture:
    """As ``llama.architecture``; a sliding window that is used is that of all layers. Raises:
    UserError also for a list of dense layers that is none, and for more chosen experts than there
    are.
    """
    fields = own(config, FIELDS)
    window = window_of(fields) if flag(fields, "use_sliding_window") else None
    bias, seconds = flag(fields, "attention_bias"), second_blocks(fields, WIDTH)
    result = read(fields, bias=bias, out_bias=bias, qk_norm=True, seconds=seconds)
    return slid(result, [window] * len(seconds))


def config(architecture: Architecture, original: dict[str, Any]) -> dict[str, Any]:
    """As ``llama.config``; dense layers are listed, whatever step the parent's are in."""
    window = next(iter(windows_of(architecture)), None)
    uniform: dict[str, Any] = {"use_sliding_window": window is not None}
    uniform |= {} if window is None else {"sliding_window": window}
    return write(
        architecture,
        {k: v for k, v in original.items() if k != "num_local_experts"},
        "qwen3_moe",
        "Qwen3MoeForCausalLM",
        attention_bias=biases(architecture)["attention_bias"],
        **uniform,
        **write_dense(architecture),
        **write_experts(first(architecture, "moe"), WIDTH),
    )


def names(architecture: Architecture) -> dict[str, tuple[Name, ...]]:
    """Canonical tensor name -> how a file holds it."""
    return layer_names(architecture, TENSORS, llama.TOP)
