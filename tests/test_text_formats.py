"""Texts of each format in, documents out, or an error that says why. Oracles: gzip, lzma, json and
pyarrow write the files.
"""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from pathlib import Path

import pytest
from texts_on_disk import AS_TEXT, DOCUMENTS

from minipuzzle.data import read_documents
from minipuzzle.errors import UserError

AS_JSONL = "".join(json.dumps({"text": d, "id": 3}) + "\n" for d in DOCUMENTS).encode()


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
