"""Texts as people have them: damaged, misnamed, in folders. Oracles: json, gzip, bz2, lzma and
pyarrow write the files.
"""

import bz2
import gzip
import json
import lzma
import os

import numpy as np
import pytest
from helpers import run

from minipuzzle import embedded
from minipuzzle.data import Tokenizer, load_blocks, read_documents
from minipuzzle.data.conversations import Conversations
from minipuzzle.errors import UserError

GOOD = json.dumps({"text": "a good line"}).encode() + b"\n"
PAIR = json.dumps({"prompt": "two and two:", "answer": " four"}).encode() + b"\n"


@pytest.fixture(scope="module")
def own():
    return Tokenizer.load(embedded.teacher_path())


def read_all(path):
    return list(read_documents(path))


def read_examples(path):
    words = Tokenizer.load(embedded.teacher_path())
    return Conversations(tokenizer=words, loss_on="assistant").read(path)


def refused(path, read=read_all):
    with pytest.raises(UserError) as caught:
        read(path)
    return caught.value


LINES = {
    "lone surrogate": (
        rb'{"text": "x \ud83d", "prompt": "\udc00", "answer": "a"}',
        "half a character",
    ),
    "Latin-1": ('{"text": "café", "prompt": "é", "answer": "a"}'.encode("latin-1"), "not UTF-8"),
    "surrogate in UTF-8": (b'{"text": "\xed\xa0\xbd", "prompt": "a", "answer": "a"}', "not UTF-8"),
    "cut": (b'{"text": "The quick br', "not valid JSON"),
    "control character": (b'{"text": "a\tb", "prompt": "a", "answer": "a"}', "not valid JSON"),
    "raw NUL": (b'{"text": "a\0b"}', "not valid JSON"),
    "deep": (b'{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "not valid JSON"),
    "long number": (b'{"text": ' + b"9" * 5_000 + b"}", "not valid JSON"),
    "bare word": (b"text: a", "not valid JSON"),
    "list": (b'[{"text": "a"}]', "not a JSON object"),
    "string": (b'"text"', "not a JSON object"),
    "null": (b'{"text": null, "prompt": "a", "answer": null}', "has no text in"),
    "number": (b'{"text": 4, "prompt": "2 + 2", "answer": 4}', "has no text in"),
    "other fields": (b'{"content": "a", "question": "b"}', "has no text in"),
}


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("kind", LINES)
def test_a_bad_line_is_named_whatever_is_wrong_with_it_and_whoever_reads_it(tmp_path, kind, suffix):
    line, says = LINES[kind]
    packed = gzip.compress if suffix else bytes
    for start, read in ((GOOD, read_documents), (PAIR, read_examples)):
        for number, content in ((1, line + b"\n" + start), (4, start + b"\n" + start + line)):
            path = tmp_path / f"a.jsonl{suffix}"
            path.write_bytes(packed(content))
            error = refused(path, lambda p, read=read: list(read(p)))
            assert error.what.startswith(f"Line {number} of {path} ")
            assert says in error.what
            assert len(error.got) < 300  # a line may be long
            assert error.got.isprintable()


def test_the_fields_that_a_line_has_are_said(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"content": "a", "id": 3}\n')
    assert "content, id" in refused(tmp_path / "a.jsonl").got


def test_a_line_that_never_ends_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("minipuzzle.data.json_lines.LONGEST_LINE", 100)
    (tmp_path / "a.jsonl").write_bytes(GOOD + b'{"text": "' + b"x" * 88 + b'"}\n')
    assert "Line 2 " in (error := refused(tmp_path / "a.jsonl")).what
    assert "too long" in error.what
    (tmp_path / "a.jsonl").write_bytes(GOOD + b'{"text": "' + b"x" * 87 + b'"}')
    assert [len(d) for d in read_documents(tmp_path / "a.jsonl")] == [11, 87]


PACKED = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


@pytest.mark.parametrize("suffix", PACKED)
@pytest.mark.parametrize("inner", [".txt", ".jsonl"])
def test_cut_and_false_archives_are_refused_by_every_reader(tmp_path, own, suffix, inner):
    rows = b"".join(
        json.dumps({"prompt": f"a{i}", "answer": f"b{i * i}"}).encode() + b"\n" for i in range(3000)
    )
    packed = PACKED[suffix](rows)
    middle = bytearray(packed)
    middle[len(packed) // 2 : len(packed) // 2 + 40] = bytes(40)
    foreign = PACKED[".xz" if suffix == ".gz" else ".gz"](rows)
    cases = {
        "cut": packed[: len(packed) * 2 // 3],
        "last": packed[:-3],
        "false": rows,
        "middle": bytes(middle),
        "foreign": foreign,
        "empty": b"" if suffix != ".bz2" else b"x",
    }
    reads = {".txt": read_all, ".jsonl": lambda p: load_blocks(p, own, block_length=64)}
    for kind, content in cases.items():
        path = tmp_path / f"{kind}{inner}{suffix}"
        path.write_bytes(content)
        error = refused(path, reads[inner])
        # the checksum of damaged data comes last, behind lines that are nonsense
        assert "cannot be read" in error.what or kind in ("middle", "empty")


@pytest.mark.parametrize(
    ("encoding", "seems"),
    [
        ("utf-16", "UTF-16"),
        ("utf-16-le", "NUL"),
        ("utf-16-be", "NUL"),
        ("utf-32", "UTF-16 or UTF-32"),
        ("latin-1", "0xe9"),
    ],
)
def test_other_encodings_are_refused_and_named(tmp_path, encoding, seems):
    (tmp_path / "a.txt").write_bytes("plain café, and more".encode(encoding))
    error = refused(tmp_path / "a.txt")
    assert seems in error.got
    row = json.dumps({"text": "café", "prompt": "é", "answer": "é"}, ensure_ascii=False) + "\n"
    (tmp_path / "a.jsonl").write_bytes(row.encode(encoding))
    for read in (read_documents, read_examples):
        assert "Line 1 " in refused(tmp_path / "a.jsonl", lambda p, read=read: list(read(p))).what


@pytest.mark.parametrize(
    ("content", "kind"),
    [(gzip.compress(b"a"), "gzip"), (bz2.compress(b"a"), "bzip2"), (lzma.compress(b"a"), "xz")],
    ids=["gzip", "bzip2", "xz"],
)
def test_an_archive_named_as_plain_text_is_called_one(tmp_path, content, kind):
    (tmp_path / "a.txt").write_bytes(content)
    assert f"begins as {kind}" in refused(tmp_path / "a.txt").got


def test_byte_order_marks_are_no_text(tmp_path, own):
    for name, content in (
        ("a.txt", b"first"),
        ("b.jsonl", GOOD),
        ("c.txt.gz", gzip.compress(b"\xef\xbb\xbflast")),
    ):
        (tmp_path / name).write_bytes(content if name.endswith("gz") else b"\xef\xbb\xbf" + content)
    assert list(read_documents(tmp_path)) == ["first", "a good line", "last"]
    (tmp_path / "pairs").mkdir()
    (tmp_path / "pairs/a.jsonl").write_bytes(b"\xef\xbb\xbf" + PAIR)
    assert len(load_blocks(tmp_path / "pairs", own, block_length=32)) == 1


@pytest.mark.parametrize("part", [1, 2, 3, 7, 1 << 25])
def test_lines_of_windows_separate_documents_too(tmp_path, monkeypatch, part):
    monkeypatch.setattr("minipuzzle.data.documents.READ_AT_ONCE", part)
    (tmp_path / "a.txt").write_bytes(b"one\r\n\r\n\f\r\ntwo\n\n\f\nthree\r\n\fstill\r\n\r\n\f\r\n")
    assert list(read_documents(tmp_path / "a.txt")) == ["one", "two", "three\r\n\fstill"]


def test_parquet_columns_that_are_no_strings(tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    for column in (
        arrow.array([b"bytes" * 50]),
        arrow.array([["a"]]),
        arrow.array([{"a": "b"}]),
        arrow.nulls(2),
        arrow.array([3]),
    ):
        parquet.write_table(arrow.table({"text": column}), path)
        error = refused(path)
        assert "Row 0 " in error.what
        assert len(error.got) < 90
    words = ["one", "two", "one"]
    for column in (
        arrow.array(words, arrow.large_string()),
        arrow.array(words).dictionary_encode(),
    ):
        parquet.write_table(arrow.table({"text": column}), path)
        assert list(read_documents(path)) == words
    whole = path.read_bytes()
    broken = bytearray(whole)
    broken[4:60] = bytes(56)
    for content in (b"", whole[: len(whole) // 2], bytes(broken), GOOD):
        path.write_bytes(content)
        assert "cannot be read" in refused(path).what


def test_nothing_to_learn_from_is_an_error(tmp_path, own):
    for name, content in (("a.txt", b""), ("a.jsonl", b"\n\n"), ("a.jsonl", b'{"text": " "}\n')):
        (tmp_path / name).write_bytes(content)
        assert "holds no text" in refused(tmp_path / name).what
        (tmp_path / name).unlink()


def test_stored_tokens_know_the_end_token_and_their_own_shape(tmp_path, own):
    (tmp_path / "a.txt").write_text("words and words " * 20)
    made = load_blocks(tmp_path / "a.txt", own, block_length=8, cache=tmp_path / "cache")
    other = Tokenizer.load(embedded.teacher_path())
    other.eos_id = 5
    assert load_blocks(tmp_path / "a.txt", other, block_length=8).fingerprint != made.fingerprint
    from safetensors.numpy import save_file

    stored = tmp_path / "cache" / f"{made.fingerprint}.safetensors"
    whole = {"tokens": made.tokens, "documents": made.documents}
    for tensors, about in (
        ({**whole, "tokens": made.tokens[:, :4].copy()}, '{"text_bytes": 1}'),
        (whole, "[]"),
        (whole, "{"),
        ({k: np.zeros((0, 8), np.int32) for k in whole}, '{"text_bytes": 1}'),
    ):
        save_file(tensors, stored, metadata={"about": about})
        again = refused(
            tmp_path / "a.txt",
            lambda p: load_blocks(p, own, block_length=8, cache=tmp_path / "cache"),
        )
        assert "Delete it" in again.next


@pytest.mark.parametrize("kind", ["latin1", "cut", "false"])
def test_adapt_answers_in_four_parts(checkpoint, tmp_path, capsys, kind):
    content = {
        "latin1": PAIR + '{"prompt": "é", "answer": "x"}\n'.encode("latin-1"),
        "cut": gzip.compress(os.urandom(2000).hex().encode().join([PAIR] * 3))[:-900],
        "false": PAIR,
    }[kind]
    data = tmp_path / ("a.jsonl" if kind == "latin1" else "a.jsonl.gz")
    data.write_bytes(content)
    run(
        "adapt",
        checkpoint,
        "--run",
        tmp_path / "run",
        "--data",
        data,
        "--length",
        64,
        "--device",
        "cpu",
        code=2,
    )
    said = capsys.readouterr().err
    assert all(part in said for part in ("error:", str(data), "got:", "allowed:", "next:"))
