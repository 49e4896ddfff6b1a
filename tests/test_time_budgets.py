"""What a budget of time means, from its text to the grid; a timing that a pencil can follow is the
oracle.
"""

from dataclasses import replace

import pytest
from conftest import space_of, tiny

from minipuzzle.cost.latency import LatencyTable, describe, model_ms, surroundings
from minipuzzle.cost.pricing import pricing
from minipuzzle.errors import UserError
from minipuzzle.memory import Workload
from minipuzzle.nas.enumerate import enumerate_shapes, maximal
from minipuzzle.nas.plan import make_plan
from minipuzzle.settings import (
    Generation,
    Limits,
    SearchSettings,
    TimeLimit,
    parse_budget,
    parse_work,
)
from minipuzzle.space import shape_architecture

ASKED = Generation(batch=2, prompt=10, output=4)
PREFILL = {"mlp": 3.0, "mamba": 5.0, "attention": 7.0}
DECODE = {"mlp": 0.3, "mamba": 0.2, "attention": 0.6}


class Clock:
    """So many ms a block of a kind, FFN and Mamba in proportion to their size; 11 and 1 ms around
    the blocks.
    """

    source, margin = "a pencil", 0.0

    def __init__(self, margin=0.0):
        self.margin = margin

    def ms(self, block, phase, work, parent):
        if phase == "total":
            prefill, step = (self.ms(block, p, work, parent) for p in ("prefill", "decode"))
            return prefill + work.output * step
        if block is None:
            return {"prefill": 11.0, "decode": 1.0}[phase]
        share = {
            "mlp": block.sizes.get("intermediate", 64) / 64,
            "mamba": block.sizes.get("heads", 8) / 8,
            "attention": 1,
        }
        return {"prefill": PREFILL, "decode": DECODE}[phase][block.kind] * share[block.kind]


def resolved(text, ms=lambda phase, work: 30.0, work=None):
    (limit,) = parse_budget([text], work).resolve(1, 1, ms).times
    return limit


def test_shares_that_floats_get_wrong():
    assert parse_budget(["29%"]).resolve(100).parameters == 29
    assert parse_budget(["memory=29%"]).resolve(1, 100).bytes == 29


def test_throughput_counts_the_whole_batch():
    """900 tokens a second of 8 sequences with 1,000 new tokens each: 8,000 tokens in 8.888... s."""
    limit = resolved("throughput=900tok/s@b8,p8k,o1k")
    assert (limit.phase, limit.ms) == ("total", pytest.approx(8000 / 900 * 1000))
    assert limit.work == Generation(batch=8, prompt=8000, output=1000)


def test_a_speed_up_divides_the_parents_time_of_its_phase_and_workload():
    asked = []

    def ms(phase, work):
        asked.append((phase, work))
        return {"prefill": 30.0, "decode": 5.0, "total": 100.0}[phase]

    for text, phase, want in (
        ("2x", "total", 50.0),
        ("total=4x", "total", 25.0),
        ("throughput=2x", "total", 50.0),
        ("prefill=1.5x", "prefill", 20.0),
        ("decode=1.25x", "decode", 4.0),
    ):
        limit = resolved(text, ms, ASKED)
        assert (limit.phase, limit.ms, limit.work) == (phase, pytest.approx(want), ASKED), text
    assert asked == [(p, ASKED) for p in ("total", "total", "total", "prefill", "decode")]


def test_times_are_in_milliseconds_and_seconds():
    assert (resolved("prefill=12ms").phase, resolved("prefill=12ms").ms) == ("prefill", 12.0)
    assert (resolved("decode=0.5s").phase, resolved("decode=0.5s").ms) == ("decode", 500.0)
    assert resolved("total=1.5s").phase == "total"


@pytest.mark.parametrize(
    "text", ["12ms", "throughput=12ms", "decode=900tok/s", "memory=12ms", "speed=2x", "900tok/s@b0"]
)
def test_a_time_that_says_not_which_is_refused(text):
    with pytest.raises(UserError):
        parse_budget([text])


def test_a_workload_names_only_what_it_changes():
    assert parse_work("b8", ASKED) == replace(ASKED, batch=8)
    assert parse_work("p8k,o0", ASKED) == Generation(batch=2, prompt=8000, output=0)
    assert resolved("2x@o8", work=ASKED).work == replace(ASKED, output=8)
    assert Generation(prompt=100, output=10).context == 105
    assert str(ASKED) == "b2,p10,o4"


