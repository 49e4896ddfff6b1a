"""Texts that estimators score a tiny model on."""

import numpy as np
import torch

from minipuzzle.data import pack

VOCAB = 61


def texts(n=5, length=24):
    tokens = (
        torch.randint(0, VOCAB, (n * length,), generator=torch.Generator().manual_seed(3))
        .numpy()
        .astype("uint32")
    )
    return pack(
        [tokens], block_length=length, vocab_size=VOCAB, seed=0, fingerprint="t", text_bytes=1
    )


def tokens(blocks):
    return torch.from_numpy(blocks.tokens.astype(np.int64))
