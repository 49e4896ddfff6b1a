"""Bits as an axis of the search: what is priced is what ``quantize`` writes, what is measured is
what the file means.
"""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import save, shaken, tiny
from helpers import FAST, TEXT, run
from safetensors.torch import load_file
from search_problems import LEVEL
from streamed_scores import distance, samples
from streamed_scores import run as scored
from test_quantize_mixes import plain

from minipuzzle.arch import Selection
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.checkpoint.mix import CHOSEN
from minipuzzle.cost.files import files_of
from minipuzzle.cost.pricing import pricing
from minipuzzle.errors import UserError
from minipuzzle.importance import random_scores
from minipuzzle.memory import Workload, resident
from minipuzzle.model import load_model
from minipuzzle.model.rounded import Rounding
from minipuzzle.nas.choices import combinations, make_choices
from minipuzzle.nas.damage import block_damage
from minipuzzle.nas.enumerate import enumerate_shapes
from minipuzzle.nas.plan import make_plan
from minipuzzle.nas.propose import propose
from minipuzzle.nas.select import damage
from minipuzzle.nas.steps import step_searches
from minipuzzle.runs.quantize import run_quantize
from minipuzzle.runs.search import check_formats
from minipuzzle.scores import Scores
from minipuzzle.settings import Limits, Recipe, ScoreSettings, SearchSettings
from minipuzzle.settings.bits import name_of, number, parse_bits
from minipuzzle.space import bounds, shape_architecture
from minipuzzle.surgery import cut

VOCAB = 61
WORK = Workload(context=100, kv="fp8")
MIX = {"bits": "nvfp4,fp8,bf16"}


def measured(parent, names=("int4-32", "nvfp4", "fp8")):
    """Random scores, in which fewer bits do more damage; blocks with experts are measured whole."""
    scores, rng = random_scores(parent, 0), np.random.default_rng(1)
    for i, block in enumerate(parent.blocks):
        parts = np.array([3] if block.stacks else [1, 2])
        errors = np.sort(rng.uniform(0, 0.01, (len(names), len(parts))), axis=0)[::-1]
        for name, found in zip(names, errors, strict=True):
            scores.curves.setdefault(i, {})[name] = (parts, found * scores.blocks[i])
    return replace(scores, meta={"bits": ",".join(names)})


def opened(folder, pattern="M-*-", **sizes):
    return Checkpoint.open(
        save(shaken(tiny(pattern, vocab=VOCAB, **sizes)), folder, tokenizer=False)
    )


def problem(checkpoint, share, hidden=False, **settings):
    """(scores, space, settings, prices) under a share of the parent's memory as it is."""
    parent = checkpoint.architecture
    options = SearchSettings(
        budget=("memory=50%",),
        multiple=16,
        mamba_heads=True,
        hidden_size=hidden,
        **(MIX | settings),
    )
    limit = int(share * resident(parent, replace(WORK, weights="fp32")).total)
    files = files_of(checkpoint, options.formats)
    prices = pricing(parent, Limits(bytes=limit), WORK, files=files)
    return measured(parent), bounds(parent, LEVEL, options, grid=False), options, prices


def test_what_is_priced_is_what_quantize_writes(tmp_path):
    """Embedding, norms, scales and the caches included, at sizes and hidden sizes of a search."""
    checkpoint = opened(tmp_path / "parent")
    parent = checkpoint.architecture
    scores, space, options, prices = problem(checkpoint, 0.3, hidden=True)
    assert space.sizes["bits"] == (45, 80, 160)
    written, parts = 0, set()
    for hidden in (16, 32):
        at = prices.at_hidden(hidden)
        proposals = propose(parent, scores, space, options, at, 3)
        choices = proposals.choices
        for n, made in enumerate(proposals.candidates(at.memory)):
            state, folder = proposals.states[n], tmp_path / f"{hidden}-{n}"
            student = cut(checkpoint, made.selection, folder / "student")
            assert student.config[CHOSEN] == list(map(name_of, made.bits))
            file = run_quantize(folder / "student", folder / "out", "auto", 128)
            caches = resident(student.architecture, WORK)
            scales = 2 * 4 * student.architecture.pattern.count("*")  # of keys and of values, FP32
            total = file.bytes + scales + caches.total - caches["weights"]
            assert made.bytes == total == choices.cost(state)[0] + at.base[0] <= at.limits[0]
            assert made.damage == pytest.approx(damage(parent, scores, made.selection))
            assert choices.state(made.selection) == state
            written += len(set(made.bits)) > 1
            parts |= {n > 1000 for n in made.bits}
    assert written  # mixes are among them, of parts of a block too
    assert parts == {False, True}


