"""mlx-lm, on Apple silicon: one size for all blocks of a kind."""

from __future__ import annotations

from minipuzzle.checkpoint import read_config
from minipuzzle.export.engines.base import (
    DELTA_NETS,
    EVERYWHERE,
    HYBRIDS,
    WITH_EXPERTS,
    Answer,
    Asked,
    Engine,
    no,
    renormalised,
    unproven,
    varying,
    with_experts,
    yes,
)
from minipuzzle.memory.formats import FORMATS

CLASSES = (
    "granite",
    "lfm2",
    "mamba2",
    "mixtral",
    "olmo2",
    "olmo3",
    "olmo_hybrid",
    "phi3",
    "smollm3",
)
"""Other families that it has."""
WITHOUT = ("bamba", "nemotron_h_puzzle", "qwen3_5_text", "qwen3_5_moe_text")
ONE_NORM = ("mamba2", "granitemoehybrid")
"""Families whose gated norm is over all groups of heads there."""
FIELDS = {
    "mamba2": ("intermediate_size", "time_step_limit", "time_step_rank"),
    "granitemoehybrid": ("intermediate_size", "time_step_limit", "position_embedding_type"),
    "qwen3_next": ("partial_rotary_factor",),
}
"""Fields of config.json that transformers does without, and it does not."""
NO_WINDOW = ("qwen2", "phi3", "mixtral", "smollm3")
"""Families whose classes know no sliding window."""
BIASED = ("granite", "mamba2")
"""Of these the ones that ran with biases, or whose class was read."""
PLAIN_ROPES = {"default", "linear", "llama3"}


def _biased(asked: Asked) -> bool:
    weights = (weight for block in asked.architecture.blocks for weight in block.weights)
    return any(weight.name.endswith(".bias") for weight in weights)


def _objection(asked: Asked) -> Answer | None:
    """What speaks against a family whose class it has."""
    if asked.family.startswith("qwen3") and _biased(asked):
        return no("its class of this family has no biases")
    if any(getattr(block, "sliding_window", None) for block in asked.architecture.blocks):
        if asked.family in NO_WINDOW:
            return no("its class of this family knows no sliding window")
        return unproven("whether its class sees the sliding window was not looked up")
    if asked.family in CLASSES and asked.family not in BIASED and _biased(asked):
        return unproven("whether its class of this family has biases was not looked up")
    ropes = (getattr(block, "rope", None) for block in asked.architecture.blocks)
    others = {rope.kind for rope in ropes if rope is not None} - PLAIN_ROPES
    if others:
        return unproven(f"whether its {', '.join(sorted(others))} RoPE is ours was not looked up")
    return None


def _turns(asked: Asked) -> Answer:
    """Of Qwen's DeltaNet: it does not read ``layer_types``."""
    full = ["kv_heads" in block.sizes for block in asked.architecture.blocks[::2]]
    every = full.index(True) + 1 if True in full else len(full) + 1
    if full != [(i + 1) % every == 0 for i in range(len(full))]:
        return no("it takes every n-th layer for attention, and here they are at no such distance")
    if asked.family != "qwen3_next":
        return unproven(f"its class was read, not run; full_attention_interval must be {every}")
    config, _ = read_config(asked.path)
    missing = [field for field in FIELDS[asked.family] if config.get(field) is None]
    if config.get("full_attention_interval", 4) != every:
        missing.append(f"full_attention_interval {every}")
    return _objection(asked) or _with(missing)


def _with(missing: list[str]) -> Answer:
    """Loads where config.json has fields that are ``missing``."""
    if missing:
        return yes(f"once its config.json has {', '.join(missing)}, as minipuzzle writes it")
    return yes("as it is")


def _rule(asked: Asked) -> Answer:
    axes = varying(asked.architecture)
    if asked.family in WITHOUT and not axes:
        return no(f"it has no {asked.family}")
    if asked.family in DELTA_NETS:
        return _turns(asked)
    experts = with_experts(asked.architecture)
    if not asked.architecture.homogeneous:
        said = ", ".join(sorted(axes)) or "a setting"
        return no(f"one size for all blocks of a kind there, these differ in {said}")
    alone = any(block.sizes["top_k"] == 1 for block in experts)
    if asked.family == "nemotron_h" and alone and renormalised(asked.architecture):
        return no("it does not normalise the gate of a single chosen expert (norm_topk_prob)")
    if asked.family in ONE_NORM:
        return _hybrid(asked)
    if asked.family == "olmo_hybrid":
        return no("its class has other names for norms than published files")
    if asked.family == "lfm2":
        return unproven("its class wants block_dim, which not every config.json has")
    return _objection(asked) or yes("as it is")


def _hybrid(asked: Asked) -> Answer:
    """Of the families whose config.json has to say more than transformers wants."""
    if any(block.sizes.get("groups", 1) > 1 for block in asked.architecture.blocks):
        return no("it takes one gated norm over all groups of heads")
    config, _ = read_config(asked.path)
    missing = [field for field in FIELDS[asked.family] if config.get(field) is None]
    widths = [config.get(name) for name in ("intermediate_size", "shared_intermediate_size")]
    if widths[0] != widths[1] and not config.get("num_local_experts", True):
        missing.append("intermediate_size")
    return _objection(asked) or _with(missing)


ENGINE = Engine(
    label="mlx",
    place=5,
    serve="mlx_lm.server --model {path}",
    read="mlx-lm 0.32.2, mlx_lm/models; 02de46c and 012facae for Qwen3-Next and 3.5",
    families=(*HYBRIDS, *WITH_EXPERTS, *EVERYWHERE, *DELTA_NETS, *CLASSES, *WITHOUT),
    rule=_rule,
    formats=dict.fromkeys(FORMATS, no("of compressed-tensors it reads only two other families")),
)
