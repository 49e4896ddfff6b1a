"""What the machine refuses, in four parts; what is a fault of ours keeps its traceback."""

import errno

import pytest
from helpers import run

import minipuzzle as mp
from minipuzzle import __version__, errors
from minipuzzle.errors import InternalError, UserError, explained
from minipuzzle.records import Scored
from minipuzzle.rundir import RunDir

REFUSED = [
    FileNotFoundError(errno.ENOENT, "No such file", "a/b"),
    PermissionError(errno.EACCES, "Permission denied", "a/b"),
    OSError(errno.ENOSPC, "No space left on device", "a/b"),
    OSError("without a number"),
    MemoryError(),
    RecursionError("deep"),
    "é".encode("latin-1").decode,
    "\ud800".encode,
    EOFError("cut"),
    ValueError("embedded null byte"),
    RuntimeError("Symlink loop from 'x'"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you"
        " tried to allocate 9 bytes"
    ),
]


@pytest.mark.parametrize(
    "refused", REFUSED, ids=lambda refused: getattr(refused, "__name__", type(refused).__name__)
)
def test_what_the_machine_refuses_is_said_in_four_parts(refused, tmp_path, monkeypatch, capsys):
    def read_config(path):
        if callable(refused):
            refused()
        raise refused

    monkeypatch.setattr("minipuzzle.checkpoint.config.read_config", read_config)
    run("inspect", tmp_path, code=2)
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert all(part in said for part in ("\n  got: ", "\n  allowed: ", "\n  next: "))
    assert "Traceback" not in said
    assert "Aborted" not in said


def test_a_fault_of_ours_keeps_its_traceback(tmp_path, monkeypatch, capsys):
    def read_config(path):
        raise KeyError("hidden")

    monkeypatch.setattr("minipuzzle.checkpoint.config.read_config", read_config)
    assert explained(KeyError("hidden")) is None
    run("inspect", tmp_path, code=70)
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert "KeyError: 'hidden'" in said
    assert "minipuzzle.errors.InternalError: KeyError: 'hidden'" in said
    assert "This is a fault of minipuzzle, not yours." in said
    assert f"command line: minipuzzle inspect {tmp_path}\n" in said
    assert f"version:      minipuzzle {__version__}, Python" in said
    assert "run.json:" not in said, "inspect works in no run directory"


@pytest.mark.parametrize(
    "error", [KeyError("hidden"), ValueError("misuse"), InternalError("not what was planned")]
)
def test_a_fault_of_ours_names_what_to_attach(error, tmp_path, monkeypatch, capsys):
    """The command line, the version, run.json and a log with all of it, in the run directory."""

    def failing(*_):
        RunDir(tmp_path).mark(Scored(key="key"))
        raise error

    monkeypatch.setattr("minipuzzle.runs.prune.run_prune", failing)
    monkeypatch.setattr("minipuzzle.commands.prune.make_job", lambda *_: None)
    run("prune", "--run", tmp_path, code=70)
    said = capsys.readouterr().err
    assert f"command line: minipuzzle prune --run {tmp_path}\n" in said
    assert f"run.json:     {tmp_path / 'run.json'}\n" in said
    assert f"log:          {tmp_path / 'error.log'} " in said
    log = (tmp_path / "error.log").read_text()
    for kept in ("Traceback", "in failing", str(error), "command line: ", f"{__version__}, Py"):
        assert kept in log
    named = [line for line in said.splitlines() if line.startswith("minipuzzle.errors.Internal")]
    assert len(named) == 1, "an InternalError is not wrapped again"


def test_a_fault_is_told_where_its_log_cannot_be_written(tmp_path, monkeypatch, capsys):
    def failing(*_):
        (tmp_path / "error.log").mkdir()
        raise KeyError("hidden")

    monkeypatch.setattr("minipuzzle.commands.prune.make_job", failing)
    run("prune", "--run", tmp_path, code=70)
    said = capsys.readouterr().err
    assert "KeyError: 'hidden'" in said
    assert "log: " not in said


def test_a_users_mistake_in_a_run_directory_stays_one(tmp_path, monkeypatch, capsys):
    def failing(*_):
        raise FileNotFoundError(errno.ENOENT, "No such file", "a/b")

    monkeypatch.setattr("minipuzzle.commands.prune.make_job", failing)
    run("prune", "--run", tmp_path, code=2)
    assert "Could not use a/b." in capsys.readouterr().err
    assert not (tmp_path / "error.log").exists()


def test_a_call_without_meaning_is_a_value_error():
    with pytest.raises(ValueError, match="others is a list of checkpoints"):
        mp.evaluate(None, "ckpt")


def test_ctrl_c_is_no_error(tmp_path, monkeypatch, capsys):
    def read_config(path):
        raise KeyboardInterrupt

    monkeypatch.setattr("minipuzzle.checkpoint.config.read_config", read_config)
    run("inspect", tmp_path, code=130)
    assert (
        capsys.readouterr().err == "stopped; the same command continues from what was saved last\n"
    )


def test_a_value_is_shown_as_a_terminal_can_show_it():
    error = UserError("what", got="\x1b[2J" + "9" * 5000 + "\ud800", allowed="", next="")
    assert "\x1b" not in error.got
    assert len(error.got) < errors.SHOWN + 50
    error.got.encode()


def test_ctrl_c_before_a_command_begins_shows_no_traceback(monkeypatch, capsys):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr("minipuzzle.cli._line", interrupted)
    run("prune", code=130)
    assert "Traceback" not in capsys.readouterr().err
