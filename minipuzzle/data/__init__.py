"""Texts in, packed token blocks out."""

from minipuzzle.data.blocks import TokenBlocks, pack
from minipuzzle.data.documents import read_documents
from minipuzzle.data.instructions import has_answers, load_instructions, read_examples
from minipuzzle.data.load import load_blocks
from minipuzzle.data.tokenizer import Tokenizer, train_tokenizer

__all__ = [
    "TokenBlocks",
    "Tokenizer",
    "has_answers",
    "load_blocks",
    "load_instructions",
    "pack",
    "read_documents",
    "read_examples",
    "train_tokenizer",
]