def test_units():
    sizes = {
        "kB": 1e3,
        "MB": 1e6,
        "GB": 1e9,
        "TB": 1e12,
        "KiB": 2**10,
        "MiB": 2**20,
        "GiB": 2**30,
        "TiB": 2**40,
    }
    assert {unit: parse_budget([f"3{unit}"]).bytes for unit in sizes} == {
        unit: 3 * size for unit, size in sizes.items()
    }
    counts = {"": 1, "k": 1e3, "M": 1e6, "B": 1e9, "T": 1e12, "Ki": 2**10, "Mi": 2**20}
    assert {unit: parse_budget([f"3{unit}"]).parameters for unit in counts} == {
        u: 3 * n for u, n in counts.items()
    }
    assert parse_budget(["3GB", "2GB", "4GB"]).bytes == 2e9
    assert parse_budget(["3B", "2B", "4B"]).parameters == 2e9
    assert parse_budget(["90%", "80%"]).resolve(100).parameters == 80
    assert parse_budget(["memory=90%", "memory=80%"]).resolve(1, 100).bytes == 80


def test_memory_is_the_tighter_of_two_and_times_are_all_kept():
    assert parse_budget(["1kB", "memory=50%"]).resolve(1, 1000).bytes == 500
    assert parse_budget(["1kB", "memory=50%"]).resolve(1, 4000).bytes == 1000
    both = parse_budget(["prefill=12ms", "decode=2x"]).resolve(1, 1, lambda phase, work: 30.0)
    assert [(t.phase, t.ms) for t in both.times] == [("prefill", 12.0), ("decode", 15.0)]


SPACE = space_of(
    attention=(0, 1), mlp=(1, 3), mamba=(1, 3), intermediate=(32, 64), heads=(4, 8), hidden=(32,)
)


def by_pencil(shape, phase):
    kinds = {"prefill": PREFILL, "decode": DECODE}[phase]
    around = {"prefill": 11.0, "decode": 1.0}[phase]
    of = shape.plain()
    sizes = {"mlp": of["intermediate"] / 64, "mamba": of["heads"] / 8, "attention": 1}
    return around + sum(of[kind] * kinds[kind] * sizes[kind] for kind in kinds)


@pytest.mark.parametrize("margin", [0.0, 0.25])
@pytest.mark.parametrize(
    "limits",
    [
        [("prefill", 30.0)],
        [("decode", 2.0)],
        [("total", 38.0)],
        [("prefill", 32.0), ("decode", 2.1)],
    ],
)
def test_the_grid_keeps_every_limit_of_time(limits, margin):
    """Against pencil and brute force; what the timing says it is off by is kept free."""
    parent = tiny("M-M*-M-", vocab=48)
    times = tuple(TimeLimit(phase=phase, ms=ms, work=ASKED) for phase, ms in limits)
    prices = pricing(parent, Limits(times=times), Workload(context=8), Clock(margin))
    feasible, whole = (
        enumerate_shapes(SPACE, prices),
        enumerate_shapes(SPACE, pricing(parent, Limits(), Workload(context=8))),
    )

    def took(shape):
        of = {phase: by_pencil(shape, phase) for phase in ("prefill", "decode")}
        return {**of, "total": of["prefill"] + ASKED.output * of["decode"]}

    def fits(shape):
        return all(took(shape)[phase] * (1 + margin) <= ms + 1e-9 for phase, ms in limits)

    found = [feasible.shape(i) for i in range(feasible.count)]
    every = [whole.shape(i) for i in range(whole.count)]
    assert 0 < len(found) < len(every)
    assert found == [shape for shape in every if fits(shape)]
    for shape, row in zip(found, feasible.times, strict=True):
        assert row.tolist() == pytest.approx([took(shape)[phase] for phase, _ in limits])
        assert prices.total(shape_architecture(parent, shape)).tolist() == pytest.approx(
            row.tolist()
        )
    for shape, best in zip(found, maximal(feasible, SPACE, prices), strict=True):
        larger = [
            o
            for o in found
            if o != shape and all(n >= shape.plain()[name] for name, n in o.plain().items())
        ]
        assert best == (not larger)


