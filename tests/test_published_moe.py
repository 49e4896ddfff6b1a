"""Published mixtures of experts: exact counts, and published candidates in the search that finds
them (moe.md of the reference folder: NVIDIA Model Optimizer's Nemotron-3-Nano-30B to 22B).
"""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import run

from minipuzzle.checkpoint.config import read_config
from minipuzzle.cost.roofline import Roofline
from minipuzzle.memory import Workload, resident
from minipuzzle.settings import Generation

EXAMPLES = Path(__file__).parent.parent / "docs/examples"
NANO, SUPER = (EXAMPLES / f"nemotron-3-{name}" for name in ("nano-30b-a3b", "super-120b-a12b"))
BOUNDS = {
    "hidden": "2304..2688/128",
    "heads": "48..64",
    "head_dim": "48..64/8",
    "experts": "96..128/8",
    "expert_width": "1536..1856/64",
    "shared_width": "3072..3712/128",
    "top_k": "6",
}
CANDIDATES = {
    22_276_865_600: {"hidden": 2304, "experts": 104, "shared_width": 3072},
    19_278_827_248: {"hidden": 2560, "heads": 48, "experts": 96, "expert_width": 1536},
    20_092_821_656: {
        "heads": 56,
        "head_dim": 48,
        "experts": 96,
        "expert_width": 1536,
        "shared_width": 3072,
    },
}
WHOLE = {
    "hidden": 2688,
    "heads": 64,
    "head_dim": 64,
    "experts": 128,
    "expert_width": 1856,
    "shared_width": 3712,
    "top_k": 6,
    "mamba": 23,
    "moe": 23,
    "attention": 6,
}


def by_formula(hidden, heads, head_dim, experts, expert_width, shared_width, top_k, **counts):
    """(all, active) parameters of such a Nano, by the formulas of the reference folder."""
    inner, states = heads * head_dim, 8 * 128
    convolved = inner + 2 * states
    mamba = hidden * (inner + convolved + heads) + convolved * 5 + 3 * heads + inner
    mamba += inner * hidden + hidden
    attention = 2 * hidden * 128 * (32 + 2) + hidden
    beside = experts * hidden + 2 * hidden * shared_width + hidden
    rest = counts["mamba"] * mamba + counts["attention"] * attention + counts["moe"] * beside
    rest += 2 * 131072 * hidden + hidden
    routed = counts["moe"] * 2 * hidden * expert_width
    return rest + experts * routed, rest + top_k * routed


@pytest.mark.parametrize(
    ("folder", "changes", "total", "active"),
    [
        (NANO, {}, 31_577_937_344, 3_580_073_408),
        (SUPER, {}, 120_668_687_360, 12_770_216_960),
        (SUPER, {"state": 96}, 120_584_698_880, 12_686_228_480),
    ],
)
def test_both_counts_of_published_models(folder, changes, total, active):
    made = read_config(folder)[1]
    blocks = [replace(b, **changes) if b.kind == "mamba" else b for b in made.blocks]
    made = replace(made, blocks=tuple(blocks))
    assert (made.parameters, made.active_parameters) == (total, active)
    assert resident(made, Workload(context=1))["weights"] == 2 * total  # all of them in memory


def test_the_search_of_the_published_bounds_has_the_published_candidates(capsys):
    assert by_formula(**WHOLE) == (31_577_937_344, 3_580_073_408)
    vary = [word for axis, sizes in BOUNDS.items() for word in ("--vary", f"{axis}={sizes}")]
    keep = ("--min-keep", "others=100%", "--min-keep", "attention=100%")
    run("search", NANO, "--budget", "active=3.0B", *vary, *keep, "--json")
    found = json.loads(capsys.readouterr().out)
    assert found["points"] == 4 * 3 * 3 * 5 * 6 * 6
    assert found["budget"]["active"] == 3 * 10**9
    assert found["parent_cost"]["active"] == 3_580_073_408
    rows = {row["parameters"]: row for row in found["maximal"]}
    for parameters, changes in CANDIDATES.items():
        shape = WHOLE | changes
        row = rows[parameters]
        assert {name: row[name] for name in WHOLE} == shape
        assert (parameters, row["active"]) == by_formula(**shape)
        assert row["active"] <= 3 * 10**9
    assert rows[22_276_865_600]["active"] == 2_999_647_808


def test_a_decoding_step_reads_the_experts_that_its_tokens_choose():
    """64 tokens choose 122.1 of the Nano's 128 experts on average, 8 tokens 40.8, one 6."""
    nano = read_config(NANO)[1]
    block = nano.blocks[1]
    one = 2 * 2688 * 1856
    beside = 128 * 2688 + 2 * 2688 * 3712 + 2688
    line = Roofline(device="h200")
    for batch, experts in ((1, 6.0), (8, 40.8), (64, 122.1)):
        work = Generation(batch=batch, prompt=1000, output=20)
        operations, moved = line.needs(block, "decode", work, nano)
        assert moved / 2 - beside - 2 * batch * 2688 == pytest.approx(experts * one, rel=2e-3)
        assert operations == batch * 2 * (6 * one + beside - 2688)
        _, moved = line.needs(block, "prefill", work, nano)
        assert moved == 2 * (block.parameters + 2 * batch * 1000 * 2688)  # all of them once
    # Fewer experts speed up a large batch alone, fewer choices every one.
    alone, many = (Generation(batch=b, prompt=1000, output=20) for b in (1, 256))
    fewer, chosen = replace(block, experts=96), replace(block, top_k=4)
    ms = {
        (name, work.batch): line.ms(made, "decode", work, nano)
        for name, made in (("whole", block), ("fewer", fewer), ("chosen", chosen))
        for work in (alone, many)
    }
    assert ms["fewer", 1] > 0.99 * ms["whole", 1]
    assert ms["fewer", 256] < 0.8 * ms["whole", 256]
    assert ms["chosen", 1] < 0.85 * ms["whole", 1]
