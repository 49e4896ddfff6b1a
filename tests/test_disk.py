"""What a training takes of the disk: told before, held to, and refused where it is not there."""

import shutil
from collections import namedtuple
from types import SimpleNamespace

import pytest
import torch
from helpers import FAST, TEXT, run

from minipuzzle.artifacts import read_json
from minipuzzle.errors import UserError
from minipuzzle.memory.training import state_bytes
from minipuzzle.runs import disk
from minipuzzle.runs.disk import Need, check_disk, distill_needs, training_needs
from minipuzzle.training import shards

CPU = torch.device("cpu")
Usage = namedtuple("Usage", "total used free")


def free(monkeypatch, size):
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: Usage(1 << 60, 0, size))


@pytest.mark.parametrize(("count", "states"), [(1, 2), (2, 3), (3, 3), (4, 5), (9, 5)])
def test_a_distillation_of_8b_to_4b(tmp_path, count, states):
    """Beside the two states of the leg in hand: the best short run's, or three screening runs'."""
    parent = SimpleNamespace(copied_bytes=0, plain_bytes=16_200_000_000, parameters=8_100_000_000)
    sizes = [4_050_000_000] * count
    found = distill_needs(tmp_path, parent, sizes, sizes, averaged=False)
    assert {need.what: need.bytes for need in found} == {
        "candidates": 8_100_000_000 * count,
        "training checkpoints": states * 48_600_000_000,
        "student": 8_100_000_000,
    }


def test_what_lies_there_already_is_not_needed_again(tmp_path, monkeypatch, said):
    (tmp_path / "adapt/state/7").mkdir(parents=True)
    (tmp_path / "adapt/state/7/shard").write_bytes(bytes(1000))
    needs = training_needs(tmp_path / "adapt", 100, tmp_path / "adapt/state/7", 400, averaged=False)
    assert [need.missing() for need in needs] == [2 * state_bytes(100) - 1000, 400]
    assert Need("none", 10, tmp_path / "not there").missing() == 10
    free(monkeypatch, 1800)
    check_disk("adapt", needs, CPU)
    assert "of disk are needed (training checkpoints" in said[-2]
    free(monkeypatch, 1799)
    with pytest.raises(UserError, match="no room for what adapt writes") as error:
        check_disk("adapt", needs, CPU)
    assert "training checkpoints" in error.value.allowed


def size(folder):
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def test_distill_says_what_it_takes_and_takes_no_more(checkpoint, tmp_path, monkeypatch, capsys):
    """Screening and short runs: refused before anything is cut, then the most there ever is."""
    folder = tmp_path / "run"
    run("score", checkpoint, "--run", folder, *FAST["score"])
    run("search", "--run", folder, *FAST["search"], "--top", 4)
    trained = max(row["parameters"] for row in read_json(folder / "search.json")["candidates"])
    command = (
        "distill",
        "--run",
        folder,
        "--data",
        TEXT,
        "--validation",
        TEXT,
        "--tokens",
        2048,
        "--short-tokens",
        2048,
        "--length",
        64,
        "--batch",
        4,
        "--device",
        "cpu",
        "--learning-rate",
        "5e-4",
        "--save-every",
        0,
    )
    with monkeypatch.context() as patched:
        free(patched, 1000)
        run(*command, code=2)
    assert "no room for what distill writes" in capsys.readouterr().err
    assert not (folder / "candidates").exists()
    most, check = [0], shards.check

    def watched(*args, **options):
        most[0] = max(most[0], size(folder / "distill"))
        return check(*args, **options)

    monkeypatch.setattr(shards, "check", watched)
    run(*command)
    said = capsys.readouterr().err
    assert "of disk are needed (candidates" in said
    assert "of CPU memory beyond the model" in said
    # one more where there is room for a third state of the leg in hand; logs and descriptions
    assert 2 * state_bytes(trained) < most[0] < 6 * state_bytes(trained) + 200_000
    assert not list((folder / "distill").glob("*/state"))


def test_the_disk_of_a_folder_is_asked(tmp_path):
    usage = shutil.disk_usage(tmp_path)
    with pytest.raises(UserError):
        check_disk("pretrain", [Need("model", 2 * usage.total, tmp_path / "run/model")], CPU)
