"""Forms of the families whose layers have other mixers beside attention, or none."""

from form_sizes import EXPERTS, LAYERS, MAMBA, SIZES, SPECIAL

HYBRIDS = {
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
QWEN3_5 = {
    **LAYERS,
    **SPECIAL,
    "num_hidden_layers": 3,
    "head_dim": 16,
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
HYBRIDS |= {
    "qwen3_5_text": {
        "plain": QWEN3_5,
        "usual layers, tied, bias, more turns": {
            **QWEN3_5,
            "num_hidden_layers": 4,
            "layer_types": None,
            "linear_key_head_dim": 16,
            "linear_num_value_heads": 2,
            "attention_bias": True,
            "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e5,
                "partial_rotary_factor": 0.5,
                "mrope_section": [2, 1, 1],
            },
        },
    },
    "qwen3_5_moe_text": {
        "plain": {
            **{k: v for k, v in QWEN3_5.items() if k != "intermediate_size"},
            **EXPERTS,
            "moe_intermediate_size": 24,
            "shared_expert_intermediate_size": 40,
        }
    },
}
