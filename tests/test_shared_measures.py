"""What two processes measure of a masked parent together is what one measures of the whole text,
where the loss is on some tokens and the text of several domains. Two threads stand for them.
"""

import json
import threading
from types import SimpleNamespace

import pytest
from conftest import shaken, tiny
from helpers import TEXT

from minipuzzle import embedded
from minipuzzle.arch import Selection
from minipuzzle.data import Tokenizer, load_blocks
from minipuzzle.metrics import measure
from minipuzzle.runs.parent import MaskedParent


class Two:
    """A ``Ranks`` of two threads, which only sums."""

    def __init__(self, rank, given, barrier):
        self.rank, self.world, self.given, self.barrier = rank, 2, given, barrier

    def sum(self, values):
        self.given[self.rank] = values.copy()
        self.barrier.wait(30)
        total = self.given[0] + self.given[1]
        self.barrier.wait(30)
        return total


def test_two_processes_weigh_what_each_has(tmp_path):
    rows = [{"prompt": f"{i} and {i}:", "completion": " x" * (1 + i % 40)} for i in range(1, 90)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "prose.txt").write_text(TEXT.read_text()[:3000])
    words = Tokenizer.load(embedded.teacher_path())
    blocks = load_blocks(tmp_path, words, block_length=64, by_file=True)
    blocks = blocks.take(len(blocks) // 2 * 2)
    kept = Selection(blocks=({}, None))
    model = shaken(tiny("M-"))
    with model.masked(kept):
        whole = measure(model, blocks, teacher=shaken(tiny("M-")))
    given, barrier, found = {}, threading.Barrier(2), {}

    def work(rank):
        job = SimpleNamespace(frozen_parent=lambda group: shaken(tiny("M-")))
        parent = MaskedParent(job, blocks, Two(rank, given, barrier))
        assert len(parent.blocks) == len(blocks) / 2
        (found[rank],) = parent._answer([kept], False)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(50)
    for quality in found.values():
        parts = {"": (quality, whole)}
        parts |= {name: (quality.domains[name], whole.domains[name]) for name in whole.domains}
        for mine, one in parts.values():
            expected = (one.next_token_accuracy, one.agreement, one.loss, one.kl)
            assert mine[:4] == pytest.approx(expected, rel=1e-5)
    assert len(found) == 2
    assert list(found[0].domains) == ["pairs", "prose"]
