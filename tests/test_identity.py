"""What saved runs are compared by: said by the object, the same next year."""

import datetime
import json
from dataclasses import dataclass, field, fields, make_dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from minipuzzle import families
from minipuzzle.arch import Architecture, Selection
from minipuzzle.arch.rules import Rules
from minipuzzle.cost.latency import LatencyTable
from minipuzzle.cost.roofline import Roofline
from minipuzzle.errors import UserError
from minipuzzle.identity import changed, fingerprint, plain
from minipuzzle.kinds import KINDS, Attention, FeedForward
from minipuzzle.kinds.rope import Rope
from minipuzzle.rundir import RunDir
from minipuzzle.runs.adapt import AdaptSettings
from minipuzzle.settings import (
    AdapterSettings,
    DistillSettings,
    PretrainRecipe,
    ScoreSettings,
    SearchSettings,
    Training,
)
from minipuzzle.settings.recipe_file import build

EXAMPLES = Path(__file__).parents[1] / "docs/examples"
GOLDEN = {"nemotron-h-8b": "3bb422a0b528dd99", "llama-3.1-8b": "9a67a22c24d3d51b"}
"""A run that was saved is recognised by these: who changes one asks for a new RUN_SCHEMA."""


def example(name):
    config = json.loads((EXAMPLES / name / "config.json").read_text())
    return families.find(config["model_type"]).architecture(config)


@pytest.mark.parametrize("name", GOLDEN)
def test_fingerprints_of_architectures_stay_what_they_are(name):
    architecture = example(name)
    assert fingerprint(architecture.identity()) == GOLDEN[name]
    other = replace(architecture, norm_eps=0.5)
    assert fingerprint(other.identity()) != GOLDEN[name]


def test_an_identity_is_the_kind_and_what_is_not_default():
    rope = Rope(dim=64, theta=5e5)
    block = Attention(hidden=32, q_heads=4, kv_heads=2, attn_head_dim=8, rope=rope)
    sizes = {"hidden": 32, "q_heads": 4, "kv_heads": 2, "attn_head_dim": 8}
    said = {"kind": "attention", **sizes, "rope": {"dim": 64, "theta": 500_000}}
    assert block.identity() == said
    model = Architecture(vocab_size=9, hidden=32, blocks=(block,), tied_head=True)
    expected = {"vocab_size": 9, "hidden": 32, "blocks": [said], "tied_head": True}
    assert model.identity() == expected
    assert replace(model, rules=Rules(paired=True)).identity() == expected
    kept = Selection(blocks=({"q_heads": (0, 1)}, None))
    assert kept.identity() == {"blocks": [{"q_heads": [0, 1]}, None]}


@pytest.mark.parametrize("name", GOLDEN)
def test_a_new_field_with_a_default_changes_no_fingerprint(name):
    """Each kind of block, and what lies in it, with a field more."""
    architecture = example(name)
    blocks = tuple(grown(block) for block in architecture.blocks)
    assert {type(block) for block in blocks}.isdisjoint(KINDS.values())
    assert fingerprint(grown(replace(architecture, blocks=blocks)).identity()) == GOLDEN[name]


SETTINGS = (
    ScoreSettings(seed=3),
    SearchSettings(budget=("83%",), min_keep=("width=75%",)),
    Training(tokens=5, learning_rate=1e-3),
    DistillSettings(rates=(1e-3, 2e-3), adapter=AdapterSettings(kind="tl6")),
    AdaptSettings(adapter=AdapterSettings(kind="lora", rank=4)),
)


def identities(settings):
    names = [n for n in ("identity", "fixed", "decisive") if hasattr(settings, n)]
    assert names
    return [fingerprint(getattr(settings, name)()) for name in names]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: type(s).__name__)
def test_a_new_setting_with_a_default_changes_no_fingerprint(settings):
    assert identities(grown(settings)) == identities(settings)
    assert identities(replace(grown(settings), added=8)) != identities(settings)


