"""Candidates measured while the parent is read block by block: to the last bit what the whole
parent says under their masks, in the memory that is printed before.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import save, shaken, tiny
from helpers import TEXT
from test_branches import chosen

import minipuzzle as mp
from minipuzzle import embedded
from minipuzzle.arch import Selection
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.data import Tokenizer, load_blocks
from minipuzzle.data.blocks import joined, pack
from minipuzzle.memory import Peak
from minipuzzle.memory.searching import search_peak, streamed_peak
from minipuzzle.metrics import answers, measure_each
from minipuzzle.model import StreamedLM, load_frozen
from minipuzzle.model.footprint import _Live
from minipuzzle.model.prefetch import BlockReader
from minipuzzle.rundir import RunDir
from minipuzzle.runs import search_memory
from minipuzzle.runs.job import Job
from minipuzzle.runs.search_memory import load_of

CPU = torch.device("cpu")
SETTINGS = mp.SearchSettings(budget=("90%",), candidates=4, validation_blocks=16, multiple=8)


def text(count, length=32):
    whole = load_blocks(TEXT, Tokenizer.load(embedded.teacher_path()), block_length=length)
    return whole.take(count)


def opened(folder, model):
    return Checkpoint.open(save(model, folder, tokenizer=False))


def read(monkeypatch):
    """The numbers of the blocks that are read from now on."""
    found, usual = [], BlockReader._read
    monkeypatch.setattr(
        BlockReader, "_read", lambda self, i, tensors: [found.append(i), usual(self, i, tensors)][1]
    )
    return found


def test_each_is_what_the_whole_parent_says(tmp_path, monkeypatch):
    """Texts of two domains, one of which has losses on some tokens, in parts of 6 and 4 blocks;
    seven selections that differ.
    """
    parent = opened(tmp_path / "parent", shaken(tiny("M-M*-")))
    numbers = np.arange(32, dtype=np.int32)
    some = text(6)
    some = replace(some, documents=np.tile(numbers // 12 * 2 + numbers % 3 % 2, (6, 1)), spans=True)
    blocks = joined([text(4), some], ["a", "b"])
    whole = load_frozen(parent, device=CPU)
    said = answers(whole, blocks, batch=2)
    expected = measure_each(whole, chosen(), blocks, batch=2, teacher=said)
    numbers = read(monkeypatch)
    model = StreamedLM(parent, device=CPU, rows=7 * 6 + 6)
    again = answers(model, blocks, batch=2)
    assert torch.equal(again.hidden, said.hidden)
    assert torch.equal(again.head_weight, said.head_weight)
    assert numbers == [*range(5)]
    assert measure_each(model, chosen(), blocks, batch=2, teacher=again) == expected
    assert numbers == [*range(5)] * 3
    assert len({found.kl for found in expected}) == 7
    assert model.final_norm.kept is None


def job_of(folder, vocab):
    model = shaken(tiny("M-M*-M-*-", hidden=64, heads=16, vocab=vocab, intermediate=256))
    path = save(model, folder / "parent", tokenizer=False)
    return Job(RunDir(folder / "run"), checkpoint=path, data=mp.Data(length=64), device="cpu")


@pytest.mark.parametrize("vocab", [64, 1024])
@pytest.mark.parametrize("rows", [None, 8])
def test_the_peak_is_what_is_held(rows, vocab, tmp_path):
    """Where blocks and where logits take most. Counted is what operations return, as long as it
    lives; buffers of threads that read are not seen.
    """
    job, count = job_of(tmp_path, vocab), 16
    tokens = torch.arange(count * 64).view(count, 64) % vocab
    blocks = pack(
        [tokens.numpy().astype("uint32").ravel()],
        block_length=64,
        vocab_size=vocab,
        seed=0,
        fingerprint="",
        text_bytes=1,
    )
    load = replace(load_of(job, blocks, SETTINGS), piece=0)
    selections = [Selection(blocks=({},) * i + (None,) + ({},) * (8 - i)) for i in (0, 2, 4, 6)]
    assert load.together == len(selections)
    given = []
    if rows is None:
        model = load_frozen(job.parent, device=CPU)
        peak, given = search_peak(load), [*model.parameters()]
    else:
        peak = streamed_peak(load, rows)
    with _Live(given) as live:
        if rows is not None:
            model = StreamedLM(job.parent, device=CPU, rows=len(selections) * rows)
        measure_each(model, selections, blocks, teacher=answers(model, blocks))
    held = live.peak + sum(t.nbytes for t in given)
    assert peak.total == pytest.approx(held, rel=0.05)


def test_a_search_in_little_memory_finds_the_same(tmp_path, monkeypatch, caplog):
    """Every block is read for the parent's answers and for the candidates, and is never held."""
    path = save(shaken(tiny()), tmp_path / "parent")
    data = mp.Data(validation=str(TEXT), calibration=str(TEXT), length=32)
    whole, streamed = (
        mp.load(path, run=tmp_path / name, data=data, device="cpu")
        for name in ("whole", "streamed")
    )
    for job in (whole, streamed):
        mp.score(job, mp.ScoreSettings(samples=4, block_samples=2, curves=False))
    expected = mp.search(whole, SETTINGS)
    too_much = Peak(terms={"the parent": 1 << 60})
    monkeypatch.setattr(search_memory, "search_peak", lambda *given: too_much)
    monkeypatch.setattr(Job, "load_frozen", lambda *given: pytest.fail("loaded whole"))
    with pytest.raises(mp.UserError, match="answer questions only where"):
        mp.search(streamed, replace(SETTINGS, by_tasks=2))
    numbers = read(monkeypatch)
    caplog.set_level("INFO")
    found = mp.search(streamed, SETTINGS)
    assert found.candidates == expected.candidates
    assert numbers == [*range(7)] * 2
    assert "blocks are read 1 times for each 4 candidates" in caplog.text
