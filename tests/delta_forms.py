"""Forms of the families with layers of gated DeltaNet."""

from form_sizes import LAYERS, SPECIAL

DELTA = {
    "num_hidden_layers": 4,
    "layer_types": ["linear_attention", "full_attention"] * 2,
    "linear_num_key_heads": 4,
    "linear_num_value_heads": 8,
    "linear_key_head_dim": 6,
    "linear_value_head_dim": 10,
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
    }
}
