"""One command at a time in a run directory."""

import errno
import fcntl
import json
import os
import shutil
import signal
import socket
import threading

import pytest
from helpers import FAST, TEXT, forked, run

from minipuzzle.artifacts import write_json
from minipuzzle.errors import UserError
from minipuzzle.lock import hold
from minipuzzle.records import CommandLog, Scored, Searched
from minipuzzle.rundir import RunDir

RECIPE = "checkpoint: {}\ndistill: {{training: {{tokens: 1000}}}}\nsearch: {{budget: 90%}}\n"
COMMANDS = {
    "score": ("CKPT",),
    "search": ("--budget", "90%"),
    "prune": (),
    "distill": (),
    "adapt": ("CKPT",),
    "eval": (),
    "report": (),
    "profile": ("CKPT",),
    "export": (),
    "run": ("recipe.yaml",),
    "pretrain": ("pretrain.yaml",),
    "demo": (),
}


@pytest.fixture
def held(tmp_path):
    """A run directory in which another process, whose number comes with it, is at work until it is
    killed.
    """
    folder = tmp_path / "run"

    def work(ready):
        with hold(folder):
            ready()
            signal.pause()

    with forked(work) as pid:
        yield folder, pid


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_that_writes_is_kept_out(name, held, tmp_path, capsys, monkeypatch):
    folder, pid = held
    (tmp_path / "ckpt").mkdir()
    (tmp_path / "ckpt/config.json").write_text("{}")
    (folder / "student").mkdir()
    (folder / "student/config.json").write_text("{}")
    (tmp_path / "recipe.yaml").write_text(RECIPE.format("ckpt"))
    (tmp_path / "pretrain.yaml").write_text(
        "model: {model_type: nemotron_h}\ntokenizer: embedded\n"
    )
    monkeypatch.chdir(tmp_path)
    words = [tmp_path / "ckpt" if word == "CKPT" else word for word in COMMANDS[name]]
    before = sorted(folder.rglob("*"))
    run(name, *words, "--run", folder, code=2)
    said = capsys.readouterr().err
    assert f"Another command is at work in the run directory {folder}." in said
    assert f"process {pid} on {socket.gethostname()} since 20" in said
    assert "--run" in said
    assert sorted(folder.rglob("*")) == before


def test_a_dead_process_holds_nothing(held, checkpoint, capsys):
    folder, pid = held
    score = ("score", checkpoint, "--run", folder, "--data", TEXT, *FAST["score"])
    run(*score, code=2)
    os.kill(pid, signal.SIGKILL)
    os.waitid(
        os.P_PID, pid, os.WEXITED | os.WNOWAIT
    )  # a zombie, as its parent has not asked for it
    run(*score)
    assert not (folder / ".lock").exists()
    assert [
        row.command.split()[1] for row in CommandLog.load(folder / "commands.json").commands
    ] == ["score"]


def test_the_lock_lies_within_itself_but_not_in_another_thread(tmp_path):
    found = []

    def other():
        with pytest.raises(UserError, match="at work") as error, hold(folder):
            pass
        found.append(error.value.got)

    folder = tmp_path / "new" / "run"
    with hold(folder) as outer, hold(tmp_path / "new" / ".." / "new" / "run") as inner:
        assert (outer.first, inner.first) == (True, False)
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert found == [f"another thread of this process ({os.getpid()})"]
    assert not (tmp_path / "new").exists(), "nothing was written, so nothing stays"
    with pytest.raises(ZeroDivisionError), hold(folder):
        raise ZeroDivisionError
    with hold(folder):
        (folder / "run.json").write_text("{}")
    assert [path.name for path in folder.iterdir()] == ["run.json"]


def test_a_forked_child_does_not_keep_its_parents_lock(tmp_path):
    def work(ready):
        ready()
        signal.pause()

    with hold(tmp_path / "run"):
        child = forked(work)
        child.__enter__()
    with hold(tmp_path / "run") as again:
        assert again.first
    child.__exit__(None, None, None)


def test_a_file_that_lost_its_name_is_not_taken(tmp_path, monkeypatch):
    """Its holder ended, and removed it, between our opening and locking it."""
    calls, flock = [], fcntl.flock

    def late(handle, how):
        if not calls:
            (tmp_path / "run/.lock").unlink()
        calls.append(handle)
        flock(handle, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with hold(tmp_path / "run"):
        assert json.loads((tmp_path / "run/.lock").read_text())["process"] == os.getpid()
    assert len(calls) == 2


def test_a_file_system_without_locks_is_said_once(tmp_path, monkeypatch, capsys):
    def none(handle, how):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", none)
    folder = RunDir(tmp_path / "run")
    with folder.locked(), folder.locked():
        folder.mark(Scored(key="key"))
    said = capsys.readouterr().err
    assert said.count("has no locks (No locks available)") == 1
    assert "only one at a time" in said
    assert RunDir(tmp_path / "run").is_done("score", "key")


def test_what_cannot_be_locked_is_an_error_of_the_user(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/.lock").symlink_to(tmp_path / "elsewhere" / "x")
    for folder in (tmp_path / "file", tmp_path / "file/run", tmp_path / "run"):
        with pytest.raises(UserError, match="Could not write"), hold(folder):
            pass
    assert not (tmp_path / "elsewhere").exists()


def test_other_processes_of_a_torchrun_need_no_lock(held, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    folder = RunDir(held[0])
    with folder.locked():
        folder.mark(Scored(key="key"))
    assert not (held[0] / "run.json").exists()


def test_run_json_keeps_what_another_command_marked(tmp_path):
    """Each of the two had read it before the other wrote."""
    one, two = RunDir(tmp_path), RunDir(tmp_path)
    one.set_parent(tmp_path / "a", "a")
    one.mark(Scored(key="1"))
    two.mark(Searched(key="2"))
    assert set(RunDir(tmp_path).record.stages.names) == {"score", "search"}
    with two.locked():
        assert two.key("score") == "1"
    with pytest.raises(UserError, match="belongs to another checkpoint"):
        RunDir(tmp_path).set_parent(tmp_path / "b", "b")
    late = RunDir(tmp_path / "late")
    write_json(
        tmp_path / "late/run.json",
        {"schema": 3, "parent": {"path": "x", "fingerprint": "x"}, "stages": {}},
    )
    with pytest.raises(UserError, match="belongs to another checkpoint"):
        late.set_parent(tmp_path / "b", "b")
    shutil.rmtree(tmp_path / "late")
