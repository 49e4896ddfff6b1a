"""Room 7: healing the loss. One loop, two objectives."""

from minipuzzle.distill.checkpointing import load_parameters
from minipuzzle.distill.loop import train
from minipuzzle.distill.objectives import answers_only, check_vocabularies, distillation, next_token
from minipuzzle.model import mixed_precision

__all__ = [
    "answers_only", "check_vocabularies", "distillation", "load_parameters", "mixed_precision", "next_token", "train",
]  # fmt: skip
