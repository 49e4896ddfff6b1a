"""Documents in, token blocks out: packing, batches, what is stored, and the embedded texts."""

from __future__ import annotations

import hashlib
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from texts_on_disk import AS_TEXT

from minipuzzle import embedded
from minipuzzle.data import TokenBlocks, Tokenizer, load_blocks, pack, read_documents
from minipuzzle.data.blocks import _order
from minipuzzle.errors import UserError


@pytest.fixture(scope="module")
def own() -> Tokenizer:
    return Tokenizer.load(embedded.teacher_path())


def numbered(lengths: list[int], length: int, seed: int = 0) -> TokenBlocks:
    """Blocks of documents whose tokens are all different: 0, 1, 2, ... over all documents."""
    edges = np.cumsum([0, *lengths])
    lists = [np.arange(a, b, dtype=np.uint32) for a, b in pairwise(edges)]
    return pack(
        lists,
        block_length=length,
        vocab_size=int(edges[-1]) + 1,
        seed=seed,
        fingerprint="x",
        text_bytes=1000,
    )


@given(st.lists(st.integers(1, 30), min_size=1, max_size=20), st.integers(1, 16), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_packing_keeps_every_token_once_and_marks_every_boundary(
    lengths: list[int], length: int, seed: int
) -> None:
    total = sum(lengths)
    if total < length:
        with pytest.raises(UserError, match="shorter than a block") as caught:
            numbered(lengths, length, seed)
        assert (caught.value.got, caught.value.allowed) == (f"{total} tokens", f"at least {length}")
        return
    made = numbered(lengths, length, seed)
    assert len(made) == total // length
    assert made.block_length == length
    assert len(np.unique(made.tokens)) == made.tokens.size
    owner = np.repeat(np.arange(len(lengths)), lengths)
    for tokens, documents in zip(made.tokens, made.documents, strict=True):
        owners = owner[tokens]
        changes = np.flatnonzero(np.diff(owners)) + 1
        assert documents[0] == 0
        assert np.array_equal(np.flatnonzero(np.diff(documents)) + 1, changes)
        assert np.all(np.diff(documents)[changes - 1] == 1)
        inside = np.diff(tokens.astype(int))[np.diff(owners) == 0]
        assert np.all(inside == 1)


def test_the_vocabulary_sets_the_width_of_the_tokens_and_bounds_them() -> None:
    tokens = [np.array([1, 65535], dtype=np.uint32)]
    about = {"block_length": 2, "seed": 0, "fingerprint": "x", "text_bytes": 1}
    assert pack(tokens, vocab_size=65536, **about).tokens.dtype == np.uint16  # type: ignore[arg-type]
    assert pack(tokens, vocab_size=65537, **about).tokens.dtype == np.uint32  # type: ignore[arg-type]
    with pytest.raises(UserError, match="outside the vocabulary"):
        pack(tokens, vocab_size=65535, **about)  # type: ignore[arg-type]


@pytest.mark.parametrize("batch", [1, 3, 7, 25])
def test_batches_resume_and_take_each_block_once_an_epoch(batch: int) -> None:
    made = numbered([40, 30, 30], 10)
    stream = np.concatenate([made.batch(step, batch, seed=4)[0] for step in range(30)])
    for epoch in range(len(stream) // 10):
        assert Counter(stream[10 * epoch : 10 * epoch + 10, 0].tolist()) == Counter(
            made.tokens[:, 0].tolist()
        )
    _order.cache_clear()
    tokens, documents = made.batch(17, batch, seed=4)
    assert np.array_equal(tokens, stream[17 * batch : 18 * batch])
    assert (tokens.dtype, documents.dtype, documents.shape) == (np.int64, np.int32, (batch, 10))
    assert not np.array_equal(made.batch(0, 10, seed=4)[0], made.batch(1, 10, seed=4)[0])
    assert not np.array_equal(made.batch(0, 10, seed=4)[0], made.batch(0, 10, seed=5)[0])


def test_taken_blocks_are_a_seeded_choice_and_halves_are_disjoint() -> None:
    made = numbered([100], 10)
    taken = made.take(4, seed=1)
    assert len({*taken.tokens[:, 0].tolist()} & {*made.tokens[:, 0].tolist()}) == 4
    assert np.array_equal(taken.tokens, made.take(4, seed=1).tokens)
    assert len({made.fingerprint, taken.fingerprint, made.take(4, seed=2).fingerprint}) == 3
    halves = [made.every_other(i) for i in (0, 1)]
    assert sorted(np.concatenate([h.tokens[:, 0] for h in halves])) == sorted(made.tokens[:, 0])
    assert taken.text_bytes == 400
    with pytest.raises(UserError, match="too short"):
        made.take(11)


def test_stored_tokens_are_found_again_and_anything_else_makes_new_ones(
    tmp_path: Path, own: Tokenizer
) -> None:
    text, cache = tmp_path / "a.txt", tmp_path / "cache"
    text.write_bytes(AS_TEXT * 20)

    def load(block_length: int = 16, seed: int = 0, max_tokens: int | None = None) -> TokenBlocks:
        return load_blocks(
            text, own, block_length=block_length, seed=seed, cache=cache, max_tokens=max_tokens
        )

    made, again = load(), load()
    assert [p.name for p in cache.iterdir()] == [f"{made.fingerprint}.safetensors"]
    assert np.array_equal(made.tokens, again.tokens)
    assert np.array_equal(made.documents, again.documents)
    assert (made.text_bytes, made.fingerprint) == (again.text_bytes, again.fingerprint)
    others = {
        load(seed=1).fingerprint,
        load(block_length=8).fingerprint,
        load(max_tokens=64).fingerprint,
    }
    text.write_bytes(AS_TEXT * 21)
    others |= {made.fingerprint, load().fingerprint}
    assert len(others) == len(list(cache.iterdir())) == 5


def test_a_damaged_store_is_an_error_that_says_what_to_do(tmp_path: Path, own: Tokenizer) -> None:
    (tmp_path / "a.txt").write_bytes(AS_TEXT)
    made = load_blocks(tmp_path / "a.txt", own, block_length=4, cache=tmp_path)
    stored = tmp_path / f"{made.fingerprint}.safetensors"
    stored.write_bytes(stored.read_bytes()[:-5])
    with pytest.raises(UserError, match="Delete it"):
        load_blocks(tmp_path / "a.txt", own, block_length=4, cache=tmp_path)


def test_max_tokens_takes_the_start_of_the_text_and_its_bytes(
    tmp_path: Path, own: Tokenizer
) -> None:
    text = tmp_path / "a.txt"
    text.write_text("all the people of the United States, " * 400)
    whole, part = (load_blocks(text, own, block_length=8, max_tokens=m) for m in (None, 800))
    assert part.tokens.size == 800
    assert np.array_equal(part.tokens.ravel(), whole.tokens.ravel()[:800])
    assert part.text_bytes == pytest.approx(whole.text_bytes * 800 / whole.tokens.size, rel=1e-3)
    with pytest.raises(UserError, match="shorter than a block"):
        load_blocks(text, own, block_length=8, max_tokens=7)


KINDS = ("code", "docs", "speeches")


def test_embedded_texts_share_no_document_and_fit_the_package() -> None:
    files = {
        w: sorted(embedded.text_path(w).iterdir()) for w in ("train", "calibration", "validation")
    }
    assert all(
        tuple(file.name.split(".")[0] for file in found) == KINDS for found in files.values()
    )
    texts = {w: list(read_documents(embedded.text_path(w))) for w in files}
    digests = {
        w: [hashlib.sha256(d.encode()).hexdigest() for d in documents]
        for w, documents in texts.items()
    }
    every = [digest for found in digests.values() for digest in found]
    assert len(set(every)) == len(every)
    held = (embedded.HERE / "heldout.txt").read_text().split()
    assert not {*held} & {*digests["train"], *digests["calibration"]}
    assert sum(file.stat().st_size for found in files.values() for file in found) < 850_000


@pytest.mark.parametrize("kind", KINDS)
def test_embedded_validation_repeats_nothing_of_the_other_texts(kind: str) -> None:
    texts = {
        w: list(read_documents(embedded.text_path(w) / f"{kind}.txt.bz2"))
        for w in ("train", "calibration", "validation")
    }
    assert sum(len(d.encode()) for d in texts["validation"]) > 100_000
    other = "\n".join(texts["train"] + texts["calibration"])
    # long runs of words shared between splits would be a second print of the same address, or a
    # copied function
    for document in texts["validation"]:
        samples = [document[i : i + 200] for i in range(0, len(document) - 200, 1000)]
        assert sum(s in other for s in samples) <= 0.02 * len(samples)
