"""The text of studies/fp8_parity.py as tokens: small enough, in parts, to travel to a GPU machine.

    # 20 minutes on one core
    python studies/fp8_data.py --shared ../shared/data --out .carry/fp8

A byte-level BPE of 16,384 words, trained on 10 MB of each group; the training text of prose, docs
and code (84.7 M tokens), documents shuffled, its first ``--shards`` x 16 M tokens as
``train-N.npy.xz`` of uint16 (11.6 MiB each: four travel in one call), the validation text as
``val.npy.xz``; ``tokenizer.json``.
"""

from __future__ import annotations

import argparse
import io
import json
import lzma
from pathlib import Path

import numpy as np

from minipuzzle.data import Tokenizer
from minipuzzle.data.documents import read_documents
from minipuzzle.data.tokenizer import train_tokenizer

VOCABULARY, SHARD_TOKENS, SAMPLE_CHARACTERS = 16384, 16_000_000, 10_000_000
GROUPS = ("prose", "docs", "code")


def main() -> None:
    """Tokenise and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--shards", type=int, default=4)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    texts = {
        group: list(read_documents(options.shared / f"{group}.train.txt.xz")) for group in GROUPS
    }
    if not (options.out / "tokenizer.json").exists():
        sample = [document[:100_000] for group in GROUPS for document in some(texts[group])]
        train_tokenizer(sample, VOCABULARY).save(str(options.out / "tokenizer.json"))
        (options.out / "tokenizer_config.json").write_text(
            json.dumps({"eos_token": "<|endoftext|>"})
        )
    tokenizer = Tokenizer.load(options.out)
    held = [d for group in GROUPS for d in read_documents(options.shared / f"{group}.val.txt.xz")]
    write(
        options.out / "val.npy.xz",
        np.concatenate([t.astype(np.uint16) for t in tokenizer.encode_documents(held)]),
    )
    lists: list[np.ndarray] = []
    for group in GROUPS:
        lists += [
            tokens.astype(np.uint16) for tokens in tokenizer.encode_documents(texts.pop(group))
        ]
        print(f"{group}: {sum(map(len, lists)):,} tokens so far", flush=True)
    order = np.random.default_rng(0).permutation(len(lists))
    joined = np.concatenate([lists[i] for i in order])
    for number in range(min(options.shards, -(-len(joined) // SHARD_TOKENS))):
        start = number * SHARD_TOKENS
        write(options.out / f"train-{number}.npy.xz", joined[start : start + SHARD_TOKENS])


def some(documents: list[str]) -> list[str]:
    """Documents in a random order while they fit SAMPLE_CHARACTERS."""
    chosen, used = [], 0
    for i in np.random.default_rng(0).permutation(len(documents)):
        if used < SAMPLE_CHARACTERS:
            chosen.append(documents[i])
            used += min(len(documents[i]), 100_000)
    return chosen


def write(path: Path, tokens: np.ndarray) -> None:
    """One compressed array."""
    buffer = io.BytesIO()
    np.save(buffer, tokens)
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 6, "lc": 0, "lp": 1, "pb": 1}]
    path.write_bytes(lzma.compress(buffer.getvalue(), filters=filters))
    print(f"{path}: {len(tokens):,} tokens, {path.stat().st_size / 2**20:.1f} MiB", flush=True)


if __name__ == "__main__":
    main()
