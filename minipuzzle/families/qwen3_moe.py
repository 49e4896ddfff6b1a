"""Qwen 3 with experts: Qwen 3, but the feed-forward of most layers is SwiGLU experts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from minipuzzle.arch import Architecture
from minipuzzle.families import llama
from minipuzzle.families._experts import (
    EXPERT_FIELDS,
    EXPERT_TENSORS,
    expert_count,
    read_experts,
    write_experts,
)
from minipuzzle.families._fields import error, flag, own, positive
from minipuzzle.families._layers import LAYER_FIELDS, Tensors, feed_forward, first, layer_names
from minipuzzle.families._parts import Name
from minipuzzle.families._windows import slid, window_of, windows_of
from minipuzzle.families.llama import biases, extra_files, read, write
from minipuzzle.kinds import Block

__all__ = ["FIELDS", "architecture", "config", "extra_files", "names"]
FIELDS = (
    LAYER_FIELDS
    | EXPERT_FIELDS
    | {
        "intermediate_size": None,
        "moe_intermediate_size": None,
        "num_key_value_heads": 4,
        "max_position_embeddings": 32768,
        "attention_bias": False,
        "use_sliding_window": False,
        "sliding_window": 4096,
        "decoder_sparse_step": 1,
        "mlp_only_layers": None,
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
    bias, seconds = flag(fields, "attention_bias"), _seconds(fields)
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
        decoder_sparse_step=1,
        mlp_only_layers=[i // 2 for i in architecture.indices("mlp")],
        **write_experts(first(architecture, "moe"), WIDTH),
    )


def names(architecture: Architecture) -> dict[str, tuple[Name, ...]]:
    """Canonical tensor name -> how a file holds it."""
    return layer_names(architecture, TENSORS, llama.TOP)


def _seconds(fields: Mapping[str, Any]) -> list[Block]:
    """The second block of each layer: dense where ``mlp_only_layers`` has it, where its number is
    no multiple of ``decoder_sparse_step``, or where there are no experts at all.
    """
    hidden, layers = positive(fields, "hidden_size"), positive(fields, "num_hidden_layers")
    step, said = positive(fields, "decoder_sparse_step"), fields["mlp_only_layers"] or []
    if not isinstance(said, list) or not all(type(index) is int for index in said):
        raise error(
            "mlp_only_layers is not a list of whole numbers.",
            got=said,
            allowed="the positions of dense layers",
        )
    sparse = [i not in said and (i + 1) % step == 0 for i in range(layers)]
    if any(sparse) and expert_count(fields) == 0:
        sparse = [False] * layers
    moe = read_experts(fields, hidden, WIDTH) if any(sparse) else None
    mlp = None if all(sparse) else feed_forward(fields, hidden)
    blocks = (moe if routed else mlp for routed in sparse)
    return [block for block in blocks if block is not None]
