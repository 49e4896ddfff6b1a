"""What a loss of hidden states and heads works in, and which of its two ways it takes
(``training.head_loss``).
"""

from __future__ import annotations

ROW_BYTES = 512 << 20
"""FP32 logits of both models, over the whole vocabulary, that are alive at a time."""
GRADIENT_BYTES = 2 << 30
"""Rounded gradients of logits that are collected before they are multiplied, each time with a pass
over the head's gradient: those of 8,192 tokens at 131,072 vocabulary entries.
"""
COPY_BYTES = 1 << 30
"""What the BF16 copies of FP32 heads may take."""
TILE_BYTES = 896 << 20
"""What one tile's buffers may take together, where logits are made twice."""
LOGIT, ROUNDED = 4, 2


def rows_at_a_time(vocab: int) -> int:
    """Tokens whose logits are alive at a time; a power of two."""
    return 1 << max(16, ROW_BYTES // (2 * LOGIT * vocab)).bit_length() - 1


def rows_collected(vocab: int) -> int:
    """Tokens whose logits' gradients are collected; so many times ``rows_at_a_time``."""
    rows = rows_at_a_time(vocab)
    return max(rows, GRADIENT_BYTES // (ROUNDED * vocab) // rows * rows)


def makes_logits_once(tokens: int, vocab: int, *, copies: int, rounded: bool) -> bool:
    """Whether that costs no memory worth saving: ``copies`` are bytes of heads in the dtype of
    products, ``rounded`` says that the head's gradient is to be BF16, which takes no FP32 sums
    where one product makes it.
    """
    return copies <= COPY_BYTES and (not rounded or tokens <= rows_collected(vocab))


def loss_bytes(tokens: int, vocab: int, *, copies: int, rounded: bool) -> int:
    """Beside hidden states, heads and the gradients of these."""
    if not makes_logits_once(tokens, vocab, copies=copies, rounded=rounded):
        return TILE_BYTES
    logits = 2 * LOGIT * vocab * min(tokens, rows_at_a_time(vocab))
    return logits + ROUNDED * vocab * min(tokens, rows_collected(vocab)) + copies