def grown(value):
    """The value with one field more, at its default, and so every dataclass in it."""
    kind = type(value)
    more = make_dataclass(
        f"New{kind.__name__}", [("added", int, 7)], bases=(kind,), frozen=True, kw_only=True
    )
    held = {f.name: getattr(value, f.name) for f in fields(value)}
    return more(**{n: grown(v) if type(v) in NESTED else v for n, v in held.items()})


def test_scores_of_before_are_known_again():
    """Those of the default of 128 block samples, which was left out; the one of now is said."""
    assert ScoreSettings(block_samples=128).identity() == {}
    assert ScoreSettings().identity() == {"block_samples": 64}


NESTED = (Rope, AdapterSettings, Training)

DEFAULTS = Path(__file__).parent / "goldens/identity_defaults.json"
"""What identities leave out, as it was when runs were saved."""


def defaults():
    kinds = (Architecture, Rope, Selection, AdapterSettings, *map(type, SETTINGS), *KINDS.values())
    found = {}
    for kind in kinds:
        for f in fields(kind):
            if isinstance(f.default, None | bool | int | float | str | tuple):
                found[f"{kind.__name__}.{f.name}"] = f.default
    return found


def test_defaults_that_identities_leave_out_stay():
    """A changed default would take an old result for a new one: it asks for a new RUN_SCHEMA (and
    this table follows). A new field is added to the table.
    """
    found = json.loads(json.dumps(defaults()))
    known = json.loads(DEFAULTS.read_text())
    changed = {name: value for name, value in known.items() if found.get(name, value) != value}
    assert not changed, "raise RUN_SCHEMA (records/run_record.py), then write the new defaults here"
    assert sorted(found) == sorted(known), f"write the fields as they are now into {DEFAULTS}"


@pytest.mark.parametrize(
    "settings",
    [ScoreSettings, SearchSettings, Training, DistillSettings],
    ids=lambda kind: kind.__name__,
)
def test_every_setting_that_decides_is_in_the_identity(settings):
    """Each field, changed alone, changes what a finished run is compared by."""
    # not where prompts lie: what they say; nor how much of a scoring is held at once
    free = {"save_every", "log_to", "prompts", "activations"}
    other = {
        "estimator": "flap",
        "experts": "frequency",
        "metric": "kl",
        "budget": ("83%",),
        "min_keep": ("width=75%",),
        "vary": ("experts",),
        "bits": "8",
        "method": "solver",
        "domains": "worst",
        "precision": "fp8",
        "optimizer": "adamw-8bit",
        "log_to": ("wandb",),
        "activation_checkpointing": "on",
        "train": "norms",
        "winner": "tasks",
        "loss": "cosine",
        "on_policy_loss": "jsd",
        "student_precision": "nvfp4",
        "teacher_precision": "fp8",
        "rates": (1e-3, 2e-3),
        "length": ((8, 0.5), (16, 0.5)),
        "adapter": AdapterSettings(kind="tl6"),
        "training": Training(tokens=9),
    }

    def said(value):
        return value.decisive() if hasattr(value, "decisive") else value.identity()

    def another(old, f):
        if f.name in other:
            return other[f.name]
        if isinstance(old, bool):
            return not old
        if isinstance(old, str):
            return old + "x"
        return old + 1 if old + 1 <= f.metadata["setting"].within[1] else old / 2

    for f in fields(settings):
        new = another(getattr(settings(), f.name), f)
        same = said(replace(settings(), **{f.name: new})) == said(settings())
        assert same == (f.name in free), f.name


def test_a_run_may_go_on_with_other_batches_and_places_but_not_with_other_losses():
    """``fixed`` of distill: the training's, and of stored logits only what was kept of them."""
    base = DistillSettings(training=Training(tokens=9))
    for same in (
        replace(base, rates=(1e-3,)),
        replace(base, training=Training(tokens=9, batch=2)),
        replace(base, teacher_keep="top-3"),
    ):
        assert same.fixed() == base.fixed()
    stored = replace(base, teacher_logits="a")
    assert stored.fixed() == replace(stored, teacher_logits="b").fixed() != base.fixed()
    assert stored.fixed() != replace(stored, teacher_keep="top-3").fixed()
    assert replace(base, loss="cosine").fixed() != base.fixed()
    assert replace(base, training=Training(tokens=8)).fixed() != base.fixed()