def test_a_plan_of_a_time_budget_says_what_it_costs():
    parent = tiny("M-M*-M-", vocab=48)
    settings = SearchSettings(budget=("1.2x@b2,p10,o4",), multiple=16)
    plan = make_plan(parent, settings, Clock())
    whole = {
        p: sum(k[b.kind] for b in parent.blocks) + a
        for p, k, a in (("prefill", PREFILL, 11.0), ("decode", DECODE, 1.0))
    }
    total = whole["prefill"] + 4 * whole["decode"]
    said = plan.summary()
    assert said.budget.times == {"total ms @b2,p10,o4": pytest.approx(total / 1.2)}
    assert said.parent_cost.times == {"total ms @b2,p10,o4": pytest.approx(total)}
    for row in plan.maximal():
        assert row.ms["total ms @b2,p10,o4"] <= total / 1.2
    with pytest.raises(UserError, match="meets this budget already"):
        make_plan(parent, replace(settings, budget=("0.9x",)), Clock())
    with pytest.raises(UserError, match="needs times"):
        make_plan(parent, settings)
    with pytest.raises(UserError, match="No architecture") as caught:
        make_plan(
            parent, replace(settings, budget=("prefill=11.5ms@b2,p10,o4",)), Clock(margin=0.5)
        )
    # a quarter of Mamba and FFN blocks and of the width, no attention: 11 + 5 + 3 / 4 ms, and half
    # as much kept free
    assert f"{(11 + 5 + 0.75) * 1.5:.3f} prefill" in caught.value.allowed


def table(parent, margin=()):
    sizes = {("prefill", 10): 1.0, ("decode", 12): 0.1}
    entries = {}
    for (phase, tokens), factor in sizes.items():
        for block in parent.blocks:
            whole = block.sizes.get("intermediate", 0)
            for width in (whole, whole // 2) if block.kind == "mlp" else (None,):
                entry = block if width is None else replace(block, intermediate=width)
                entries[phase, 2, tokens, describe(entry)] = factor * (width or 100)
        entries[phase, 2, tokens, surroundings(parent)] = factor * 7
    meta = {
        "device": "d",
        "dtype": "bf16",
        "date": "2026",
        "additivity": [{"error": e} for e in margin],
    }
    return LatencyTable(meta=meta, entries=entries)


def test_a_table_of_times_is_read_on_a_straight_line():
    parent = tiny("M-*", vocab=48)
    known = table(parent, margin=(-0.02, 0.1, 0.03))
    ffn = parent.blocks[1]
    assert known.margin == pytest.approx(0.03)
    assert table(parent).margin == 0
    for width, want in ((64, 64.0), (32, 32.0), (40, 40.0), (63, 63.0)):
        assert known.ms(
            replace(ffn, intermediate=width), "prefill", ASKED, parent
        ) == pytest.approx(want)
        step = known.ms(replace(ffn, intermediate=width), "decode", ASKED, parent)
        assert step == pytest.approx(0.1 * want)
        assert known.ms(replace(ffn, intermediate=width), "total", ASKED, parent) == pytest.approx(
            want + 4 * step
        )
    assert model_ms(known, parent, "prefill", ASKED) == pytest.approx(100 + 64 + 100 + 7)
    for wrong, work in (
        (replace(ffn, intermediate=16), ASKED),
        (replace(ffn, intermediate=65), ASKED),
        (ffn, replace(ASKED, batch=1)),
        (ffn, replace(ASKED, prompt=11)),
        (None, replace(ASKED, prompt=9)),
        (replace(parent.blocks[0], state=16), ASKED),
    ):
        with pytest.raises(UserError, match="no such time"):
            known.ms(wrong, "prefill", work, parent)


def test_attention_between_two_numbers_of_kv_heads():
    """Query heads go with their KV heads, so that only the latter vary along the line."""
    parent = tiny("*", q_heads=8, kv_heads=4, vocab=48)
    block = parent.blocks[0]
    sizes = {4: 40.0, 1: 10.0}
    entries = {
        ("prefill", 2, 10, describe(replace(block, kv_heads=kv, q_heads=2 * kv))): ms
        for kv, ms in sizes.items()
    }
    table = LatencyTable(meta={"device": "d", "dtype": "bf16", "date": "2026"}, entries=entries)
    assert table.ms(
        replace(block, kv_heads=2, q_heads=4), "prefill", ASKED, parent
    ) == pytest.approx(20.0)
    with pytest.raises(UserError, match="no such time"):  # another number of query heads for each
        table.ms(replace(block, kv_heads=2, q_heads=8), "prefill", ASKED, parent)
