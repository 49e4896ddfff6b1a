"""Files of a run directory, damaged in every way: read, or refused in four parts; and what the
machine itself refuses.
"""

import copy
import errno
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from minipuzzle.artifacts import read_arrays, read_json, write_atomic, write_json
from minipuzzle.checked import fault, is_plain_name
from minipuzzle.cost.latency import LatencyTable
from minipuzzle.errors import UserError
from minipuzzle.records import (
    CommandLog,
    EvalResult,
    LegRecord,
    PartialPrune,
    PartialSearch,
    RunRecord,
    SearchResult,
    TasksResult,
    TrainingRecord,
)
from minipuzzle.rundir import RunDir
from minipuzzle.scores import Scores

CANDIDATE = {
    "name": "c001",
    "origin": "grid",
    "shape": {"mlp": 1, "hidden": 8},
    "pattern": "M",
    "strip": "M.",
    "parameters": 10,
    "bytes": 20,
    "damage": 0.5,
    "next_token_accuracy": 0.1,
    "agreement": 0.2,
    "loss": 3.0,
    "kl": 0.1,
    "rank": 1,
}
ROW = {
    "name": "teacher",
    "path": "p",
    "parameters": 10,
    "bytes": 20,
    "memory_bytes": 30,
    "loss": 3.0,
    "perplexity": 20.0,
    "bits_per_byte": 1.0,
    "kl": 0.0,
    "agreement": 1.0,
    "next_token_accuracy": 0.5,
    "tokens_per_second": 9.0,
    "tokens": 5,
}
NUMBERS = (
    "loss",
    "perplexity",
    "bits_per_byte",
    "kl",
    "agreement",
    "next_token_accuracy",
    "tokens",
)
ROW["domains"] = {"prose": {key: ROW[key] for key in (*NUMBERS, "next_token_accuracy")}}
GOOD = {
    "run.json": (
        RunRecord.load,
        {
            "schema": 3,
            "parent": {"path": "/a", "fingerprint": "f"},
            "stages": {
                "score": {"key": "k", "finished": "now"},
                "search": {"key": "s"},
                "distill": {
                    "key": "k",
                    "search": "s",
                    "winner": "c001",
                    "short_validation_loss": {"c001": 3.0},
                    "final_kl": 0.1,
                    "long_validation_loss": [3.0, 2.0],
                    "tokens": 5,
                    "short_tokens": 0,
                    "learning_rate": 1e-3,
                },
                "adapt": {"key": "k", "final_loss": 1.0, "tokens": 5, "trained": 5, "lora": 6},
            },
        },
    ),
    "commands.json": (
        CommandLog.load,
        {"schema": 1, "commands": [{"command": "minipuzzle score", "seconds": 1.5, "date": "d"}]},
    ),
    "search.json": (
        SearchResult.load,
        {
            "schema": 2,
            "method": "solver",
            "parent": {"path": "/a", "fingerprint": "f", "parameters": 20, "pattern": "M-"},
            "budget": {
                "text": ["83%"],
                "parameters": 10,
                "bytes": None,
                "times": {"decode ms @b1,p8,o1": 1.5},
                "timing": "t",
                "margin": None,
                "workload": {
                    "context": 8,
                    "batch": 1,
                    "weights": "bf16",
                    "kv": "bf16",
                    "state": "bf16",
                },
            },
            "bounds": {"hidden": [8], "paired": False},
            "not_pruned": [],
            "parent_cost": {"parameters": 10, "bytes": 20, "times": {}},
            "points": 2,
            "feasible": 1,
            "candidates": [CANDIDATE],
            "top": ["c001"],
            "funnel": [{"stage": "s", "entered": 2, "left": 1, "seconds": 0.1}],
            "selections": {"c001": {"blocks": [{"heads": [0, 2]}, None], "hidden": [0, 1]}},
            "front": {
                "names": ["parameters"],
                "points": [{"limit": [1.0], "cost": [1.0], "damage": 0.1, "gap": 0.0}],
            },
        },
    ),
    "search.partial.json": (
        PartialSearch.load,
        {"key": "k", "results": {"c001": [0.1, 0.2, 3.0, 0.1]}},
    ),
    "prune.partial.json": (PartialPrune.load, {"schema": 1, "key": "k", "errors": {"c001": 1e-6}}),
    "identity.json": (
        TrainingRecord.load,
        {"schema": 1, "identity": "i", "key": "k", "finished": True, "replaced": False},
    ),
    "result.json": (LegRecord.load, {"schema": 1, "validation_loss": 3.0, "tasks": 0.5}),
    "eval.json": (
        EvalResult.load,
        {
            "schema": 1,
            "device": "CPU",
            "data": "text.txt",
            "tokens": 5,
            "distill": None,
            "rows": [ROW, ROW],
            "costs": [{"what": "w", "unit": "ms", "predicted": 1.0, "measured": 2.0}],
        },
    ),
    "tasks.json": (
        TasksResult.load,
        {
            "schema": 1,
            "device": "CPU",
            "limit": 5,
            "include": None,
            "rows": [
                {
                    "name": "teacher",
                    "path": "p",
                    "task": "arc",
                    "metric": "acc",
                    "value": 0.5,
                    "stderr": None,
                    "higher_is_better": True,
                    "samples": 5,
                }
            ],
        },
    ),
    "latency.json": (
        LatencyTable.load,
        {
            "schema": 1,
            "device": "CPU",
            "dtype": "float32",
            "date": "d",
            "additivity": [{"error": 0.1}],
            "entries": [
                {
                    "phase": "decode",
                    "batch": 1,
                    "tokens": 8,
                    "ms": 1.5,
                    "block": '{"kind": "mlp", "intermediate": 8}',
                }
            ],
        },
    ),
}
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


