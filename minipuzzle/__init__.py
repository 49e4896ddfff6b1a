"""minipuzzle: compress hybrid Mamba-Transformer language models. See README.md for the rooms."""

from __future__ import annotations

__version__ = "0.1.0"
