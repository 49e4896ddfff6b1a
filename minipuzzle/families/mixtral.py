"""Mixtral: Mistral with experts for its feed-forward, whose gates sum to 1."""

from __future__ import annotations

from typing import Any

from minipuzzle.arch import Architecture
from minipuzzle.families import llama
from minipuzzle.families._experts import EXPERT_FIELDS, read_experts, write_experts
from minipuzzle.families._fields import own, positive
from minipuzzle.families._layers import LAYER_FIELDS, Tensors, first, layer_names
from minipuzzle.families._parts import EXPERT, Name
from minipuzzle.families._windows import slid, window_of, windows_of
from minipuzzle.families.llama import extra_files, read, write

__all__ = ["FIELDS", "architecture", "config", "extra_files", "names"]
FIELDS = (
    LAYER_FIELDS
    | {name: default for name, default in EXPERT_FIELDS.items() if name != "norm_topk_prob"}
    | {
        "intermediate_size": None,
        "num_key_value_heads": 8,
        "num_local_experts": 8,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1_000_000.0,
        "sliding_window": None,
    }
)
MOE = "block_sparse_moe"
TENSORS: Tensors = {
    "attention": llama.TENSORS["attention"],
    "moe": {
        "norm.weight": "post_attention_layernorm.weight",
        "router.weight": (f"{MOE}.gate.weight", "mlp.gate.weight"),
        # a matrix an expert, as on the hub; a stack of them, as in transformers' memory
        "experts.gate_up_proj": (
            tuple(f"{MOE}.experts.{EXPERT}.{w}.weight" for w in ("w1", "w3")),
            "mlp.experts.gate_up_proj",
        ),
        "experts.down_proj": (f"{MOE}.experts.{EXPERT}.w2.weight", "mlp.experts.down_proj"),
    },
}
WIDTH = "intermediate_size"


def architecture(config: dict[str, Any]) -> Architecture:
    """As ``llama.architecture``; a sliding window is that of all layers. Raises: UserError also for
    more chosen experts than there are.
    """
    fields = own(config, FIELDS) | {"norm_topk_prob": True}
    if fields["num_experts"] is not None and "num_local_experts" not in config:
        fields["num_local_experts"] = None  # one field by either name: its default is none beside
    moe = read_experts(fields, positive(fields, "hidden_size"), WIDTH)
    seconds = [moe] * positive(fields, "num_hidden_layers")
    return slid(read(fields, seconds=seconds), [window_of(fields)] * len(seconds))


def config(architecture: Architecture, original: dict[str, Any]) -> dict[str, Any]:
    """As ``llama.config``."""
    others = write_experts(first(architecture, "moe"), WIDTH)
    others = {k: v for k, v in others.items() if k != "norm_topk_prob"}
    others |= {
        "num_local_experts": others.pop("num_experts", None),
        "sliding_window": next(iter(windows_of(architecture)), None),
    }
    kept = {k: v for k, v in original.items() if k != "num_experts"}
    return write(architecture, kept, "mixtral", "MixtralForCausalLM", **others)


def names(architecture: Architecture) -> dict[str, tuple[Name, ...]]:
    """Canonical tensor name -> how a file holds it."""
    return layer_names(architecture, TENSORS, llama.TOP)
