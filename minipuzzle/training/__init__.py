"""Recovering the loss: one loop, whatever the objective."""

from minipuzzle.model import mixed_precision
from minipuzzle.training.checkpointing import load_parameters
from minipuzzle.training.loop import train
from minipuzzle.training.objectives import (
    answers_only,
    check_vocabularies,
    distillation,
    next_token,
)

__all__ = [
    "answers_only",
    "check_vocabularies",
    "distillation",
    "load_parameters",
    "mixed_precision",
    "next_token",
    "train",
]
