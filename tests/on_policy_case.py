"""A student, its teacher and completions, for studies/trl_losses.py and the test of its numbers."""

import torch
from conftest import shaken, tiny


def models():
    """(student, teacher)."""
    return shaken(tiny("M-*", vocab=61), 1), shaken(tiny("M-*", vocab=61), 0)


def completions():
    """(tokens [3, 14], the length of each prompt, where each completion ends)."""
    tokens = torch.randint(0, 61, (3, 14), generator=torch.Generator().manual_seed(0))
    return tokens, 5, [14, 9, 6]
