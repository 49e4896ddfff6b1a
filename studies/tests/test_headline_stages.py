"""Stages of studies/headline.py and headline_ablation.py run in order, in one lane or two; what
the ablation changes.
"""

import json
import time
from argparse import Namespace

import headline
import headline_ablation
import headline_stages
import headline_table
import pytest


def test_stages_stop_go_on_and_fail_in_the_open(tmp_path):
    script = tmp_path / "slow.py"
    script.write_text(
        "import pathlib, sys,"
        " time\ntime.sleep(float(sys.argv[1]))\npathlib.Path(sys.argv[2]).write_text('x')\n"
    )

    def stage(name, seconds, budget=60):
        made = tmp_path / f"{name}.txt"
        return headline_stages.Stage(
            name=name,
            words=(str(script), str(seconds), str(made)),
            product=made,
            seconds=budget,
            run=tmp_path / "run",
        )

    out = tmp_path / "out.json"
    runner = headline_stages.Runner(tmp_path, out)
    assert runner.run_stage(stage("quick", 0), time.time() + 60)
    assert (tmp_path / "run" / "tokens").is_symlink()
    took = runner.results["stages"]["quick"]["seconds"]
    assert runner.run_stage(stage("quick", 0), time.time())  # its product is there
    assert (
        runner.results["stages"]["quick"]["seconds"]
        == took
        == json.loads(out.read_text())["stages"]["quick"]["seconds"]
    )
    assert not runner.run_stage(stage("late", 0), time.time() + 5)  # no time to begin it
    assert (
        headline_stages.run_words(stage("slow", 30).words, 0.5, tmp_path) == 0
    )  # ended by us: not a failure
    assert not (tmp_path / "slow.txt").exists()
    with pytest.raises(SystemExit, match="failed"):
        runner.run_stage(stage("wrong", "x"), time.time() + 60)
    runner.results["stages"]["greedy"] = {"seconds": 50.0, "command": ""}
    with pytest.raises(SystemExit, match="no product"):
        runner.run_stage(stage("greedy", 30), time.time() + 60)


@pytest.mark.parametrize("gpus", [1, 2])
def test_the_experiment_in_lanes(tmp_path, monkeypatch, gpus):
    """Every stage of the experiment begins after those whose products it reads, on a GPU that is
    free.
    """
    options = Namespace(
        work=tmp_path,
        text=tmp_path / "text",
        tiny=False,
        gpus=gpus,
        teacher_tokens=10**8,
        precision="fp8",
    )
    stages = headline.stages(options)
    named = {stage.words: stage for stage in stages}
    made = {stage.name: stage.product for stage in stages}
    begun, busy, together = [], set(), []

    def run_words(words, seconds, work, gpu):
        stage = named[words]
        assert all(made[name].exists() for name in stage.after)
        assert gpu not in busy
        busy.add(gpu)
        begun.append(stage.name)
        together.append(len(busy))
        time.sleep(0.02)
        stage.product.parent.mkdir(parents=True, exist_ok=True)
        stage.product.write_text(
            json.dumps({"top": ["c001", "c002"]} if "search" in stage.name else {})
        )
        busy.remove(gpu)
        return 0

    monkeypatch.setattr(headline_stages, "run_words", run_words)
    runner = headline_stages.Runner(tmp_path, tmp_path / "out.json", gpus)
    assert not runner.run(stages, time.time() + 10)
    assert begun == []
    assert runner.run(stages, time.time() + 3600)
    assert sorted(begun) == sorted(made)
    assert max(together) == gpus
    assert begun[:2] == ["teacher", "score"]
    assert begun[-1] == "tasks"
    if gpus == 1:
        assert begun == [stage.name for stage in stages]
    assert (
        begun.index("search 60%") < begun.index("distill 60%, seed 0") < begun.index("scratch 60%")
    )
    assert (
        "vocab_size" not in (tmp_path / "scratch 83%.yaml").read_text()
    )  # of the student's config, here {}
    measured = [
        word.split("=")[0] for word in stages[-1].words if word.endswith(("/student", "/model"))
    ]
    assert measured[0] == "teacher"
    assert len(set(measured)) == 8


