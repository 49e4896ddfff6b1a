"""What files of several families can't say of a pruned model."""

from minipuzzle.arch import Multiple

WHOLE_EXPANSION = Multiple(
    axes=("heads", "head_dim"),
    of="hidden",
    sentence="Mamba heads x head_dim stays a whole multiple of the hidden size",
)
"""The config has a factor ("expand") in place of the width."""
WHOLE_HEADS = Multiple(
    axes=("hidden",),
    of="q_heads",
    sentence="the hidden size stays a whole multiple of the query heads",
)
"""transformers insists."""