def four(caught, *words):
    said = str(caught.value)
    assert all(part in said for part in ("\n  got: ", "\n  allowed: ", "\n  next: ", *words)), said


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


def scores():
    return {
        "blocks": np.arange(1.0, 4.0),
        "hidden": np.ones(8),
        "blocks.0.head_channels": np.ones((2, 3)),
        "blocks.1.intermediate": np.ones(4),
        "blocks.2.q_heads": np.ones(2),
        "blocks.1.curve.intermediate.sizes": np.array([1, 2]),
        "blocks.1.curve.intermediate.errors": np.array([2.0, 1.0]),
    }


WRONG_SCORES = {
    "no blocks": lambda t: t.pop("blocks"),
    "nan": lambda t: t["blocks"].fill(np.nan),
    "none": lambda t: t.update(blocks=np.ones(0)),
    "float32": lambda t: t.update(hidden=np.ones(8, np.float32)),
    "two": lambda t: t.update(blocks=np.ones((3, 1))),
    "other": lambda t: t.update({"blocks.9.intermediate": np.ones(4)}),
    "word": lambda t: t.update({"blocks.x.intermediate": np.ones(4)}),
    "unknown": lambda t: t.update(more=np.ones(4)),
    "axis": lambda t: t.update({"blocks.0.depth": np.ones(4)}),
    "curve": lambda t: t.update({"blocks.0.curve": np.ones(4)}),
    "lost": lambda t: t.pop("blocks.1.curve.intermediate.errors"),
    "order": lambda t: t.update({"blocks.1.curve.intermediate.sizes": np.array([2, 1])}),
    "flat": lambda t: t.update({"blocks.0.head_channels": np.ones(3)}),
    "negative": lambda t: t.update({"blocks.-1.q_heads": np.ones(2)}),
}


@pytest.mark.parametrize("wrong", WRONG_SCORES)
def test_scores_that_are_none(wrong, tmp_path):
    from safetensors.numpy import save

    file, tensors = tmp_path / "scores.safetensors", scores()
    about = {"minipuzzle": json.dumps({"schema": 2, "meta": {}})}
    file.write_bytes(save(tensors, metadata=about))
    assert Scores.load(file).curves[1]["intermediate"][0].tolist() == [1, 2]
    WRONG_SCORES[wrong](tensors)
    file.write_bytes(save(tensors, metadata=about))
    with pytest.raises(UserError) as caught:
        Scores.load(file)
    four(caught, "scores.safetensors", "minipuzzle score")


def test_headers_of_scores_that_are_none(tmp_path):
    from safetensors.numpy import save

    file = tmp_path / "scores.safetensors"
    for about in (
        "[]",
        "{",
        "null",
        "{}",
        '{"schema": 1, "meta": {}}',
        '{"schema": 2, "meta": []}',
        "[" * 100_000,
    ):
        file.write_bytes(save(scores(), metadata={"minipuzzle": about}))
        with pytest.raises(UserError) as caught:
            Scores.load(file)
        four(caught, "scores.safetensors", "minipuzzle score")
    for data in (
        b"",
        b"x" * 7,
        os.urandom(500),
        b"\xff" * 8 + b"{}",
        save({"blocks": np.ones(3)})[:-4],
    ):
        file.write_bytes(data)
        with pytest.raises(UserError) as caught:
            read_arrays(file)
        four(caught, "damaged")


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
