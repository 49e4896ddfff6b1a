"""A tiny transformers model of each family, in a few forms: what the tests of all families run
on.
"""

import torch
from transformers import AutoConfig, AutoModelForCausalLM

SIZES = {"vocab_size": 120, "hidden_size": 32, "max_position_embeddings": 128}
LAYERS = {
    **SIZES,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
SPECIAL = {"pad_token_id": 119, "bos_token_id": 1, "eos_token_id": 2}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 5e4,
    "factor": 4.0,
    "original_max_position_embeddings": 32,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e4,
    "factor": 8.0,
    "original_max_position_embeddings": 32,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}
NEMOTRON = {
    "vocab_size": 120,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "ssm_state_size": 8,
    "mamba_num_heads": 8,
    "mamba_head_dim": 8,
    "n_groups": 2,
    "chunk_size": 16,
    "hybrid_override_pattern": "M-M*-",
}
EXPERTS = {"num_experts": 8, "num_experts_per_tok": 3}
MOE = {
    **NEMOTRON,
    "hybrid_override_pattern": "ME*EM",
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 24,
    "moe_shared_expert_intermediate_size": 40,
}
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
        "own head_dim": {**LAYERS, "head_dim": 16, "sliding_window": 128},
    },
    "qwen2": {
        "plain": LAYERS,
        "tied, yarn": {**LAYERS, "tie_word_embeddings": True, "rope_parameters": YARN},
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
    "smollm3": {
        "plain": LAYERS | SPECIAL,
        "own list": {**LAYERS, **SPECIAL, "no_rope_layers": [0, 1, 0], "mlp_bias": True},
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
MAMBA = {
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_n_groups": 2,
    "mamba_d_state": 8,
    "mamba_chunk_size": 16,
}
FORMS |= {
    "mamba2": {
        "plain": {
            **SIZES,
            **SPECIAL,
            "num_hidden_layers": 3,
            "num_heads": 8,
            "head_dim": 8,
            "n_groups": 2,
            "state_size": 8,
            "chunk_size": 16,
        },
        "tied, biases, one group": {
            **SIZES,
            **SPECIAL,
            "num_hidden_layers": 2,
            "num_heads": 12,
            "head_dim": 8,
            "n_groups": 1,
            "state_size": 16,
            "expand": 3,
            "chunk_size": 16,
            "use_bias": True,
            "use_conv_bias": False,
            "conv_kernel": 3,
            "tie_word_embeddings": True,
        },
    },
    "bamba": {
        "plain": {**LAYERS, **SPECIAL, **MAMBA, "attn_layer_indices": [1]},
        "biases, linear": {
            **LAYERS,
            **SPECIAL,
            **MAMBA,
            "attn_layer_indices": [0, 2],
            "mamba_d_head": "auto",
            "attention_bias": True,
            "mlp_bias": True,
            "mamba_proj_bias": True,
            "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4},
        },
    },
    "granitemoehybrid": {
        "multipliers": {
            **LAYERS,
            **SPECIAL,
            **MAMBA,
            "num_local_experts": 0,
            "shared_intermediate_size": 48,
            "layer_types": ["mamba", "attention", "mamba"],
            "embedding_multiplier": 6.0,
            "logits_scaling": 3.0,
            "residual_multiplier": 0.22,
            "attention_multiplier": 0.1,
        },
        "rope, tied": {
            **LAYERS,
            **SPECIAL,
            **MAMBA,
            "num_local_experts": 0,
            "shared_intermediate_size": 40,
            "layer_types": ["attention", "mamba", "attention"],
            "position_embedding_type": "rope",
            "tie_word_embeddings": True,
            "attention_bias": True,
            "attention_multiplier": 0.35,
        },
        "experts": {
            **LAYERS,
            **SPECIAL,
            **MAMBA,
            "num_local_experts": 8,
            "num_experts_per_tok": 3,
            "intermediate_size": 24,
            "shared_intermediate_size": 40,
            "layer_types": ["mamba", "attention", "mamba"],
            "residual_multiplier": 0.22,
        },
    },
}


def every_form():
    """(model_type, form) of all of them."""
    return [(family, form) for family, forms in FORMS.items() for form in forms]


def theirs_of(family, fields, seed=0):
    """transformers' model in which every parameter matters: no zero biases, no norms of one."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **fields)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.3 if parameter.ndim == 1 else 0.05))
        for name, buffer in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                buffer.add_(torch.randn_like(buffer) * 0.1)
    return unclamped(model)


def unclamped(model):
    """transformers 5.16-5.23 clamp Nemotron-H's dt from below in prefill, which NVIDIA's code does
    not (PR #48989).
    """
    for module in model.modules():
        if hasattr(module, "time_step_limit"):
            module.time_step_limit = (0.0, float("inf"))
    return model
