"""Models whose distillation is timed: about 1 B, and Nemotron-H-8B's shape cut to half."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from minipuzzle.arch import Architecture
from minipuzzle.checkpoint import read_config
from minipuzzle.kinds import Attention, Block, FeedForward, Mamba2

EIGHT = Path(__file__).resolve().parent.parent / "docs/examples/nemotron-h-8b"
PATTERN = "M-M-M-M*-M-M-M*-M-M-M*-M-M-"
"""Of the 8B's student, 4.05 B parameters."""


def one_billion(tiny: bool) -> tuple[Architecture, Architecture]:
    """(teacher of 1.2 B, student of 1.0 B), or of a few thousand."""
    hidden, vocab = (64, 512) if tiny else (2048, 131072)
    heads, groups, state = (16, 2, 16) if tiny else (64, 8, 128)
    m = Mamba2(
        hidden=hidden,
        heads=heads,
        head_dim=hidden // 32 if not tiny else 8,
        groups=groups,
        state=state,
        chunk_size=32 if tiny else 128,
    )
    f = FeedForward(hidden=hidden, intermediate=4 * hidden)
    a = Attention(
        hidden=hidden,
        q_heads=4 if tiny else 16,
        kv_heads=2 if tiny else 4,
        attn_head_dim=16 if tiny else 128,
    )
    blocks: tuple[Block, ...] = (m, f, m, f, m, a, f, m, f, m, f, m, f, m, a, f, m, f, m, f, m, f)
    teacher = Architecture(vocab_size=vocab, hidden=hidden, blocks=blocks)
    narrow = replace(f, intermediate=11 * hidden // 4)
    kept = [
        narrow if isinstance(b, FeedForward) else b
        for i, b in enumerate(blocks)
        if i not in (10, 11)
    ]
    return teacher, replace(teacher, blocks=tuple(kept))


def eight_billion(layers: int | None = None) -> tuple[Architecture, Architecture]:
    """(Nemotron-H-8B, the first ``layers`` blocks of PATTERN with its sizes but narrower FFNs)."""
    teacher = read_config(EIGHT)[1]
    by_letter = {block.letter: block for block in teacher.blocks}
    by_letter["-"] = replace(by_letter["-"], intermediate=15616)
    return teacher, replace(teacher, blocks=tuple(by_letter[c] for c in PATTERN[:layers]))
