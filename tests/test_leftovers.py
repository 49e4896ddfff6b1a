"""What a killed process leaves half written goes with the next command; what a living one writes
does not.
"""

import os
import signal
import time

import pytest
from conftest import save, shaken, tiny
from helpers import forked

from minipuzzle import temporary
from minipuzzle.artifacts import write_atomic, write_json
from minipuzzle.checkpoint import writer as writer_module
from minipuzzle.errors import UserError
from minipuzzle.rundir import RunDir
from minipuzzle.temporary import OURS, QUIET_SECONDS, REPLACED, sweep_run, temporary_beside


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def killed(work):
    """Run ``work`` in a child, which kills itself in it."""
    with forked(lambda ready: (ready(), work())) as pid:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def hidden(folder):
    return [path.name for path in folder.rglob(".*")]


def left_by_a_dead_process(path, end=temporary.WRITING):
    """A name for ``path`` as a process that is gone had chosen it."""
    names = []
    read, write = os.pipe()
    with forked(
        lambda ready: (os.write(write, str(temporary_beside(path, end)).encode()), ready())
    ):
        names.append(os.read(read, 4096).decode())
    os.close(read)
    os.close(write)
    return path.with_name(os.path.basename(names[0]))


def test_a_killed_write_is_swept_by_the_next_one(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", die)
        killed(lambda: write_atomic(tmp_path / "a.json", b"half"))
        killed(lambda: write_atomic(tmp_path / "other.json", b"half"))
    assert len(hidden(tmp_path)) == 2
    write_atomic(tmp_path / "a.json", b"whole")
    assert [OURS.fullmatch(name)["name"] for name in hidden(tmp_path)] == ["other.json"], (
        "nobody wrote that path again"
    )
    with RunDir(tmp_path).locked():
        assert hidden(tmp_path) == [".lock"]
    assert (tmp_path / "a.json").read_bytes() == b"whole"


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    for error, seen in (
        (OSError(28, "No space left on device"), UserError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ):
        monkeypatch.setattr(os, "fsync", lambda handle, error=error: (_ for _ in ()).throw(error))
        with pytest.raises(seen):
            write_json(tmp_path / "x.json", {})
        assert not list(tmp_path.iterdir())


def test_what_a_living_process_writes_stays(tmp_path):
    def work(ready):
        temporary_beside(tmp_path / "x").write_bytes(b"soon")
        ready()
        signal.pause()

    with forked(work):
        write_atomic(tmp_path / "x", b"mine")
        assert sweep_run(tmp_path) == 0
        assert len(hidden(tmp_path)) == 1
    assert sweep_run(tmp_path) == 4
    assert not hidden(tmp_path)
    mine = temporary_beside(tmp_path / "x")
    mine.write_bytes(b"")
    assert temporary_beside(tmp_path / "x") != mine
    assert mine.exists(), "another thread of this process may write it"


def test_a_number_that_another_process_has_now_protects_nothing(tmp_path, monkeypatch):
    mine = temporary_beside(tmp_path / "x")
    pid = os.getppid()
    ours = OURS.fullmatch(mine.name)
    (tmp_path / mine.name.replace(f"-{os.getpid()}-{ours['start']}-", f"-{pid}-1-")).write_bytes(
        b""
    )
    assert sweep_run(tmp_path) == 0
    assert not hidden(tmp_path)


@pytest.mark.parametrize("age", [QUIET_SECONDS / 2, QUIET_SECONDS * 2])
def test_of_another_machine_only_what_is_long_untouched_goes(tmp_path, monkeypatch, age):
    monkeypatch.setattr(temporary, "_machine", lambda: "0123abcd")
    left = temporary_beside(tmp_path / "ckpt")
    monkeypatch.undo()
    left.mkdir()
    (left / "shard-0").write_bytes(b"1234")
    for path in (left / "shard-0", left):
        os.utime(path, (time.time() - age,) * 2)
    assert sweep_run(tmp_path) == (4 if age > QUIET_SECONDS else 0)
    assert left.exists() == (age < QUIET_SECONDS)


def test_a_killed_checkpoint_is_swept_by_the_next_to_that_path(tmp_path, monkeypatch):
    """Outside a run directory too: merge --out, export."""
    model = shaken(tiny("M-", hidden=16, vocab=61))
    monkeypatch.setattr(writer_module, "_replace", die)
    killed(lambda: save(model, tmp_path / "merged", tokenizer=False))
    killed(lambda: save(model, tmp_path / "merged2", tokenizer=False))
    monkeypatch.undo()
    assert len(list(tmp_path.glob(".merged*"))) == 2
    save(model, tmp_path / "merged", tokenizer=False)
    (name,) = (path.name for path in tmp_path.glob(".*"))
    assert name.startswith(".merged2.")


def test_a_checkpoint_killed_between_its_two_renames_comes_back(tmp_path):
    path = save(
        shaken(tiny("M-", hidden=16, vocab=61)), tmp_path / "run" / "student", tokenizer=False
    )
    before = (path / "model.safetensors").read_bytes()
    old = left_by_a_dead_process(path, REPLACED)
    path.rename(old)
    with RunDir(tmp_path / "run").locked():
        assert (path / "model.safetensors").read_bytes() == before
    again = save(shaken(tiny("M-", hidden=16, vocab=61), 1), path, tokenizer=False)
    os.rename(again, left_by_a_dead_process(path, REPLACED))
    save(shaken(tiny("M-", hidden=16, vocab=61)), path, tokenizer=False)
    assert (path / "model.safetensors").read_bytes() == before
    assert not list(path.parent.glob(".*"))


def test_a_run_directory_is_swept_and_says_what_is_large(tmp_path, capsys, monkeypatch):
    for name in (
        "tokens/a.safetensors",
        "distill/long/log.csv",
        "adapter/adapter.safetensors",
        "candidates/r001",
    ):
        left = left_by_a_dead_process(tmp_path / name)
        left.parent.mkdir(parents=True, exist_ok=True)
        left.write_bytes(b"0")
    for name in ("distill/long/state/.000000000000512.writing", "scores.partial/.0.writing"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "shard-00001-model-00001-of-00001.safetensors").write_bytes(b"0" * 100)
    (tmp_path / ".mine.writing").write_bytes(b"a user's")
    with RunDir(tmp_path).locked():
        assert hidden(tmp_path) == [".lock", ".mine.writing"] or hidden(tmp_path) == [
            ".mine.writing",
            ".lock",
        ]
    assert not capsys.readouterr().err
    (tmp_path / "scores.partial/.0.writing").write_bytes(b"0" * 100)
    monkeypatch.setattr("minipuzzle.rundir.WORTH_SAYING", 100)
    with RunDir(tmp_path).locked():
        assert "removed 0.0 GB that a killed command had left" in capsys.readouterr().err