@dataclass(frozen=True)
class Holder:
    held: object = None
    made: list = field(default_factory=list)


def test_equal_values_have_one_identity():
    assert plain(Holder(held=1.0)) == plain(Holder(held=1)) == {"held": 1}
    assert json.dumps(plain(Holder(held=1.0))) == json.dumps(plain(Holder(held=1)))
    assert plain(Holder(held=np.float64(0.5))) == {"held": 0.5}
    assert fingerprint(plain(Holder(held=np.float64(0.5)))) == fingerprint({"held": 0.5})
    assert plain(Holder(made=[])) == {}
    assert plain(Holder(made=[1])) == {"made": [1]}


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (Path("a"), "Path"),
        (np.int64(3), "numpy.int64"),
        ({1, 2}, "set"),
        (datetime.date(2026, 1, 1), "datetime.date"),
        (FeedForward(hidden=2, intermediate=3), "FeedForward"),
        ([1, {"a": object()}], "builtins.object"),
        ({1: 2}, "a text, not 1"),
    ],
)
def test_a_fingerprint_refuses_what_it_does_not_know(value, name):
    with pytest.raises(TypeError, match=name):
        fingerprint("x", value)
    if not isinstance(value, FeedForward):
        with pytest.raises(TypeError, match=name):
            plain(Holder(held=value))
        with pytest.raises(TypeError, match=name):
            changed(Holder(held=value))


def test_a_fingerprint_of_plain_values_stays_what_it_was():
    """Seeds are drawn from it: other digits are other numbers."""
    assert fingerprint(0, 1024, 0) == "18572c0a601eec01"
    assert fingerprint({"b": [1, 2.5], "a": None}, "x") == "0b1ee672f8c1dab1"
    assert fingerprint({"b": 1, "a": 2}) == fingerprint({"a": 2, "b": 1})


def test_times_are_compared_by_all_that_they_say():
    one = LatencyTable(meta={"device": "CPU"}, entries={("decode", 1, 8, "x"): 1.5})
    slower = replace(one, entries={("decode", 1, 8, "x"): 1.6})
    other = replace(one, meta={"device": "GPU"})
    roofs = [Roofline(device="h100"), Roofline(device="h200")]
    found = [fingerprint(times.identity()) for times in (one, slower, other, *roofs)]
    assert len(set(found)) == 5
    assert Roofline(device="H100").identity() == roofs[0].identity()


@pytest.mark.parametrize("schema", [None, 1, 2])
def test_a_run_of_an_older_minipuzzle_is_refused_with_what_to_do(schema, tmp_path):
    old = {"parent": None, "stages": {}} | ({} if schema is None else {"schema": schema})
    (tmp_path / "run.json").write_text(json.dumps(old))
    with pytest.raises(UserError, match="An older minipuzzle wrote") as caught:
        RunDir(tmp_path)
    assert caught.value.got == f"schema {schema or 1}"
    assert caught.value.next.startswith("Start a new run directory with job.run")


@pytest.mark.parametrize("value", [datetime.date(2026, 1, 1), {1: 2}, [b"x"]])
def test_a_recipe_holds_what_a_config_can_hold(value):
    recipe = {"tokenizer": "embedded", "model": {"model_type": "llama", "x": value}}
    with pytest.raises(UserError, match="holds what JSON has not") as caught:
        build(PretrainRecipe, recipe, "r.yaml")
    assert "r.yaml: model" in caught.value.what
    good = {**recipe, "model": {"model_type": "llama", "x": [1, {"y": None}]}}
    assert build(PretrainRecipe, good, "r.yaml").model["x"] == [1, {"y": None}]
