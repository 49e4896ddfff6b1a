"""Texts in, packed token blocks out."""

from minipuzzle.data.blend import blended
from minipuzzle.data.blocks import TokenBlocks, pack
from minipuzzle.data.documents import read_documents
from minipuzzle.data.load import load_blocks
from minipuzzle.data.tokenizer import Tokenizer, train_tokenizer

__all__ = [
    "TokenBlocks",
    "Tokenizer",
    "blended",
    "load_blocks",
    "pack",
    "read_documents",
    "train_tokenizer",
]
