"""What a search says that it takes, before the parent is loaded."""

from dataclasses import replace
from math import ceil

import pytest
import torch
from conftest import VOCAB
from helpers import TEXT

from minipuzzle import machine
from minipuzzle.errors import UserError
from minipuzzle.memory.searching import SearchLoad, rows_that_fit, search_peak, streamed_peak
from minipuzzle.model import load_frozen
from minipuzzle.rundir import RunDir
from minipuzzle.runs.job import Job
from minipuzzle.runs.parent import BATCH
from minipuzzle.runs.search_memory import choose_rows, load_of
from minipuzzle.settings import Data, SearchSettings
from minipuzzle.units import GIB

LOAD = SearchLoad(
    weights=100,
    blocks=(20, 30, 10),
    head=7,
    rows=20,
    row=1,
    batch=3,
    together=5,
    waiting=4,
    working=50,
    chunk=5,
    piece=1,
)


def test_the_peak_is_the_largest_of_what_a_pencil_adds_up():
    assert search_peak(LOAD)["working set"] == 50
    assert search_peak(LOAD).total == 100 + 20 + 50 + (1 + 1 + 4) * 3
    assert search_peak(replace(LOAD, chunk=30)).total == 100 + 20 + 5 * 30 + (2 + 1 + 4) * 3
    assert search_peak(replace(LOAD, piece=90)).total == 100 + 3 * 90
    here = search_peak(LOAD, process=1000)
    assert here["this process"] == 1000
    assert here.total == 1000 + 188 + 2 * (50 + 1)  # malloc keeps twice the largest blocks


def test_the_streamed_peak_too():
    held = 7 + 20 + 5 * 6  # the head, answers, six blocks of text under five candidates
    assert streamed_peak(LOAD, 6).total == held + 50 + 50 + 3 + 3
    assert streamed_peak(replace(LOAD, rounding=9), 6).total == held + 50 + 50 + 3 + 3 + 9
    assert streamed_peak(replace(LOAD, chunk=30), 6).total == held + 5 * 30 + 2 * 3
    assert streamed_peak(replace(LOAD, working=1, blocks=(1,)), 20).total == 27 + 100 + 3 + 40


def test_as_much_text_as_fits_passes_at_once():
    beside = streamed_peak(LOAD, 0).total
    assert rows_that_fit(LOAD, 10**6) == 20  # all of it
    assert rows_that_fit(LOAD, ceil((beside + 9 * (5 + 2)) / 0.98)) == 9
    assert rows_that_fit(LOAD, ceil((beside + 9 * (5 + 2)) / 0.98) - 2) == 6
    assert rows_that_fit(LOAD, 0) == 3
    large = replace(LOAD, rows=10**3, row=GIB // 10)
    assert rows_that_fit(large, 10**15) == 16 * 10 // (7 * 3) * 3


def test_weights_and_answers_are_what_is_loaded(checkpoint, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    data = Data(validation=str(TEXT), length=64)
    job = Job(RunDir(tmp_path / "run"), checkpoint=checkpoint, data=data, device="cpu")
    blocks = job.text("validation")
    settings = SearchSettings(budget=("80%",))
    load = load_of(job, blocks, settings)
    model = load_frozen(job.parent, device=torch.device("cpu"))
    held = [*model.parameters(), *model.buffers()]
    assert load.weights == sum(t.nbytes for t in held)
    states = model.hidden_states(torch.zeros(BATCH, blocks.block_length, dtype=torch.int64))
    assert load.batch * load.row == states.nbytes
    assert load.answers == states.nbytes * len(blocks) // BATCH
    assert load.blocks == tuple(sum(t.nbytes for t in b.parameters()) for b in model.blocks)
    assert load.head == model.head_weight.nbytes
    assert load.chunk == 63 * BATCH * VOCAB * 4
    assert (load.together, load.waiting) == (16, 4)
    assert choose_rows(job, blocks, settings) is None
    assert f"the parent {load.weights / GIB:.2f}" in caplog.text
    monkeypatch.setattr(machine, "available_bytes", lambda: -(1 << 40))
    with pytest.raises(UserError, match="does not fit") as error:
        choose_rows(job, blocks, settings)
    assert "search.validation_blocks" in error.value.next
