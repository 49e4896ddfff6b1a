"""The room of memory: peaks as sums of terms, and the one table of cards."""

import subprocess
import sys
from pkgutil import iter_modules

import pytest

from minipuzzle import memory
from minipuzzle.memory import CARDS, Peak, card_of
from minipuzzle.memory.cards import PLANNED
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
