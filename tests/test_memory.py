"""The room of memory: peaks as sums of terms, and the one table of cards."""

import subprocess
import sys
from dataclasses import replace
from pkgutil import iter_modules

import pytest

from minipuzzle import memory
from minipuzzle.memory import CARDS, Peak, card_of
from minipuzzle.memory.cards import PLANNED
from minipuzzle.memory.scoring import CUDA_LIBRARIES, HEADROOM, ScoringLoad, on_cpu, on_gpu
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
    """All streams lie there from the start; what does not fit goes to pinned memory."""
    device, host, fits = on_gpu(LOAD, process=1000, free=10**6)
    assert fits
    assert device.terms == {
        "activations": 60,
        "two blocks": 20,
        "working set": 100,
        "I/O buffers": 3,
    }
    assert host.total == 1000 + CUDA_LIBRARIES + 3 + 2 * 1 + 13
    edge = device.total / (1 - HEADROOM)
    assert on_gpu(LOAD, process=0, free=int(edge) + 1)[2]
    device, host, fits = on_gpu(LOAD, process=1000, free=int(edge) - 1)
    assert not fits
    assert device["a batch"] == 4 * 3
    assert "activations" not in device.terms
    assert host.total == 1000 + CUDA_LIBRARIES + 3 + 2 * 1 + 13 + 60