def test_the_grid_gives_all_blocks_one_format(tmp_path):
    checkpoint = opened(tmp_path / "parent", "M-M*-")
    parent = checkpoint.architecture
    least = ("attention=0%", "others=0%", "width=25%")
    memory = SearchSettings(budget=("memory=90%",), kv="fp8", context=100, min_keep=least)
    settings = replace(memory, multiple=16, **MIX)
    plan = make_plan(parent, settings, files=files_of(checkpoint, settings.formats))
    points = plan.feasible.grid
    assert set(points.column("bits")) == {45, 80, 160}
    for i in range(plan.feasible.count):
        shape = plan.feasible.shape(i)
        made = shape_architecture(parent, shape)
        bits = [dict(shape.sizes)["bits"]] * len(made.blocks)
        assert plan.feasible.bytes[i] == plan.bytes(made, bits)
    scores = measured(parent)
    found = plan.candidates(scores, 12)
    assert len({c.bits[0] for c in found}) > 1
    for made in found:
        formats = set(made.selection.kept_formats)
        assert formats == {settings.formats[made.bits[0]]}
        assert len(made.bits) == len(made.blocks)
        assert made.damage == pytest.approx(damage(parent, scores, made.selection))
    row = max(plan.maximal(), key=lambda row: row.shape["bits"])
    assert {r.shape["bits"] for r in plan.maximal()} == {80, 160}  # at 4.5 it fits with room
    assert row.bytes <= plan.limits.bytes


def test_the_solver_finds_the_least_damage_of_all_mixes(tmp_path):
    checkpoint = opened(tmp_path / "parent", "M-*")
    scores, space, options, prices = problem(checkpoint, 0.5)
    space = replace(space, sizes={**space.sizes, "intermediate": (32, 64), "heads": (8,)})
    proposals = propose(checkpoint.architecture, scores, space, options, prices, 1)
    choices = proposals.choices
    fitting = [state for state in combinations(choices) if choices.fits(state)]
    best = min(choices.predicted(state) for state in fitting)
    assert choices.predicted(proposals.states[0]) == pytest.approx(best)
    assert len(fitting) > 10


def test_columns_that_groups_do_not_divide_keep_other_formats(tmp_path):
    checkpoint = opened(tmp_path / "parent", "-M", intermediate=96)
    parent = checkpoint.architecture
    options = SearchSettings(budget=("memory=50%",), multiple=16, bits="int4-32,fp8")
    files = files_of(checkpoint, options.formats)
    space = bounds(parent, LEVEL, options, grid=False)
    prices = pricing(parent, Limits(bytes=1), WORK, files=files)
    choices = make_choices(
        parent, measured(parent), space, options, prices.of, prices.limits, ("memory",), files=files
    )
    widths = {bits: {n for n, b in choices.options[0] if b == bits} for bits in (44, 80, 44080)}
    assert widths[80] == widths[44080] == {48, 64, 80, 96}  # it is down_proj that they divide
    assert widths[44] == {64, 96}
    odd = files_of(checkpoint, parse_bits("int4-64,fp8"))
    assert odd.check(parent) == ["int4-64 is not tried where columns are no whole groups"]
    with pytest.raises(UserError, match="whole groups of no format"):
        files_of(checkpoint, parse_bits("int4-64")).check(parent)


KEPT = (
    {"heads": (0, 2, 5, 7)},
    {"intermediate": tuple(range(3, 51))},
    {"kv_heads": (1,), "q_heads": (2, 3)},
    None,
    {},
)


@pytest.mark.parametrize("hidden", [None, tuple(range(1, 32, 2))])
@torch.no_grad()
def test_a_masked_mix_is_the_quantised_file(hidden, tmp_path):
    """The oracle is compressed-tensors' own reading of the file."""
    checkpoint = opened(tmp_path / "parent", "M-*-*")
    last = "int4-32" if hidden is None else "bf16+nvfp4"
    formats = ("nvfp4+fp8", "fp8", "nvfp4", "", last)
    selection = Selection(blocks=KEPT, hidden=hidden, formats=formats)
    cut(checkpoint, selection, tmp_path / "student")
    run_quantize(tmp_path / "student", tmp_path / "out", "auto", 128)
    file = plain(tmp_path / "student", tmp_path / "out", tmp_path / "plain")
    tokens = torch.arange(40)[None] % VOCAB
    expected = load_model(file).eval()(tokens)
    model, rounding = load_model(checkpoint).eval(), Rounding(checkpoint)
    whole = model(tokens)
    with model.masked(selection), rounding.applied(model, selection):
        found = model(tokens)
    with model.masked(selection):
        bare = model(tokens)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert (bare - expected).abs().max() > 1e-3 * expected.abs().max()
    assert torch.equal(model(tokens), whole)


