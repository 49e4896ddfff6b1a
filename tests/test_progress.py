"""Progress: one object that rooms tell, and what people see of it."""

import re
from pathlib import Path

import pytest
from helpers import Watched
from rich.console import Console

import minipuzzle
from minipuzzle import bars
from minipuzzle.progress import SILENT, Counting

ROOM = Path(minipuzzle.__file__).parent


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is set."""
    now = [100.0]
    monkeypatch.setattr(bars.time, "monotonic", lambda: now[0])
    return now


def test_without_a_terminal_there_is_a_line_at_the_beginning_and_one_a_minute(clock, capsys):
    with bars.progress_bar("distill: [long]", 1000, "tokens") as shown:
        assert capsys.readouterr().err == "distill: [long] ...\n"
        clock[0] += 59
        shown.update(590, loss=2.5)
        assert capsys.readouterr().err == ""
        clock[0] += 1
        shown.advance(10)
        first = "distill: [long]: 60 %, 10 tokens/s, 0:00:40 left, loss 2.5000\n"
        assert capsys.readouterr().err == first
        clock[0] += 59
        shown.update(900, loss=2.0)
        assert capsys.readouterr().err == "", "a minute after the last line, not the last word"
        clock[0] += 1
        shown.update(900, loss=1.5)
        assert capsys.readouterr().err.endswith("90 %, 7.50 tokens/s, 0:00:13 left, loss 1.5000\n")
    assert capsys.readouterr().err == ""


def test_a_line_before_anything_is_done_knows_no_time_left(clock, capsys):
    with bars.progress_bar("score", 10, "samples") as shown:
        clock[0] += 61
        shown.update(0)
    assert capsys.readouterr().err == "score ...\nscore: 0 %, 0.00 samples/s\n"


def test_in_a_terminal_there_is_a_bar_with_rate_time_and_note_which_goes(monkeypatch):
    console = Console(force_terminal=True, width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    monkeypatch.setattr(bars, "console", console)
    with bars.progress_bar("eval", 4, "blocks") as shown:
        shown.advance()
        shown.update(3, loss=2.5)
        (task,) = shown._columns.tasks
        assert (task.completed, task.total, task.fields["note"]) == (3, 4, "loss 2.5000")
        shown.advance()
        assert task.fields["note"] == "loss 2.5000", "as it was"
        assert task.finished
        shown._columns.refresh()
    text = console.export_text()
    assert "eval" in text
    assert "100%" in text
    assert "left" in text
    console.file.close()


def test_counting_passes_on_and_keeps_the_sum():
    told = []
    counting = Counting(Watched(lambda amount, **numbers: told.append((amount, numbers))))
    counting.advance()
    counting.advance(4)
    assert counting.done == 5
    counting.update(9, loss=1.0)
    assert counting.done == 9
    assert told == [(1, {}), (4, {}), (9, {"loss": 1.0})]
    SILENT.advance(3)
    SILENT.update(3, loss=1.0)


def test_no_function_takes_a_callable_to_tell_progress_to():
    """``progress: Progress`` is the one way; a new room's own callback would not be shown."""
    threaded = re.compile(r"\b(advance|report|tell|say|callback)\w*: *Callable")
    found = [
        f"{path.relative_to(ROOM)}:{number}"
        for path in sorted(ROOM.rglob("*.py"))
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if threaded.search(line)
    ]
    assert found == []
