"""A tiny transformers model of each family, in a few forms: what the tests of all families run
on.
"""

import torch
from delta_forms import DELTA_NETS
from form_sizes import EXPERTS, LAYERS, LLAMA3, MOE, NEMOTRON, SPECIAL, YARN
from hybrid_forms import HYBRIDS
from transformers import AutoConfig, AutoModelForCausalLM

from minipuzzle.checkpoint.pieces import interleaved_rows
from minipuzzle.families import names_of

FORMS = {
    "nemotron_h": {
        "plain": NEMOTRON,
        "experts": MOE,
        "latent experts in groups, dense too": {
            **MOE,
            "hybrid_override_pattern": "M-E*E",
            "moe_latent_size": 16,
            "routed_scaling_factor": 2.5,
            "n_group": 2,
            "topk_group": 1,
            "mlp_bias": True,
        },
        "gates as they are": {**MOE, "norm_topk_prob": False, "num_experts_per_tok": 1},
    },
    "llama": {
        "plain": LAYERS,
        "linear, biases, own head_dim": {
            **LAYERS,
            "attention_bias": True,
            "mlp_bias": True,
            "head_dim": 16,
            "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4},
        },
        "dynamic, past its context": {
            **LAYERS,
            "max_position_embeddings": 24,
            "rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4},
        },
        "llama3, tied": {**LAYERS, "tie_word_embeddings": True, "rope_parameters": LLAMA3},
        "yarn": {**LAYERS, "rope_parameters": {**YARN, "beta_fast": 4.0, "beta_slow": 0.25}},
        "yarn, mscale": {
            **LAYERS,
            "rope_parameters": {**YARN, "mscale": 0.7, "mscale_all_dim": 0.4, "truncate": False},
        },
    },
    "mistral": {
        "plain": {**LAYERS, "sliding_window": None},
        "own head_dim, window": {**LAYERS, "head_dim": 16, "sliding_window": 7},
    },
    "qwen2": {
        "plain": LAYERS,
        "tied, yarn, window in late layers": {
            **LAYERS,
            "tie_word_embeddings": True,
            "rope_parameters": YARN,
            "use_sliding_window": True,
            "sliding_window": 16,
            "max_window_layers": 2,
        },
    },
    "qwen3": {
        "plain": {**LAYERS, "head_dim": 16},
        "bias": {**LAYERS, "head_dim": 8, "attention_bias": True},
    },
    "olmo2": {
        "plain": LAYERS | SPECIAL,
        "bias, own head_dim, yarn, tied": {
            **LAYERS,
            **SPECIAL,
            "attention_bias": True,
            "head_dim": 16,
            "rope_parameters": YARN,
            "tie_word_embeddings": True,
        },
    },
    "olmo3": {
        "plain": LAYERS | SPECIAL | {"sliding_window": 10},
        "own list, yarn in full layers": {
            **LAYERS,
            **SPECIAL,
            "attention_bias": True,
            "sliding_window": 20,
            "layer_types": ["full_attention", "sliding_attention", "full_attention"],
            "rope_parameters": {
                "full_attention": YARN,
                "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
            },
        },
    },
    "qwen3_moe": {
        "plain": {**LAYERS, **EXPERTS, "moe_intermediate_size": 24, "head_dim": 16},
        "dense layers, gates that sum to 1, bias": {
            **LAYERS,
            **EXPERTS,
            "moe_intermediate_size": 24,
            "num_hidden_layers": 5,
            "decoder_sparse_step": 2,
            "mlp_only_layers": [3, 9],
            "norm_topk_prob": True,
            "num_experts_per_tok": 6,
            "attention_bias": True,
            "head_dim": 8,
        },
    },
    "olmoe": {
        "plain": {**LAYERS, **EXPERTS, **SPECIAL},
        "gates that sum to 1, bias, yarn": {
            **LAYERS,
            **EXPERTS,
            **SPECIAL,
            "norm_topk_prob": True,
            "num_experts_per_tok": 2,
            "attention_bias": True,
            "rope_parameters": YARN,
        },
    },
    "mixtral": {
        "window": {**LAYERS, "num_local_experts": 8, "num_experts_per_tok": 3, "sliding_window": 16}
    },
    "granite": {
        "multipliers, biases, tied": {
            **LAYERS,
            **SPECIAL,
            "attention_bias": True,
            "mlp_bias": True,
            "tie_word_embeddings": True,
            "embedding_multiplier": 6.0,
            "logits_scaling": 3.0,
            "residual_multiplier": 0.22,
            "attention_multiplier": 0.1,
        }
    },
    "phi3": {
        "half of each head turns, a window": {
            **LAYERS,
            **SPECIAL,
            "sliding_window": 16,
            "rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5},
        }
    },
    "smollm3": {
        "plain": LAYERS | SPECIAL,
        "own list": {**LAYERS, **SPECIAL, "no_rope_layers": [0, 1, 0], "mlp_bias": True},
        "windows": {
            **LAYERS,
            **SPECIAL,
            "use_sliding_window": True,
            "sliding_window": 12,
            "no_rope_layers": [0, 1, 1],
        },
    },
}
FORMS["lfm2"] = {
    "plain": {
        **LAYERS,
        **SPECIAL,
        "block_multiple_of": 8,
        "layer_types": ["conv", "full_attention", "conv"],
    },
    "biases, own width, kernel of 4, untied": {
        **LAYERS,
        **SPECIAL,
        "conv_bias": True,
        "conv_L_cache": 4,
        "block_auto_adjust_ff_dim": False,
        "full_attn_idxs": [2],
        "tie_word_embeddings": False,
        "rope_parameters": YARN,
    },
}
FORMS |= HYBRIDS | DELTA_NETS


def every_form():
    """(model_type, form) of all of them."""
    return [(family, form) for family, forms in FORMS.items() for form in forms]


def theirs_of(family, fields, seed=0):
    """transformers' model in which every parameter matters: no zero biases, no norms of one."""
    torch.default_generator.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **fields)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.3 if parameter.ndim == 1 else 0.05))
        for name, buffer in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                buffer.add_(torch.randn_like(buffer) * 0.1)
    return unclamped(model)


def in_file(written, accepted, tensor):
    """A tensor of ours in a file or a model of theirs, where it has one of the ``accepted`` names,
    is in pieces or in another order.
    """
    name = next((name for name in accepted if set(names_of(name)) <= written.keys()), None)
    if name is None:
        return None
    if isinstance(name, str):
        return written[name]
    pieces = [dict.fromkeys(joined) for joined in name.pieces]
    joined = [torch.cat([written[piece] for piece in own]) for own in pieces]
    if name.interleaved:
        return joined[0][[row for rows in interleaved_rows(tensor) for row in rows]]
    return torch.stack(joined) if name.stacked else joined[0]


def unclamped(model):
    """transformers 5.16-5.23 clamp Nemotron-H's dt from below in prefill, which NVIDIA's code does
    not (PR #48989).
    """
    for module in model.modules():
        if hasattr(module, "time_step_limit"):
            module.time_step_limit = (0.0, float("inf"))
    return model
