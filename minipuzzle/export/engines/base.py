"""What an engine is: a file of this folder that holds ``ENGINE``, one of these. No torch.

A rule says whether the engine loads a checkpoint, from its shapes alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from minipuzzle.arch import Architecture

HYBRIDS = ("nemotron_h", "nemotron_h_puzzle")
EVERYWHERE = ("llama", "mistral", "qwen2", "qwen3")
"""Families that every engine here has had for years."""
AS_IT_IS = "as it is: an ordinary checkpoint of its family"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A checkpoint, of which only config.json and the tokenizer need be there."""

    path: Path
    family: str
    architecture: Architecture


@dataclass(frozen=True, kw_only=True)
class Answer:
    """ "yes", "no" or "unproven"; how the engine is started, or why it does not load."""

    loads: str
    how: str


def yes(how: str) -> Answer:
    """It loads."""
    return Answer(loads="yes", how=how)


def no(why: str) -> Answer:
    """It does not."""
    return Answer(loads="no", how=why)


def unproven(why: str) -> Answer:
    """Nobody knows."""
    return Answer(loads="unproven", how=why)


def ordinary(asked: Asked) -> Answer:
    """The answer of an engine that was not looked at for this family."""
    if asked.family in EVERYWHERE:
        return yes(AS_IT_IS)
    return unproven("whether it has this family was not looked up")


@dataclass(frozen=True, kw_only=True)
class Engine:
    """A program that runs checkpoints.

    ``label`` is its name for people, ``place`` its place in the table. ``read`` says in which
    source the ``rule`` was read, ``families`` for which model_types; ``others`` answers for the
    rest. ``gguf``: it reads the file that we write, not the checkpoint.
    """

    label: str
    place: int
    read: str
    families: tuple[str, ...]
    rule: Callable[[Asked], Answer]
    others: Callable[[Asked], Answer] = ordinary
    gguf: bool = False

    def answer(self, asked: Asked) -> Answer:
        """Whether it loads a checkpoint."""
        return (self.rule if asked.family in self.families else self.others)(asked)


def varying(architecture: Architecture) -> set[str]:
    """The axes that have more than one size among the blocks of a kind, such as {"intermediate",
    "heads"}.
    """
    seen: dict[tuple[str, str], set[int]] = {}
    for block in architecture.blocks:
        for axis, size in block.sizes.items():
            seen.setdefault((block.kind, axis), set()).add(size)
    return {axis for (_, axis), sizes in seen.items() if len(sizes) > 1}


def split(architecture: Architecture) -> tuple[str, str, bool]:
    """Which axes vary, in words: (of the recurrence, of attention), and whether FFN widths do."""
    axes = varying(architecture)
    ssm = axes & {"heads", "head_dim", "groups", "state", "kernel"}
    attention = axes & {"q_heads", "kv_heads", "attn_head_dim"}
    return ", ".join(sorted(ssm)), ", ".join(sorted(attention)), "intermediate" in axes
