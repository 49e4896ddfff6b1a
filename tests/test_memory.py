"""The room of memory: peaks as sums of terms, and the one table of cards."""

import subprocess
import sys
from dataclasses import replace
from functools import partial
from pkgutil import iter_modules

import pytest

from minipuzzle import memory
from minipuzzle.memory import CARDS, Peak, card_of
from minipuzzle.memory.cards import PLANNED
from minipuzzle.memory.scoring import (
    COMPILERS,
    CUDA_LIBRARIES,
    HEADROOM,
    ScoringLoad,
    on_cpu,
    on_gpu,
    rows_that_fit,
)
from minipuzzle.units import GIB

PEAK = Peak(terms={"weights": 3 * GIB, "metric buffers": GIB // 2})


def test_a_peak_is_the_sum_of_its_terms():
    assert PEAK.total == 3.5 * GIB
    assert PEAK["weights"] == 3 * GIB
    assert PEAK.without(("weights", "absent")).terms == {"metric buffers": GIB // 2}


def test_a_peak_as_a_line_and_as_a_table():
    assert str(PEAK) == "3.50 GiB: weights 3.00, metric buffers 0.50"
    assert PEAK.table().splitlines() == [
        "weights           3.00 GiB",
        "metric buffers  512.00 MiB",
        "total             3.50 GiB",
    ]


@pytest.mark.parametrize(
    ("name", "card"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA A100 80GB PCIe", "a100"),
        ("NVIDIA GeForce RTX 5090", "rtx5090"),
        ("Intel Xeon", None),
    ],
)
def test_cards_by_their_cuda_names(name, card):
    assert card_of(name) == (None if card is None else CARDS[card])


def test_cards_have_a_little_less_than_is_written_on_them():
    for card in CARDS.values():
        written = int(card.size.split()[0])
        assert 0.97 * written * GIB < card.memory < written * GIB
        assert card.fp8 is None or card.fp8 / card.bf16 == pytest.approx(2, rel=0.01)
    assert {size: card.memory for size, card in PLANNED.items()} == {
        "80 GB": int(79.1 * GIB),
        "141 GB": int(139.8 * GIB),
    }


def test_the_room_imports_no_torch():
    names = [name for _, name, _ in iter_modules(memory.__path__, "minipuzzle.memory.")]
    code = f"import sys, {', '.join(names)}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


LOAD = ScoringLoad(
    weights=(10, 30, 20),
    working=(5, 7, 100),
    variants=(1, 4, 2),
    samples=6,
    shared=2,
    row=3,
    batch=4,
    rows=1000,
    head=0,
    keeps_end=False,
    piece=1,
    chunk=11,
    saved=13,
)


def test_scoring_on_a_cpu_by_pencil():
    """The last block is the worst: alone, 7 variants of 2 samples beside 6 whole ones, 3 pieces."""
    peak = on_cpu(LOAD, process=1000)
    assert peak.terms == {
        "this process": 1000,
        "activations": (6 + 7 * 2) * 3,
        "two blocks": 20,
        "working set": 100,
        "I/O buffers": 3,
        "freed, kept by malloc": 2 * 100 + 2 * 1,
    }
    assert peak.total == 1000 + 60 + 20 + 100 + 3 + 202
    large = on_cpu(replace(LOAD, working=(5, 7, 1 << 30)), process=0)
    assert large["freed, kept by malloc"] == (64 << 20) + 2  # larger blocks go back at once
    early = on_cpu(replace(LOAD, working=(500, 7, 100)), process=0)
    assert early.terms["activations"] == (6 + 1 * 2) * 3  # later streams are not resident yet
    assert early.terms["two blocks"] == 10 + 30
    end = on_cpu(replace(LOAD, head=900, chunk=11, keeps_end=True), process=0)
    assert end.terms == {
        "this process": 0,
        "parent's last hidden states": 2 * 3,
        "activations": 60,
        "metric buffers": 66,
        "I/O buffers": 3,
        "head": 900,
        "freed, kept by malloc": 2 * 11 + 2 * 1,
    }


def test_scoring_on_a_gpu_by_pencil():
    """All streams of a pass lie there from its start."""
    device, host = on_gpu(LOAD, process=1000)
    assert device.terms == {
        "activations": 60,
        "two blocks": 20,
        "working set": 100,
        "I/O buffers": 3,
    }
    assert host.total == 1000 + CUDA_LIBRARIES + COMPILERS + 3 + 2 * 1 + 13


def test_scoring_in_several_passes_by_pencil():
    """7 variants: beside 6 samples of the parent 1 of them takes 13 rows, alone at most 1 + 7."""
    load = replace(LOAD, rows=15)
    assert [(p.samples, p.shared) for p in load.passes] == [(6, 1), (1, 1)]
    assert on_gpu(load, process=0)[0]["activations"] == 13 * 3
    # of later rounds, whose variants are fewer than these, two samples are held where they fit
    assert on_gpu(replace(load, keeps_end=True), process=0)[0]["activations"] == 15 * 3
    # the parent first, in one whole batch and what is left of it
    few = replace(LOAD, rows=5)
    assert [(p.samples, p.shared) for p in few.passes] == [(4, 0), (2, 0), (1, 1), (1, 1)]
    assert on_gpu(few, process=0)[0]["activations"] == 8 * 3
    # later passes find all of it resident, at the first block too
    early = on_cpu(replace(load, working=(500, 7, 100)), process=0)
    assert early["activations"] == 13 * 3
    assert early["two blocks"] == 10 + 30


def test_rows_of_a_scoring_are_bounded_by_the_limit_and_by_what_is_free():
    fit = partial(rows_that_fit, LOAD, process=1000)
    assert fit(limit=3 * 17 + 2, free=10**6, gpu=True) == 17
    beside = 20 + 100 + 3  # two blocks, working set, buffers
    assert fit(limit=10**6, free=2000, gpu=True) == (int(2000 * (1 - HEADROOM)) - beside) // 3
    beside += 1000 + 202  # this process, heaps
    assert fit(limit=10**6, free=2000, gpu=False) == (int(2000 * (1 - HEADROOM)) - beside) // 3
    assert fit(limit=10**6, free=100, gpu=True) < 1
