"""What must hold for every engine in minipuzzle/export/engines, and for every row of ran.json."""

import json
import lzma
from pathlib import Path

import pytest
from family_models import FORMS, every_form

from minipuzzle import families
from minipuzzle.export.engines import find
from minipuzzle.export.engines.base import Asked, apart
from minipuzzle.export.ran import ran, runs
from minipuzzle.export.verdicts import NOT_LOOKED_AT, verdicts
from minipuzzle.registry import ENGINES

ROOT = Path(__file__).parent.parent


def asked(family, form, tmp_path):
    """A checkpoint of a form: config.json alone."""
    fields = {"model_type": family, **FORMS[family][form]}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    architecture = families.find(family).architecture(fields)
    return Asked(path=tmp_path, family=family, architecture=architecture)


@pytest.mark.parametrize("name", ENGINES.names())
@pytest.mark.parametrize(("family", "form"), every_form())
def test_a_verdict_has_an_answer_and_a_reason(name, family, form, tmp_path):
    engine, checkpoint = find(name), asked(family, form, tmp_path)
    answer = engine.answer(checkpoint)
    assert answer.loads in ("yes", "no", "unproven")
    assert answer.how
    (row,) = [v for v in verdicts(tmp_path) if v.engine == engine.label]
    assert (row.loads, row.how) == (answer.loads, answer.how)
    covered = ran(name, family, apart(checkpoint.architecture), None) is not None
    assert row.source.startswith("ran: ") == covered
    if not covered:
        known = family in engine.families
        assert row.source == (f"read: {engine.read}" if known else NOT_LOOKED_AT)


def test_engines_have_labels_and_places_of_their_own():
    engines = [find(name) for name in ENGINES.names()]
    assert len({e.label for e in engines}) == len({e.place for e in engines}) == len(engines)


WHERE = "docs/results/serving.json.xz"


def text_of(where):
    data = (ROOT / where).read_bytes()
    return (lzma.decompress(data) if where.endswith(".xz") else data).decode()


SERVED = json.loads(text_of(WHERE))["served"]
FORM = ("engine", "family", "experts", "format")


def test_rows_of_the_study_are_what_it_found():
    """studies/engines.py ran: vLLM and mlx have a row for each form whose tokens were all equal."""

    def form(row):
        return tuple(str(row[key]) for key in FORM)

    good = [row for row in SERVED if row["equal"] == row["steps"] and row["engine"] != "llama-cpp"]
    good = {form(row) for row in good if row["dtype"] == "float32"}
    own = [row for row in runs() if row["where"] == WHERE]
    assert {form(row) for row in own} == good
    for row in own:
        of = [served for served in SERVED if form(served) == form(row)]
        assert {(s["version"], s["date"]) for s in of} >= {(row["version"], row["date"])}


def test_what_ran_is_committed():
    """Each row names a file of this repository that speaks of the family and the engine."""
    for row in runs():
        assert row["family"] in families.known()
        text = text_of(row["where"]).replace(" ", "").lower()
        label = find(row["engine"]).label
        assert label.lower() in text or label.replace(".", "_") in text, row
        assert row["family"] in text or row["where"].startswith("tests/"), row
        assert all(row[key] for key in row.keys() - {"experts", "format"}), row
    keys = ("engine", "family", "experts", "format")
    forms = [tuple(str(row[key]) for key in keys) for row in runs()]
    assert len(set(forms)) == len(forms)


def test_what_ran_without_experts_says_nothing_of_experts(monkeypatch):
    def row(experts, format=None):
        said = {"engine": "vllm", "family": "nemotron_h_puzzle"}
        return {**said, "experts": experts, "format": format}

    rows = (row(None), row(["top_k"]), row(None, "fp8"))
    monkeypatch.setattr("minipuzzle.export.ran.runs", lambda: rows)

    def found(axes, format=None):
        return ran("vllm", "nemotron_h_puzzle", axes, format)

    assert found(None) == row(None)
    assert found(set()) == found({"top_k"}) == row(["top_k"])
    assert found({"experts"}) is None
    assert found(None, "fp8") == row(None, "fp8")
    assert found(None, "int4") is found(set(), "fp8") is None


def test_an_engine_that_ran_nothing_of_a_family_says_so(tmp_path, monkeypatch):
    asked("llama", "plain", tmp_path)
    monkeypatch.setattr("minipuzzle.export.ran.runs", lambda: ())
    assert not any(v.source.startswith("ran") for v in verdicts(tmp_path))


@pytest.mark.parametrize(("layers", "loads"), [("DD*DD*", "yes"), ("D*DD", "no")])
def test_mlx_takes_every_nth_layer_of_qwen3_next_for_attention(layers, loads, tmp_path):
    kinds = {"D": "linear_attention", "*": "full_attention"}
    fields = {"layer_types": [kinds[k] for k in layers], "num_hidden_layers": len(layers)}
    fields = {"model_type": "qwen3_next", **FORMS["qwen3_next"]["plain"], **fields}
    architecture = families.find("qwen3_next").architecture(fields)
    (tmp_path / "config.json").write_text(json.dumps(fields))
    found = Asked(path=tmp_path, family="qwen3_next", architecture=architecture)
    answer = find("mlx").answer(found)
    assert answer.loads == loads
    assert ("full_attention_interval 3" in answer.how) == (loads == "yes")