def test_a_failure_stops_the_lanes_or_only_what_needs_it(tmp_path, monkeypatch):
    def stage(name, *after):
        product = tmp_path / f"{name}.txt"
        return headline_stages.Stage(
            name=name, words=(name,), product=product, seconds=60, run=tmp_path, after=after
        )

    def run_words(words, seconds, work, gpu):
        begun.append(words[0])
        (tmp_path / f"{words[0]}.txt").write_text("x")
        return words[0] == "bad"

    monkeypatch.setattr(headline_stages, "run_words", run_words)
    runner, until = headline_stages.Runner(tmp_path, tmp_path / "out.json"), time.time() + 3600
    stages = [stage("bad"), stage("worse", "bad"), stage("other"), stage("last", "other")]
    begun = []
    with pytest.raises(SystemExit, match="bad failed"):
        runner.run(stages, until)
    assert begun == ["bad"]
    (tmp_path / "bad.txt").unlink()
    with pytest.raises(SystemExit, match="bad failed"):
        runner.run(stages, until, go_on=True)
    assert begun == ["bad", "bad", "other", "last"]
    with pytest.raises(ValueError, match="lost waits for"):
        runner.run([stage("lost", "nowhere")], until)


def test_a_row_of_the_ablation_changes_one_thing(tmp_path):
    scored, searched, text = (tmp_path / name for name in ("scored", "83%", "text"))
    for folder in (scored, searched, text):
        folder.mkdir()
    for kind in ("prose", "code"):
        (text / f"{kind}.train.txt.xz").touch()
    losses = {"c001": 3.2, "c007": 3.0, "c009": 3.1}
    facts = {
        "key": "",
        "search": "",
        "winner": "c007",
        "short_validation_loss": losses,
        "final_kl": 0.1,
        "tokens": 1,
        "short_tokens": 1,
        "learning_rate": 5e-5,
    }
    (searched / "run.json").write_text(
        json.dumps({"schema": 3, "parent": None, "stages": {"distill": facts}})
    )
    (searched / "search.json").write_text(json.dumps({"top": list(losses), "selections": {}}))
    options = Namespace(work=tmp_path, text=text, tiny=False, gpus=1, precision="fp8")
    rows = {row.name: row for row in headline_ablation.rows(options, 10**8)}

    def words(stage):
        return dict(zip(stage.words[1::2], stage.words[2::2], strict=True))

    base = words(rows["base"].stages[-1])
    assert base["--tokens"] == "2900000"
    assert "--short-tokens" not in base
    changed = {
        name: {k[2:]: v for k, v in words(row.stages[-1]).items() if k != "--run" and base[k] != v}
        for name, row in rows.items()
    }
    assert changed == {
        "base": {},
        "tokens x 3": {"tokens": "8700000"},
        "tokens x 1/3": {"tokens": "966667"},
        "rate x 3": {"learning-rate": str(3 * 5e-5)},
        "rate x 1/3": {"learning-rate": str(5e-5 / 3)},
        "batch x 2": {"batch": "32"},
        "prose": {"data": str(text / "prose.train.txt.xz")},
        "code": {"data": str(text / "code.train.txt.xz")},
        "bf16": {"precision": "bf16"},
        "second": {},
        "grid": {},
        "depth only": {},
        "width only": {},
    }
    assert [len(row.stages) for row in rows.values()].count(2) == 3
    search = " ".join(rows["width only"].stages[0].words)
    assert "--budget 83% " in search
    assert "--min-keep attention=100% --min-keep others=100% --min-keep width=25% " in search
    for name, top in (("base", ["c007"]), ("second", ["c009"])):
        rows[name].stages[0].prepare()
        assert json.loads((rows[name].stages[0].run / "search.json").read_text()) == {
            "top": top,
            "selections": {},
        }


def test_the_table_of_the_ablation(tmp_path):
    def row(name, loss, **more):
        return {
            "name": name,
            "parameters": 1000,
            "pattern": "M-",
            "losses": {"prose": {"loss": loss, "kl": 0.125}},
            **more,
        }

    counted = {"counted": ["copy"], "average": 0.4, "retained": 0.8, "retained_95": [0.7, 0.9]}
    found = {
        "tasks": {
            "rows": [
                row("teacher", 3.0, **counted),
                row("83%", 3.3, **counted),
                row("depth only", 3.15, counted=[]),
            ]
        },
        "rows": {"depth only": {"change": "search", "tokens": 2900}},
        "stages": {"search depth only": {"seconds": 20.4}, "distill depth only": {"seconds": 50.3}},
    }
    *_, student, last = headline_table.ablation(found)
    assert student.startswith(
        "| 83% | as in the experiment | `M-` | 1,000 |  |  | 3.3000 (+10.00 %), 0.1250 | 0.4000"
        " | 80."
    )
    assert (
        last
        == "| depth only | search | `M-` | 1,000 | 2,900 | 71 | 3.1500 (+5.00 %), 0.1250 |  |  |"
    )
