"""What a search says that it takes, before the parent is loaded."""

from dataclasses import replace

import pytest
import torch
from conftest import VOCAB
from helpers import TEXT

from minipuzzle import machine
from minipuzzle.errors import UserError
from minipuzzle.memory.searching import SearchLoad, search_peak
from minipuzzle.model import load_frozen
from minipuzzle.rundir import RunDir
from minipuzzle.runs.job import Job
from minipuzzle.runs.parent import BATCH
from minipuzzle.runs.search_memory import check_memory, load_of
from minipuzzle.settings import Data

LOAD = SearchLoad(weights=100, rows=20, batch=3, waiting=4, working=50, chunk=5, piece=1)


def test_the_peak_is_the_largest_of_what_a_pencil_adds_up():
    assert search_peak(LOAD)["working set"] == 50
    assert search_peak(LOAD).total == 100 + 20 + 50 + (2 + 4) * 3
    assert search_peak(replace(LOAD, chunk=30)).total == 100 + 20 + 5 * 30 + (1 + 4) * 3
    assert search_peak(replace(LOAD, rows=300)).total == 100 + 2 * 300
    assert search_peak(replace(LOAD, piece=90)).total == 100 + 3 * 90
    here = search_peak(LOAD, process=1000)
    assert here["this process"] == 1000
    assert here.total == 1000 + 188 + 2 * (50 + 1)  # malloc keeps twice the largest blocks


def test_weights_and_answers_are_what_is_loaded(checkpoint, tmp_path, monkeypatch):
    data = Data(validation=str(TEXT), length=64)
    job = Job(RunDir(tmp_path / "run"), checkpoint=checkpoint, data=data, device="cpu")
    blocks = job.text("validation")
    load = load_of(job, blocks)
    model = load_frozen(job.parent, device=torch.device("cpu"))
    held = [*model.parameters(), *model.buffers()]
    assert load.weights == sum(t.nbytes for t in held)
    states = model.hidden_states(torch.zeros(BATCH, blocks.block_length, dtype=torch.int64))
    assert load.batch == states.nbytes
    assert load.rows == states.nbytes * len(blocks) // BATCH
    assert load.chunk == 1024 * VOCAB * 4
    assert check_memory(job, blocks)["the parent"] == load.weights
    monkeypatch.setattr(machine, "available_bytes", lambda: -(1 << 40))
    with pytest.raises(UserError, match="does not fit") as error:
        check_memory(job, blocks)
    assert "search.validation_blocks" in error.value.next
