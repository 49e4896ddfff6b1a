"""A config.json of Nemotron-H that tests change."""

BASE = {
    "model_type": "nemotron_h",
    "vocab_size": 61,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "mamba_num_heads": 8,
    "mamba_head_dim": 4,
    "n_groups": 2,
    "ssm_state_size": 8,
    "hybrid_override_pattern": "M-*M",
}
LISTED = ["mamba", "mlp", "attention", "mamba"]
