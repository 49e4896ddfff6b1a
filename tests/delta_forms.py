"""Forms of the families with layers of gated DeltaNet."""

from form_sizes import EXPERTS, LAYERS, SPECIAL

DELTA = {
    "num_hidden_layers": 4,
    "layer_types": ["linear_attention", "full_attention"] * 2,
    "linear_num_key_heads": 4,
    "linear_num_value_heads": 8,
    "linear_key_head_dim": 6,
    "linear_value_head_dim": 10,
}
NEXT = {
    **EXPERTS,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 40,
    "head_dim": 16,
}
DELTA_NETS = {
    "olmo_hybrid": {
        "plain": {**LAYERS, **SPECIAL, **DELTA},
        "one head a key, no rope, bias, tied": {
            **LAYERS,
            **SPECIAL,
            "attention_bias": True,
            "linear_allow_neg_eigval": False,
            "linear_conv_kernel_dim": 3,
            "rope_parameters": {"rope_type": "default", "rope_theta": None},
            "tie_word_embeddings": True,
        },
    },
    "qwen3_next": {
        "plain": {**LAYERS, **DELTA, **NEXT},
        "dense layers, one head a key, bias, tied": {
            **LAYERS,
            **DELTA,
            **NEXT,
            "num_hidden_layers": 3,
            "layer_types": None,
            "full_attention_interval": 2,
            "linear_num_value_heads": 4,
            "mlp_only_layers": [1],
            "norm_topk_prob": False,
            "partial_rotary_factor": 0.5,
            "attention_bias": True,
            "tie_word_embeddings": True,
        },
        "dense": {**LAYERS, **DELTA, "num_experts": 0, "head_dim": 16},
    },
}
