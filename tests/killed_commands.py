"""The commands that tests/kills.py kills, and what they read."""

RECIPE = """
checkpoint: CKPT
device: cpu
data: {train: TEXT, calibration: TEXT, validation: TEXT, length: 64}
score: {samples: 24, block_samples: 12}
search: {budget: 90%, multiple: 8, candidates: 12, validation_blocks: 8,
  method: solver, refine: 2, top: 4}
distill: {short_tokens: 1536, rates: [1.0e-4, 5.0e-4],
  training: {tokens: 4096, batch: 4, save_every: 0.1}}
"""
STEPS = RECIPE.replace("budget: 90%, ", "").replace("top: 4", "top: 2") + "steps: [95%, 92%, 90%]\n"
PRETRAIN = """
model: {model_type: nemotron_h, vocab_size: 4096, hidden_size: 32,
        hybrid_override_pattern: M-*-, intermediate_size: 64,
        num_attention_heads: 4, num_key_value_heads: 2, head_dim: 8,
        mamba_num_heads: 8, mamba_head_dim: 8, n_groups: 2,
        ssm_state_size: 8, chunk_size: 16}
tokenizer: embedded
device: cpu
data: {train: TEXT, validation: TEXT, length: 64}
training: {tokens: 12000, learning_rate: 3.0e-3, batch: 8, save_every: 0.1}
"""
RUN = ("--run", "run", "--device", "cpu")
COMMANDS = {
    "score": (
        "score",
        "CKPT",
        *RUN,
        "--data",
        "TEXT",
        "--samples",
        "96",
        "--block-samples",
        "48",
        "--length",
        "64",
    ),
    "search": (
        "search",
        *RUN,
        "--data",
        "TEXT",
        "--budget",
        "90%",
        "--multiple",
        "8",
        "--candidates",
        "24",
        "--validation-blocks",
        "24",
        "--length",
        "64",
        "--method",
        "solver",
        "--refine",
        "8",
        "--top",
        "4",
    ),
    "prune": ("prune", *RUN),
    "distill": (
        "distill",
        *RUN,
        "--data",
        "TEXT",
        "--validation",
        "TEXT",
        "--tokens",
        "4096",
        "--short-tokens",
        "1536",
        "--length",
        "64",
        "--batch",
        "4",
        "--learning-rate",
        "1e-4,5e-4",
        "--save-every",
        "0.1",
    ),
    "adapt": (
        "adapt",
        "CKPT",
        *RUN,
        "--data",
        "TEXT",
        "--tokens",
        "8k",
        "--length",
        "64",
        "--batch",
        "4",
        "--rank",
        "2",
    ),
    "pretrain": ("pretrain", "pretrain.yaml", "--run", "run"),
    "run": ("run", "recipe.yaml", "--run", "run"),
    "steps": ("run", "steps.yaml", "--run", "run"),
}
BEFORE = {"search": "score", "prune": "search", "distill": "search"}
"""The command whose finished run directory another one starts from."""
