"""Which files a path means: suffixes, folders, links. Nothing is passed over without a word."""

import gzip
import os

import pytest
from test_texts import GOOD, PAIR, read_all, refused

from minipuzzle import embedded
from minipuzzle.data import Tokenizer, load_blocks, read_documents
from minipuzzle.data.files import data_files
from minipuzzle.data.rows import is_chat
from minipuzzle.messages import print_messages


@pytest.fixture(scope="module")
def own():
    return Tokenizer.load(embedded.teacher_path())


@pytest.mark.parametrize("name", ["a.JSONL", "a.Jsonl", "a.jsonl.GZ", "a.JSONL.gz", "a.b.jsonl"])
def test_the_case_of_a_suffix_means_nothing(tmp_path, name):
    (tmp_path / name).write_bytes(gzip.compress(PAIR) if name.lower().endswith("gz") else PAIR)
    assert is_chat(tmp_path / name)
    assert list(read_documents(tmp_path)) == ["two and two: four"]


def test_json_lines_are_so_called_at_the_end_of_a_name(tmp_path, own):
    (tmp_path / "notes.jsonl.txt").write_bytes(PAIR * 40)
    assert not load_blocks(tmp_path, own, block_length=16).spans


def put(folder, names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(GOOD if ".jsonl" in name else b"words of " + name.encode())
    return folder


def test_hidden_files_and_licences_are_no_text_and_what_is_left_out_is_said(tmp_path, own, capsys):
    put(
        tmp_path,
        [
            "a.txt",
            "b.jsonl",
            ".a.txt",
            "._b.jsonl",
            ".ipynb_checkpoints/a.txt",
            "LICENSE.txt",
            "licence-mit.TXT",
            "README.md",
            "readme_en.txt",
            "NOTICE.txt",
            "c.csv",
            "more/d.txt",
            "license_texts.jsonl",
        ],
    )
    assert [p.name for p in data_files(tmp_path)] == [
        "a.txt",
        "b.jsonl",
        "license_texts.jsonl",
        "d.txt",
    ]
    print_messages()
    load_blocks(tmp_path, own, block_length=2)
    said = capsys.readouterr().err
    for name in (
        "LICENSE.txt",
        "licence-mit.TXT",
        "readme_en.txt",
        "NOTICE.txt",
        "c.csv",
        "README.md",
        "with that in more",
    ):
        assert name in said
    assert "._b" not in said
    assert list(read_documents(tmp_path / "LICENSE.txt")) == [
        "words of LICENSE.txt"
    ]  # named itself, it is one


def test_texts_in_folders_below_are_read(tmp_path, own, monkeypatch):
    names = ["data/en/train.jsonl", "data/de/train.txt.gz", "data/de/b.txt"]
    put(tmp_path, ["README.md", *names[:1], *names[2:], ".cache/a.txt", "docs/LICENSE.txt"])
    (tmp_path / names[1]).write_bytes(gzip.compress(b"words"))
    (tmp_path / "again").symlink_to(tmp_path / "data")  # a link may lead round
    assert data_files(tmp_path) == [tmp_path / name for name in sorted(names)]
    (tmp_path / "data/en/train.jsonl").write_bytes(GOOD * 9)
    blocks = load_blocks(tmp_path, own, block_length=2, by_file=True)
    assert [d.name for d in blocks.domains] == ["data/de/b", "data/en/train", "others"]
    monkeypatch.setattr("minipuzzle.data.files.MOST_FOLDERS", 2)
    assert "too many folders" in refused(tmp_path).what


@pytest.mark.parametrize("name", ["b.jsonl.zst", "b.txt.zip", "b.parquet.gz", "b.txt.gz.xz"])
def test_a_part_of_a_folder_that_we_cannot_open_is_not_passed_over(tmp_path, name):
    put(tmp_path, ["a.txt", name])
    assert name in refused(tmp_path).what


def test_what_is_no_file_is_refused_at_once(tmp_path, own):
    os.mkfifo(tmp_path / "pipe.txt")
    assert "neither" in refused(tmp_path / "pipe.txt").got  # and would wait for a writer for ever
    assert "pipe.txt" in refused(tmp_path).what
    os.remove(tmp_path / "pipe.txt")
    (tmp_path / "a.txt").symlink_to("nowhere.txt")
    assert "a.txt" in refused(tmp_path).got
    (tmp_path / "b.txt").symlink_to("b.txt")
    assert "symbolic links" in refused(tmp_path / "b.txt").got
    for path, got in (
        (tmp_path / "a\0.txt", "null"),
        (tmp_path / ("x" * 300), "too long"),
        (tmp_path / "c.txt/d.txt", ""),
    ):
        assert got in refused(path).got
    for folder in ("empty", "folder.jsonl"):
        (tmp_path / folder).mkdir()
        assert refused(tmp_path / folder).got == "an empty folder"


def test_a_file_that_may_not_be_read_is_told(tmp_path, own, monkeypatch):
    put(tmp_path, ["a.jsonl", "b.parquet"])

    def closed(path, *options):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pathlib.Path.open", closed)  # root may read everything
    for read in (lambda p: load_blocks(p, own, block_length=8), is_chat, read_all):
        error = refused(tmp_path / "a.jsonl", read)
        assert (error.got, "permissions" in error.next) == ("Permission denied", True)
