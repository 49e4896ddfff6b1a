"""Texts in, token blocks out. Oracles: gzip, lzma, json and pyarrow write the files; transformers
and whole-document encoding by ``tokenizers`` say what the tokens are; hashlib says which documents
are the same.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import json
import lzma
import shutil
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minipuzzle import embedded
from minipuzzle.data import (
    TokenBlocks,
    Tokenizer,
    load_blocks,
    pack,
    read_documents,
    train_tokenizer,
)
from minipuzzle.data.blocks import _order
from minipuzzle.data.documents import SEPARATOR
from minipuzzle.errors import UserError

DOCUMENTS = ["One.\n\nStill one.", "Zwei: größer ✓\n", "three\tand\n\n\nmore", "four"]
AS_TEXT = SEPARATOR.join(DOCUMENTS).encode()
AS_JSONL = "".join(json.dumps({"text": d, "id": 3}) + "\n" for d in DOCUMENTS).encode()


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


# documents


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", AS_TEXT),
        ("a.txt.xz", lzma.compress(AS_TEXT)),
        ("a.txt.gz", gzip.compress(AS_TEXT)),
        ("a.txt.bz2", bz2.compress(AS_TEXT)),
        ("a.jsonl.bz2", bz2.compress(AS_JSONL)),
        ("a.jsonl", AS_JSONL),
        ("a.jsonl.xz", lzma.compress(AS_JSONL)),
        ("a.jsonl.gz", gzip.compress(AS_JSONL)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_format_gives_the_documents_back(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert list(read_documents(tmp_path / name)) == DOCUMENTS
    assert list(read_documents(tmp_path)) == DOCUMENTS


def test_parquet_gives_the_documents_back(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(
        arrow.table({"id": [1, 2, 3, 4], "text": DOCUMENTS}),
        tmp_path / "a.parquet",
        row_group_size=3,
    )
    assert list(read_documents(tmp_path / "a.parquet")) == DOCUMENTS


def test_a_folder_is_its_files_by_name_and_other_files_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("second")
    (tmp_path / "a.jsonl").write_text('{"text": "first"}\n')
    (tmp_path / "readme.md").write_text("not this")
    (tmp_path / "folder.txt").mkdir()
    assert list(read_documents(tmp_path)) == ["first", "second"]


@pytest.mark.parametrize("part", [1, 3, 5, 1 << 25])
def test_a_separator_across_two_reads_separates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: int
) -> None:
    monkeypatch.setattr("minipuzzle.data.documents.READ_AT_ONCE", part)
    (tmp_path / "a.txt").write_bytes(AS_TEXT)
    assert list(read_documents(tmp_path / "a.txt")) == DOCUMENTS


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.txt", b" \n", "holds no text"),
        ("a.csv", b"text", "not a text that we read"),
        ("a.txt", "größer".encode("latin-1"), "not UTF-8"),
        ("a.jsonl", '{"text": "größer"}'.encode("latin-1"), "not UTF-8"),
        ("a.jsonl", b'{"text": "a"}\n\n{"words": "b"}\n', "Line 3 "),
        ("a.jsonl", b'{"text": null}\n', "Line 1 "),
        ("a.jsonl", b'{"text": "a"}\n{"text"', "Line 2 "),
        ("a.txt.xz", lzma.compress(AS_TEXT)[:-30], "cannot be read"),
        ("a.txt.gz", gzip.compress(AS_TEXT)[:-12], "cannot be read"),
        ("a.txt.bz2", b"not bzip2", "cannot be read"),
        ("a.parquet", b"not parquet", "cannot be read"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_text_that_cannot_be_used_says_why(
    tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=says):
        list(read_documents(tmp_path / name))


def test_a_missing_path_and_an_empty_folder_are_errors(tmp_path: Path) -> None:
    for path in (tmp_path / "none.txt", tmp_path):
        with pytest.raises(UserError):
            list(read_documents(path))


def test_parquet_without_a_text_column_or_with_an_empty_row_is_an_error(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table({"words": ["a"]}), tmp_path / "a.parquet")
    parquet.write_table(arrow.table({"text": ["a", None]}), tmp_path / "b.parquet")
    with pytest.raises(UserError, match="no text column"):
        list(read_documents(tmp_path / "a.parquet"))
    with pytest.raises(UserError, match="Row 1 "):
        list(read_documents(tmp_path / "b.parquet"))


# tokenizer


def test_transformers_reads_the_embedded_tokenizer_and_agrees(own: Tokenizer) -> None:
    theirs = pytest.importorskip("transformers").AutoTokenizer.from_pretrained(
        embedded.teacher_path()
    )
    address = next(read_documents(embedded.text_path("validation") / "speeches.txt.bz2"))[:20_000]
    documents = [*DOCUMENTS, address, "def f(x):\n    return x\n"]
    for document, tokens in zip(documents, own.encode_documents(documents), strict=True):
        assert tokens.tolist() == theirs(document, add_special_tokens=False)["input_ids"] + [
            theirs.eos_token_id
        ]
        assert own.decode(tokens[:-1]) == document
    assert (own.vocab_size, own.eos_id) == (len(theirs), theirs.eos_token_id) == (4096, 0)
    assert (theirs.pad_token_id, theirs.model_max_length) == (1, 2048)


@given(st.text(max_size=200))
@settings(max_examples=50, deadline=None)
def test_bytes_survive_the_round_trip(own: Tokenizer, text: str) -> None:
    (tokens,) = own.encode_documents([text])
    assert own.decode(tokens[:-1]) == text


@pytest.mark.parametrize(
    "how",
    ["byte level", "lines with punctuation", "leading mark on words", "leading mark on texts"],
)
def test_long_documents_are_encoded_in_pieces_with_the_tokens_of_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    import tokenizers
    from tokenizers import pre_tokenizers, trainers

    line = tokenizers.Regex(r"[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s?[\p{L}\p{N}]+|\s+")
    splitter = {
        "byte level": pre_tokenizers.ByteLevel(add_prefix_space=False),
        "lines with punctuation": pre_tokenizers.Split(line, "isolated"),
        "leading mark on words": pre_tokenizers.Metaspace(),
        "leading mark on texts": pre_tokenizers.Split(line, "isolated"),
    }[how]
    text = (
        next(read_documents(embedded.text_path("validation") / "speeches.txt.bz2"))[:30_000]
        + "\n\n  x = 1;\n\n\n" * 50
    )
    whole = tokenizers.Tokenizer(tokenizers.models.BPE())
    whole.pre_tokenizer = splitter
    if how == "leading mark on texts":
        whole.normalizer = tokenizers.normalizers.Prepend("_")
    whole.train_from_iterator(
        [text], trainers.BpeTrainer(vocab_size=500, special_tokens=["</s>"], show_progress=False)
    )
    whole.save(str(tmp_path / "tokenizer.json"))
    monkeypatch.setattr("minipuzzle.data.tokenizer.PIECE", 1000)
    monkeypatch.setattr("minipuzzle.data.tokenizer.CHARACTERS_AT_ONCE", 3000)
    loaded = Tokenizer.load(tmp_path)
    assert (len(list(loaded._pieces(text))) > 20) == (how != "leading mark on texts")
    got = [tokens.tolist() for tokens in loaded.encode_documents([text, "", "short", text[5:]])]
    assert got == [[*whole.encode(d).ids, 0] for d in (text, "", "short", text[5:])]


def test_truncation_and_padding_in_the_file_do_not_touch_the_text(
    tmp_path: Path, own: Tokenizer
) -> None:
    import tokenizers

    shutil.copy(embedded.teacher_path() / "tokenizer_config.json", tmp_path)
    file = tokenizers.Tokenizer.from_file(str(embedded.teacher_path() / "tokenizer.json"))
    file.enable_truncation(4)
    file.enable_padding(pad_id=1, pad_token="<|pad|>")
    file.save(str(tmp_path / "tokenizer.json"))
    texts = ["one two three four five six seven", "a"]
    got, expected = (list(t.encode_documents(texts)) for t in (Tokenizer.load(tmp_path), own))
    assert [t.tolist() for t in got] == [t.tolist() for t in expected]


def test_a_trained_tokenizer_has_its_end_and_padding_first(tmp_path: Path) -> None:
    made = train_tokenizer(DOCUMENTS * 5, 280)
    made.save(str(tmp_path / "tokenizer.json"))
    loaded = Tokenizer.load(tmp_path)
    assert (made.token_to_id("<|endoftext|>"), made.token_to_id("<|pad|>"), loaded.eos_id) == (
        0,
        1,
        0,
    )
    assert loaded.vocab_size == made.get_vocab_size() == 280
    assert (
        loaded.fingerprint
        == hashlib.sha256((tmp_path / "tokenizer.json").read_bytes()).hexdigest()[:16]
    )


def test_a_missing_broken_or_endless_tokenizer_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no tokenizer"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        Tokenizer.load(tmp_path)
    import tokenizers

    tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0}, [])).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UserError, match="end-of-document"):
        Tokenizer.load(tmp_path)


# blocks


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


# what ships


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
