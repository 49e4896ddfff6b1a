"""Why a model of a type that no family reads is none of ours: what its config.json's fields say
that no block of ours computes, and what its class does without a word in config.json.

A field is named here as long as no family reads it with such a value: tests/test_family_others.py
holds that nothing is found in a supported model's config.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from minipuzzle.kinds import ROPE_KINDS

MLA = "multi-head latent attention (MLA)"
BOTH_SIDES = "no causal decoder: tokens see those after them"
LAYER_NORM = "LayerNorm in place of RMSNorm"
CROSS = "cross-attention"
CAPPED = "softly capped logits"
PARALLEL = "attention and feed-forward side by side in a block"
ALIBI = "ALiBi, distances added to attention's scores"
SINKS = "attention sinks"
ADDED = "positions added to the embedding"
MAMBA_1 = "Mamba-1"
KDA = "a delta net with a decay for each key channel (KDA)"
SHARED = "blocks that share their weights"

FIELDS: dict[str, str] = {
    "is_encoder_decoder": "an encoder beside the decoder",
    "add_cross_attention": CROSS,
    "cross_attention_layers": CROSS,
    "kv_lora_rank": MLA,
    "index_topk": "attention to chosen tokens only",
    "attn_logit_softcapping": "softly capped scores of attention",
    "final_logit_softcapping": CAPPED,
    "logits_soft_cap": CAPPED,
    "output_logit_soft_cap": CAPPED,
    "attention_chunk_size": "attention within chunks",
    "llama_4_scaling_beta": "queries that grow with the position",
    "attn_temperature_tuning": "queries that grow with the position",
    "alibi": ALIBI,
    "norm_epsilon": LAYER_NORM,
    "layer_norm_eps": LAYER_NORM,
    "parallel_attn": PARALLEL,
    "use_parallel_residual": PARALLEL,
    "lm_head_bias": "a bias in the head",
    "swiglu_limit": "experts whose gate is clamped",
    "linear_num_heads": KDA,
    "linear_attn_alpha_factor": "linear attention (lightning)",
    "mamba_dt_rank": MAMBA_1,
    "lru_width": "gated linear recurrences (RG-LRU)",
    "rescale_every": "RWKV's time mixing",
    "qk_dim_factor": "xLSTM's matrix memory",
    "ssm_in_multiplier": "attention and Mamba-2 side by side in a block",
    "num_mem_blocks": SHARED,
    "num_hidden_groups": SHARED,
    "hidden_size_per_layer_input": "embeddings of each layer",
    "altup_num_inputs": "several residual streams (AltUp)",
}
"""Where the field is there and not null, false, 0 or empty, the model has this."""
CLASSES: dict[str, tuple[str, ...]] = {
    "bloom": (ALIBI,),
    "cohere": (PARALLEL,),
    "cohere2": (PARALLEL,),
    "dbrx": (LAYER_NORM,),
    "distilbert": (BOTH_SIDES,),
    "ernie4_5": ("RoPE that turns neighbouring channels",),
    "gemma2": ("a norm before and after each mixer",),
    "gemma3_text": ("a norm before and after each mixer",),
    "glm": ("RoPE that turns neighbouring channels",),
    "glm4": ("RoPE that turns neighbouring channels", "a norm before and after each mixer"),
    "gpt_neo": (ADDED,),
    "gpt_oss": (SINKS,),
    "granite_swa": (SINKS,),
    "granitemoe_swa": (SINKS,),
    "gptj": (PARALLEL, "RoPE that turns neighbouring channels"),
    "helium": ("RoPE that turns neighbouring channels",),
    "hunyuan_v1_dense": ("norms of q and k after RoPE",),
    "modernbert": (BOTH_SIDES,),
    "mimo_v2_flash": (SINKS,),
    "nanochat": ("norms without weights",),
    "bitnet": ("ternary weights", "norms within attention and feed-forward"),
    "nemotron": (f"{LAYER_NORM}, its scale 1 + weight",),
    "olmo": (f"{LAYER_NORM}, without weights",),
    "opt": (ADDED, LAYER_NORM),
    "phi": (PARALLEL, "a bias in the head"),
    "phimoe": (LAYER_NORM,),
}
"""What transformers' class of a type computes though no field of config.json says so."""
ACTIVATIONS = ("hidden_act", "hidden_activation", "activation_function", "activation")
COMPUTED = ("silu", "swish", "relu2")
PARTS = ("vision_config", "audio_config", "vit_config", "vq_config")


