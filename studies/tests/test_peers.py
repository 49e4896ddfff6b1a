"""The arithmetic of studies/solver.py and studies/peers.py: instances, verdicts, what a
failing peer becomes.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import peer_environments
import pytest
from peer_environments import call, environment, last_line
from peers_table import pruners, trainers
from peers_training import Setting, in_our_order, recover, relative
from solver import make_case, priced
from solver_table import VERDICTS, summarise, verdict

from minipuzzle.checkpoint import Checkpoint
from minipuzzle.data import TokenBlocks
from minipuzzle.nas.solve import solve
from minipuzzle.settings import Training


@pytest.mark.parametrize("kind", ["steps", "noise", "small"])
def test_instances_bind_and_can_be_met(kind):
    case = make_case(kind, 7, 4, 2, seed=3)
    found = solve(case.instance)
    best_alone = [int(np.argmin(d)) for d in case.instance.damage]
    assert priced(case.instance, best_alone)["excess"] > 0
    assert priced(case.instance, list(found.choices)) == {
        "damage": pytest.approx(found.damage),
        "excess": 0,
    }
    again = make_case(kind, 7, 4, 2, seed=3).instance
    assert all((a == b).all() for a, b in zip(again.damage, case.instance.damage, strict=True))


def row(ours, theirs, excess=0.0, seconds=(1.0, 3.0)):
    common = {"kind": "steps", "blocks": 7, "choices": 4, "budgets": 1, "seed": 0}
    mine, other = ({"seconds": s, "cpu_seconds": s / 2, "gap": 0.0, "excess": 0.0} for s in seconds)
    return {
        **common,
        "ours": {**mine, "damage": ours},
        "modelopt": {**other, "damage": theirs, "excess": excess},
    }


def test_verdicts_and_summary():
    rows = [
        row(1.0, 1.0),
        row(1.0, 1.1),
        row(1.1, 1.0),
        row(1.0, 0.9, excess=1e-12),
        row(1.0, None, seconds=(1.0, 5.0)),
    ]
    assert [verdict(r) for r in rows] == ["equal", "better", "worse", "only ours", "only ours"]
    assert verdict(row(None, 1.0)) == "only theirs"
    (summary,) = summarise(rows)
    assert [summary[word] for word in VERDICTS] == [1, 1, 1, 2, 0]
    assert summary["seconds_ratio"] == 3
    assert summary["modelopt"]["seconds_worst"] == 5


def test_a_script_answers_or_its_last_line_is_the_error(tmp_path, monkeypatch):
    monkeypatch.setattr(peer_environments, "FOLDER", tmp_path)
    (tmp_path / "good.py").write_text(
        "import json, sys; json.dump({'twice': 2 * json.load(open(sys.argv[1]))['x']},"
        " open(sys.argv[2], 'w'))"
    )
    (tmp_path / "bad.py").write_text("raise KeyError('mlp')")
    (tmp_path / "silent.py").write_text("")
    python = Path(sys.executable)
    assert call(python, "good", {"x": 4}, seconds=60)["twice"] == 8
    assert call(python, "bad", {}, seconds=60)["error"] == "KeyError: 'mlp'"
    assert "exit code 0" in call(python, "silent", {}, seconds=60)["error"]
    assert last_line("a\n  b \n\n") == "b"


def test_an_environment_is_reused_only_for_the_same_packages(tmp_path):
    home = tmp_path / "optipfair"
    home.mkdir()
    (home / "installed.json").write_text(json.dumps(list(peer_environments.PACKAGES["optipfair"])))
    assert environment(tmp_path, "optipfair") == home / "bin" / "python"


def test_blocks_for_other_trainers_are_in_our_order():
    tokens = np.arange(60, dtype=np.uint16).reshape(20, 3)
    settings = Training(tokens=36, batch=4)
    ordered = in_our_order(tokens, settings, 3)
    blocks = TokenBlocks(
        tokens=tokens, documents=np.zeros((20, 3), np.int32), fingerprint="", text_bytes=0
    )
    assert (ordered[4:8] == blocks.batch(1, 4, 0)[0]).all()
    assert len(np.unique(ordered, axis=0)) == 12


def test_a_peer_that_failed_is_a_row(tmp_path):
    setting = Setting(
        envs=tmp_path,
        work=tmp_path,
        budgets={"60%": 1},
        tokens=1,
        trainer_tokens=1,
        rate=1.0,
        seeds=1,
        seconds=1.0,
    )
    assert (
        recover(setting, "Torch-Pruning", "60%", {"error": "FFN alone"}, 0)["error"] == "FFN alone"
    )
    assert relative(np.array([1.0, 2.0]), np.array([1.0, 4.0])) == 0.5


def result(peer, after, seed=0, **more):
    return {
        "part": "pruner",
        "peer": peer,
        "budget": "83%",
        "seed": seed,
        "before": after + 1,
        "after": after,
        "within": True,
        "parameters": 80,
        "pattern": "M-",
        "widths": [5, 7],
        "heads": [4],
        "prune_cpu_seconds": 1.0,
        "prune_seconds": 2.0,
        "prune_peak_mib": 3.0,
        "reload": {"how": "stock", "difference": 1e-7},
        **more,
    }


def test_the_table_has_the_mean_of_our_seeds_and_every_failure():
    rows = [
        result("ours", 3.1),
        result("ours", 3.2, seed=1),
        result("magnitude", 3.0),
        {
            "part": "pruner",
            "peer": "optipfair (depth)",
            "budget": "83%",
            "seed": 0,
            "error": "ValueError: no",
        },
    ]
    lines = pruners({"rows": rows, "parameters": 100, "budgets": {"83%": 83}})
    assert [line.split("|")[2].strip() for line in lines[2:]] == [
        "magnitude",
        "ours",
        "optipfair (depth)",
    ]
    assert "3.1500 ± 0.0500" in lines[3]
    assert "ValueError: no" in lines[4]
    assert "80.0 %" in lines[2]
    assert (
        "DistillKit"
        in trainers({"rows": [{"part": "trainer", "peer": "DistillKit", "error": "pip"}]})[2]
    )


def test_our_trainer_answers(checkpoint, tmp_path):
    for name, count in (("train", 8), ("report", 4), ("probe", 2)):
        np.save(
            tmp_path / f"{name}.npy",
            np.random.default_rng(0).integers(0, 4096, (count, 64)).astype(np.uint32),
        )
    files = {name: str(tmp_path / f"{name}.npy") for name in ("train", "report", "probe", "logits")}
    asked = {
        "student": str(checkpoint),
        "teacher": str(checkpoint),
        **files,
        "tokens": 512,
        "rate": 1e-3,
        "batch": 4,
        "seed": 0,
        "out": str(tmp_path / "out"),
    }
    (tmp_path / "request.json").write_text(json.dumps(asked))
    script = Path(peer_environments.__file__).parent / "peers" / "ours_train.py"
    subprocess.run(
        [sys.executable, script, tmp_path / "request.json", tmp_path / "answer.json"], check=True
    )
    found = json.loads((tmp_path / "answer.json").read_text())
    assert found["checkpoint"] == asked["out"]
    assert Checkpoint.open(tmp_path / "out").parameters == found["parameters"]
    assert np.load(tmp_path / "logits.npy").shape == (2, 64, 4096)
    assert found["after"] == pytest.approx(found["before"], rel=0.1)
