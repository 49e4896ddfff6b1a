"""What the machine refuses, in four parts; what is a fault of ours keeps its traceback."""

import errno

import pytest
from helpers import run

from minipuzzle import errors
from minipuzzle.errors import UserError, explained

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
    assert "This is a fault of minipuzzle, not yours." in said


def test_ctrl_c_is_no_error(tmp_path, monkeypatch, capsys):
    def read_config(path):
        raise KeyboardInterrupt

    monkeypatch.setattr("minipuzzle.checkpoint.config.read_config", read_config)
    run("inspect", tmp_path, code=130)
    assert (
        capsys.readouterr().err == "stopped; the same command goes on from the last saved state\n"
    )


def test_a_value_is_shown_as_a_terminal_can_show_it():
    error = UserError("what", got="\x1b[2J" + "9" * 5000 + "\ud800", allowed="", next="")
    assert "\x1b" not in error.got
    assert len(error.got) < errors.SHOWN + 50
    error.got.encode()


def test_ctrl_c_before_a_command_begins_shows_no_traceback(monkeypatch, capsys):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr("minipuzzle.cli.app", interrupted)
    run("prune", code=130)
    assert "Traceback" not in capsys.readouterr().err