def reasons(config: Mapping[str, Any]) -> list[str]:
    """What a model has that no block of ours computes, and the field of config.json that says so;
    of a model of several parts what its text has. Empty where nothing is known.
    """
    text = config.get("text_config")
    found = list(_found(config))
    if isinstance(text, Mapping):
        found += [reason for reason in _found(text) if reason not in found]
    return found


def _found(config: Mapping[str, Any]) -> Iterator[str]:
    model_type = config.get("model_type")
    yield from (f"{has} (its class)" for has in CLASSES.get(str(model_type), ()))
    for name in PARTS:
        if config.get(name):
            yield f"a part that is no text ({name})"
    for name, has in FIELDS.items():
        if config.get(name):
            yield f"{has} ({name}: {_short(config[name])})"
    yield from _special(config)


def _special(config: Mapping[str, Any]) -> Iterator[str]:
    """What more than one field says."""
    segments, sides = config.get("type_vocab_size"), config.get("use_bidirectional_attention")
    if segments and not config.get("is_decoder"):  # BERT's
        yield f"{BOTH_SIDES} (type_vocab_size: {segments})"
    if sides is True or sides == "all":  # Gemma's; "vision" is of images alone
        yield f"{BOTH_SIDES} (use_bidirectional_attention: {_short(sides)})"
    hybrid = any(name.endswith("state_size") or name.startswith("mamba_") for name in config)
    if config.get("layer_norm_epsilon") and not hybrid and not config.get("is_encoder_decoder"):
        yield f"{LAYER_NORM} (layer_norm_epsilon: {config['layer_norm_epsilon']})"
    if config.get("time_step_rank") and not config.get("n_groups"):
        yield f"{MAMBA_1} (time_step_rank: {config['time_step_rank']})"
    if config.get("n_positions") and not config.get("rotary_dim"):
        yield f"{ADDED} (n_positions: {config['n_positions']})"
    for name in ACTIVATIONS:
        if isinstance(config.get(name), str) and config[name] not in COMPUTED:
            yield f"another activation ({name}: {config[name]})"
    if isinstance(attention := config.get("attn_config"), Mapping):  # MPT's
        yield from _found(attention)
    linear = config.get("linear_attn_config")
    if isinstance(linear, Mapping) and linear.get("kda_layers"):  # as Kimi's own code has it
        yield f"{KDA} (linear_attn_config: kda_layers)"
    if isinstance(config.get("intermediate_size"), list):
        yield "widths that differ by layer (intermediate_size)"
    yield from _ropes(config)


def _ropes(config: Mapping[str, Any]) -> Iterator[str]:
    said = config.get("rope_parameters") or config.get("rope_scaling")
    if not isinstance(said, Mapping):
        return
    own = [value for value in said.values() if isinstance(value, Mapping)]
    kinds = {str(rope.get("rope_type", rope.get("type", "default"))) for rope in own or [said]}
    for kind in sorted(kinds - set(ROPE_KINDS)):
        yield f"another RoPE (rope_type: {kind})"
    if said.get("llama_4_scaling_beta"):
        beta = said["llama_4_scaling_beta"]
        yield f"{FIELDS['llama_4_scaling_beta']} (llama_4_scaling_beta: {beta})"


def _short(value: object) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= 24 else f"{text[:20]} ..."
