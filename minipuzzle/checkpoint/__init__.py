"""Lazy safetensors in, whole folders out, canonical names in between."""

from minipuzzle.checkpoint.config import read_config
from minipuzzle.checkpoint.reader import Checkpoint
from minipuzzle.checkpoint.writer import write_checkpoint

__all__ = ["Checkpoint", "read_config", "write_checkpoint"]
