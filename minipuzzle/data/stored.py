"""Token blocks on disk."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from minipuzzle.artifacts import write_atomic
from minipuzzle.data.blocks import Domain, TokenBlocks
from minipuzzle.errors import UserError


def write_blocks(path: Path, blocks: TokenBlocks, source: str) -> None:
    """Write the blocks of a text that came from ``source``. Raises: UserError as
    ``write_atomic``.
    """
    tensors = {
        "tokens": np.ascontiguousarray(blocks.tokens),
        "documents": np.ascontiguousarray(blocks.documents),
    }
    about = {"text_bytes": blocks.text_bytes, "source": source, "domains": blocks.domains}
    about |= {"spans": True} if blocks.spans else {}
    write_atomic(path, save(tensors, metadata={"about": json.dumps(about)}))


def read_blocks(path: Path, fingerprint: str, block_length: int) -> TokenBlocks:
    """What ``write_blocks`` wrote. Raises: UserError where it is damaged, or of other blocks."""
    try:
        with safe_open(path, framework="np") as opened:
            about = json.loads(opened.metadata()["about"])
            tokens, documents = opened.get_tensor("tokens"), opened.get_tensor("documents")
        if (
            tokens.shape != documents.shape
            or tokens.shape[1:] != (block_length,)
            or not len(tokens)
        ):
            raise ValueError(f"tokens {list(tokens.shape)}, documents {list(documents.shape)}")
        return TokenBlocks(
            tokens=tokens,
            documents=documents,
            fingerprint=fingerprint,
            text_bytes=int(about["text_bytes"]),
            domains=tuple(Domain(*d) for d in about.get("domains", ())),
            spans=bool(about.get("spans", False)),
        )
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            "The stored tokens cannot be read.",
            got=f"{path}: {error}",
            allowed="a file that minipuzzle wrote",
            next="Delete it; it is made again.",
        ) from error