@torch.no_grad()
def test_scores_measure_each_block_in_each_format(tmp_path):
    parent = opened(tmp_path / "parent", "M-*")
    scores = scored(parent, tmp_path, curves=False, bits="4..8")
    scores.save(tmp_path / "scores.safetensors")
    again = Scores.load(tmp_path / "scores.safetensors")
    check_formats(again, SearchSettings(budget=("memory=50%",), bits="4..16"))
    x, model = samples(3), load_model(parent).eval()
    whole = model.hidden_states(x), model(x)
    for i, name in itertools.product(range(3), ("nvfp4+bf16", "bf16+nvfp4", "fp8+bf16")):
        formats = tuple(name if j == i else "bf16" for j in range(3))
        run_quantize_of(parent, formats, tmp_path / f"{i}-{name}")
        file = load_model(Checkpoint.open(tmp_path / f"{i}-{name}" / "plain")).eval()
        changed = file.hidden_states(x), file(x)
        expected = distance("mse", whole, changed, x)
        found = block_damage(parent.architecture, again, i, {"bits": number(name)})
        assert found == pytest.approx(expected, rel=1e-4)
        assert block_damage(parent.architecture, again, i, {"bits": 160}) == 0
    both = [block_damage(parent.architecture, again, 0, {"bits": n}) for n in (45, 45160, 160045)]
    assert both[0] == pytest.approx(both[1] + both[2])


def run_quantize_of(parent, formats, folder):
    everything = Selection.everything(parent.architecture)
    cut(parent, replace(everything, formats=formats), folder / "source")
    run_quantize(folder / "source", folder / "out", "auto", 128)
    plain(folder / "source", folder / "out", folder / "plain")


def test_from_scores_to_a_file_of_the_planned_bytes(checkpoint, tmp_path, capsys):
    folder = tmp_path / "run"
    run("score", checkpoint, "--run", folder, *FAST["score"], "--bits", "4..8")
    search = list(map(str, FAST["search"]))
    search[search.index("--budget") + 1] = "memory=95%"
    more = ("--bits", "4..16", "--method", "solver", "--refine", 2, "--top", 2, "--multiple", 16)
    more += ("--kv", "fp8")
    run("search", "--run", folder, *search, *more)
    found = json.loads((folder / "search.json").read_text())
    rows = {row["name"]: row for row in found["candidates"]}
    assert len({tuple(row["formats"]) for row in rows.values()}) > 1
    run("prune", "--run", folder)
    for name in found["top"]:
        capsys.readouterr()
        text = ("--calibration", TEXT, "--samples", 2, "--length", 64, "--kv", "fp8")
        run("quantize", folder / "candidates" / name, "--out", tmp_path / name, *text, "--json")
        student = Checkpoint.open(folder / "candidates" / name)
        caches = resident(student.architecture, Workload(context=8192, kv="fp8"))
        values = load_file(tmp_path / name / "model.safetensors")
        assert any(tensor.endswith("k_scale") for tensor in values)
        written = sum(tensor.nbytes for tensor in values.values())
        assert json.loads(capsys.readouterr().out)["bytes"] == written
        assert rows[name]["bytes"] == written + caches.total - caches["weights"]


REFUSED = {
    "no memory": (lambda: SearchSettings(budget=("83%",), bits="4"), "budget of memory"),
    "times": (lambda: SearchSettings(budget=("1GiB", "1.2x"), bits="4"), "no times are known"),
    "weights too": (
        lambda: SearchSettings(budget=("1GiB",), bits="4", weights="fp4"),
        "both say what weights take",
    ),
    "not in the scores": (
        lambda: check_formats(
            Scores(blocks=np.ones(1), widths={}, meta={"bits": "nvfp4"}),
            SearchSettings(budget=("1GiB",), bits="mxfp4,16"),
        ),
        "scores with nvfp4",
    ),
    "not in the recipe's scores": (
        lambda: Recipe(
            checkpoint="x",
            score=ScoreSettings(bits="8"),
            search=SearchSettings(budget=("1GiB",), bits="4,8"),
        ),
        "score does not measure",
    ),
    "in steps": (
        lambda: step_searches(SearchSettings(budget=("1GiB",), bits="4"), ("2",), tiny(), None),
        "Recover to the size first",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused(what):
    make, words = REFUSED[what]
    with pytest.raises(UserError, match=words):
        make()


def test_a_model_that_fits_whole_in_fewer_bits_is_not_cut(tmp_path):
    checkpoint = opened(tmp_path / "parent", "M-*-")
    parent = checkpoint.architecture
    scores, space, options, prices = problem(checkpoint, 0.9)
    best = propose(parent, scores, space, options, prices, 1).candidates(prices.memory)[0]
    assert best.student == parent
    assert len(set(best.bits)) > 1
    assert enumerate_shapes(bounds(parent, LEVEL, options), prices).count > 0
