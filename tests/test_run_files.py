"""Files of a run directory, damaged in every way: read, or refused in four parts; and what the
machine itself refuses.
"""

import copy
import errno
import json
import math
import os
from pathlib import Path

import pytest
from run_files import CANDIDATE, GOOD, four

from minipuzzle.artifacts import read_json, write_atomic, write_json
from minipuzzle.checked import fault, is_plain_name
from minipuzzle.errors import UserError
from minipuzzle.records import CommandLog, RunRecord, SearchResult
from minipuzzle.rundir import RunDir

TEXTS = {
    "empty": b"",
    "cut": b'{"schema": 2, ',
    "list": b"[[1]]",
    "null": b"null",
    "number": b"3",
    "text": b'"x"',
    "random": bytes(range(256)) * 4,
    "deep": b"[" * 200_000,
    "digits": b'{"schema": ' + b"9" * 5000 + b"}",
    "latin": b'{"schema": "\xe9"}',
    "half": b'{"schema": 2, "key": "\\ud800"}',
    "other": b'{"schema": 99}',
    "huge": b'{"schema": 1e999}',
}
VALUES = (
    None,
    "x",
    "",
    -1,
    0.5,
    10**30,
    math.nan,
    math.inf,
    [],
    {},
    [1],
    {"a": 1},
    True,
    "../../evil",
    "/etc/passwd",
)


@pytest.mark.parametrize("name", GOOD)
def test_a_good_file_is_read_and_one_of_another_kind_refused(name, tmp_path):
    load, value = GOOD[name]
    file = tmp_path / name
    file.write_text(json.dumps(value))
    assert load(file)
    for what, text in TEXTS.items():
        file.write_bytes(text)
        with pytest.raises(UserError) as caught:
            load(file)
        four(caught, name)
        assert (
            "Run" in caught.value.next
            or "elete" in caught.value.next
            or "Restore" in caught.value.next
            or "Move" in caught.value.next
        ), what
    file.unlink()
    file.mkdir()
    with pytest.raises(UserError) as caught:
        load(file)
    four(caught, name, "folder")
    file.rmdir()
    os.mkfifo(file)  # to open it would wait for ever
    with pytest.raises(UserError) as caught:
        load(file)
    four(caught, name)


def places(value, at=()):
    """The path to every value inside."""
    for key, inner in (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    ):
        yield (*at, key)
        yield from places(inner, (*at, key))


@pytest.mark.parametrize("name", GOOD)
def test_every_value_replaced_by_every_other_is_read_or_refused(name, tmp_path):
    """Nothing else than those two; what is refused names the place."""
    load, value = GOOD[name]
    file, read, refused = tmp_path / name, 0, 0
    for place in places(value):
        for new in (KeyError, *VALUES):
            changed = copy.deepcopy(value)
            inside = changed
            for key in place[:-1]:
                inside = inside[key]
            if new is KeyError:
                del inside[place[-1]]
            else:
                inside[place[-1]] = new
            file.write_text(json.dumps(changed))
            try:
                load(file)
                read += 1
            except UserError as error:
                refused += name in error.what
    assert refused > read / 2


@pytest.mark.parametrize(
    "evil",
    [
        "../../evil",
        "/tmp/evil",
        "..",
        ".",
        "a/b",
        "a\\b",
        ".hidden",
        "a\0b",
        "a" * 300,
        "",
        "-rf",
        "a\nb",
    ],
)
def test_a_name_from_a_file_never_becomes_a_path_elsewhere(evil, tmp_path):
    assert not is_plain_name(evil)
    _, good = GOOD["search.json"]
    for changed in (
        {"top": [evil]},
        {"candidates": [{**CANDIDATE, "name": evil}]},
        {"selections": {**good["selections"], evil: good["selections"]["c001"]}},
    ):
        (tmp_path / "search.json").write_text(json.dumps({**good, **changed}))
        with pytest.raises(UserError, match="does not hold what it should at"):
            SearchResult.load(tmp_path / "search.json")
    _, good = GOOD["run.json"]
    stages = {"distill": {**good["stages"]["distill"], "winner": evil}}
    (tmp_path / "run.json").write_text(json.dumps({**good, "stages": stages}))
    with pytest.raises(UserError, match="winner"):
        RunRecord.load(tmp_path / "run.json")


def test_names_that_our_searches_give_are_plain():
    assert all(is_plain_name(name) for name in ("c001", "s013", "r001", "l004", "Größe 2", "a.b"))


def test_contradictions_inside_search_json(tmp_path):
    _, good = GOOD["search.json"]
    file = tmp_path / "search.json"
    for changed, words in (
        ({"top": ["c002"]}, "'c002' in top"),
        ({"selections": {"c001": {"blocks": [{}], "hidden": None}}}, "1 of 2 blocks"),
        ({"candidates": [{**CANDIDATE, "strip": "M"}]}, "pattern of another length"),
    ):
        file.write_text(json.dumps({**good, **changed}))
        with pytest.raises(UserError) as caught:
            SearchResult.load(file)
        four(caught, "contradicts itself", words)
    with pytest.raises(UserError) as caught:
        SearchResult.read(good, file).candidate("c009")
    four(caught, "c009", "minipuzzle distill again")


def test_commands_of_before_the_schema_are_read(tmp_path):
    _, good = GOOD["commands.json"]
    (tmp_path / "commands.json").write_text(json.dumps(good["commands"]))
    found = CommandLog.load(tmp_path / "commands.json")
    assert found.json() == good
    assert CommandLog.load(tmp_path / "none.json").commands == ()


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_a_file_that_may_not_be_read(number, tmp_path, monkeypatch):
    file = tmp_path / "run.json"
    file.write_text("{}")
    monkeypatch.setattr(
        Path,
        "read_text",
        lambda *_, **__: (_ for _ in ()).throw(OSError(number, os.strerror(number), file)),
    )
    with pytest.raises(UserError) as caught:
        read_json(file)
    four(caught, "run.json", os.strerror(number))


def test_every_write_of_a_name_that_is_too_long(tmp_path):
    with pytest.raises(UserError) as caught:
        write_atomic(tmp_path / ("a" * 300), b"x")
    four(caught, "File name too long")


def test_shapes_know_their_kinds():
    assert fault(True, int) is not None
    assert fault(1 << 63, int) is not None
    assert fault(3, float) is None
    assert fault([0, 2, 1], list[int]) is None
    assert fault({"a": {"b": [1, "x"]}}, dict[str, dict[str, list[int]]]) == (
        ".'a'.'b'[1]",
        "'x'",
        "a whole number",
    )


def test_a_name_that_is_not_utf8_is_said_once_and_locks_nobody_out(tmp_path):
    """json writes half a character that it then cannot encode: no file may be written that its
    loader refuses.
    """
    with pytest.raises(UserError) as caught:
        write_json(tmp_path / "run.json", {"parent": "/a/\udcff"})
    four(caught, "Rename")
    assert not (tmp_path / "run.json").exists()
    RunDir(tmp_path).record_command("minipuzzle score /a/\udcff", 1.0)
    (kept,) = CommandLog.load(tmp_path / "commands.json").commands
    assert kept.command == "minipuzzle score /a/\\udcff"
    write_json(tmp_path / "x.json", "\U0001f600 \u00e9")
    assert read_json(tmp_path / "x.json") == "\U0001f600 \u00e9"
