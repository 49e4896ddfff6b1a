"""Several processes (gloo, on the CPU) write the completions that one writes, and learn the same
from them.
"""

import json
import shutil

import on_policy_world
import pytest
import torch
from conftest import save, shaken, tiny
from helpers import FAST, run
from launched import together
from on_policy_world import FEW, STEPS, written
from safetensors.torch import load_file
from test_parallel import column, difference
from world import CPU

from minipuzzle.checkpoint import Checkpoint
from minipuzzle.generation.sampling import Picker
from minipuzzle.model import load_model
from minipuzzle.ranks import alone
from minipuzzle.records import load_log
from minipuzzle.settings import Sampling
from minipuzzle.training.log import LOG

COLUMNS = ("loss", "completion_loss", "completion_tokens", "grad_norm", "teacher_entropy")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder in which one process, two and three have trained the same student."""
    folder = tmp_path_factory.mktemp("world")
    sizes = {"hidden": 16, "heads": 16, "head_dim": 4, "vocab": 61}
    save(shaken(tiny("M-*E", **sizes), 0), folder / "student", tokenizer=False)
    save(shaken(tiny("M-*-", **sizes), 1), folder / "teacher", tokenizer=False)
    one = alone(CPU)
    written(folder, one, "one")
    written(folder, one, "one-all", share=1.0)
    written(folder, one, "one-adapter", adapter="tl6")
    written(folder, one, "one-few", **FEW)
    together(2, on_policy_world.two, folder)
    together(3, on_policy_world.three, folder)
    return folder


def record(folder, name, rank=0):
    return json.loads((folder / f"{name}.{rank}.json").read_text())


@pytest.mark.parametrize(
    ("name", "ranks"),
    [
        ("two", (0, 1)),
        ("all", (0, 1)),
        ("hsdp", (0, 1)),
        ("micro", (0, 1)),
        ("context", (0,)),
        ("adapter", (0, 1)),
        ("three", (0, 1, 2)),
        ("few", (0,)),
    ],
)
def test_several_processes_equal_one(world, name, ranks):
    alike = f"one-{name}" if (world / f"one-{name}").exists() else "one"
    one, parts = record(world, alike), [record(world, name, rank) for rank in ranks]
    assert len(one) == (STEPS if name == "all" else STEPS // 2)
    lengths = set()
    for step, whole in one.items():
        assert [row for part in parts for row in part[step]["rows"]] == whole["rows"]
        assert all(part[step]["lengths"] == whole["lengths"] for part in parts)
        lengths |= {*whole["lengths"]}
    # some end early: processes decode for different numbers of steps
    assert len(lengths) > (1 if name == "few" else 3)
    for key in COLUMNS:
        found, wanted = column(world, name, key), column(world, alike, key)
        off = max(abs(a / b - 1) for a, b in zip(found, wanted, strict=True) if b == b)
        print(f"{name}: {key} differs by {off:.1e}")
        assert found == pytest.approx(wanted, rel=1e-5, nan_ok=True)
    start = dict(load_model(Checkpoint.open(world / "student")).named_parameters())
    trained = load_file(world / f"{alike}.safetensors")
    start |= {n: torch.zeros(()) for n in trained if n.endswith(".B")}
    moved = max((trained[n] - value).abs().max().item() for n, value in start.items())
    off = difference(world, alike, name)
    print(f"{name}: parameters differ by {off:.1e} (they moved by up to {moved:.1e})")
    assert off < 1e-3 * moved


@pytest.mark.parametrize("rank", [0, 1])
def test_a_stopped_run_of_two_processes_goes_on_bit_equal(world, rank):
    assert difference(world, "two", "resumed") == 0.0
    assert record(world, "two", rank) == record(world, "resumed", rank)
    for key in COLUMNS:
        wanted = pytest.approx(column(world, "two", key), rel=0, abs=0, nan_ok=True)
        assert column(world, "resumed", key) == wanted


def test_one_process_goes_on_with_what_two_have_begun(world):
    written(world, alone(CPU), "moved")
    assert column(world, "moved", "loss") == pytest.approx(
        column(world, "one", "loss"), rel=1e-5, nan_ok=True
    )
    one, moved = record(world, "one"), record(world, "moved")
    assert moved.keys() == one.keys()
    assert all(moved[step]["lengths"] == one[step]["lengths"] for step in one)


def test_the_command_in_two_processes(searched, tmp_path):
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "Mr President, the"}\n' * 3)
    one, two = (shutil.copytree(searched, tmp_path / name) for name in ("one", "two"))
    words = *FAST["distill"], "--prompts", tmp_path / "prompts.jsonl", "--on-policy", "50%"
    # 8: also a quarter of it, as in screening runs, can be shared
    words = *words, "--batch", 8, "--completion", 8, "--tokens", 2048, "--short-tokens", 512
    run("distill", "--run", one, *words)
    together(2, run, "distill", "--run", two, *words)
    wanted, found = (load_log(folder / "distill/long" / LOG)[-1] for folder in (one, two))
    for key in ("loss", "completion_loss", "completion_tokens"):
        assert found[key] == pytest.approx(wanted[key], rel=1e-5)


def test_rows_of_a_part_are_drawn_as_in_the_whole():
    sampling, logits = Sampling(temperature=1.0, seed=5), torch.zeros(20, 61)
    whole, part = Picker(sampling), Picker(sampling, 4, 20)
    for _ in range(3):
        assert part(logits[4:9]).tolist() == whole(logits)[4:9].tolist()
