"""mlx-lm, on Apple silicon: one size for all blocks of a kind."""

from __future__ import annotations

from minipuzzle.export.engines.base import (
    DELTA_NETS,
    HYBRIDS,
    WITH_EXPERTS,
    Answer,
    Asked,
    Engine,
    no,
    ordinary,
    renormalised,
    unproven,
    varying,
    with_experts,
    yes,
)

PLAIN_ROPES = {"default", "linear", "llama3"}


def _biased(asked: Asked) -> bool:
    weights = (weight for block in asked.architecture.blocks for weight in block.weights)
    return any(weight.name.endswith(".bias") for weight in weights)


def _objection(asked: Asked) -> Answer | None:
    """What speaks against a family whose class it has."""
    if asked.family.startswith("qwen3") and _biased(asked):
        return no("its class of this family has no biases")
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
    return unproven(f"its class was read, not run; full_attention_interval must be {every}")


def _rule(asked: Asked) -> Answer:
    if asked.family in DELTA_NETS:
        return _turns(asked)
    experts = with_experts(asked.architecture)
    if not asked.architecture.homogeneous:
        axes = ", ".join(sorted(varying(asked.architecture)))
        return no(f"one size for all blocks of a kind there, these differ in {axes or 'a setting'}")
    alone = any(block.sizes["top_k"] == 1 for block in experts)
    if asked.family == "nemotron_h" and alone and renormalised(asked.architecture):
        return no("it does not normalise the gate of a single chosen expert (norm_topk_prob)")
    if asked.family == "granitemoehybrid" and not experts:
        return yes("with intermediate_size as shared_intermediate_size in a copy of config.json")
    return _objection(asked) or yes("as it is")


def _others(asked: Asked) -> Answer:
    found = ordinary(asked)
    return (_objection(asked) or found) if found.loads == "yes" else found


ENGINE = Engine(
    label="mlx",
    place=5,
    read="mlx-lm 0.32.2, mlx_lm/models; 02de46c and 012facae for Qwen3-Next and 3.5",
    families=(*HYBRIDS, *WITH_EXPERTS, *DELTA_NETS),
    rule=_rule,
    others=_others,
)
