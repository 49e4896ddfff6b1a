"""Who gets the numbers of log.csv: our writers against recorded doubles of wandb and mlflow.

studies/boards.py does the same with the packages themselves, which are not installed here; what
the doubles answer is what it saw of wandb 0.31.0 and mlflow 3.17.2.
"""

import math
import sys
from types import ModuleType, SimpleNamespace

import pytest

from minipuzzle.errors import UserError
from minipuzzle.settings import Training
from minipuzzle.training.board import Boards, require_boards

ROWS = [{"step": step, "loss": 1 / step, "teacher_entropy": math.nan} for step in (10, 20)]


@pytest.fixture
def told(monkeypatch):
    """What the packages are told, in order."""
    told = []

    class Run:
        def define_metric(self, *args, **options):
            told.append(("define_metric", args, options))

        def log(self, row):
            told.append(("log", row))

        def finish(self, exit_code):
            told.append(("finish", exit_code))

    class Client:
        def __init__(self, uri):
            told.append(("client", uri))

        def get_experiment_by_name(self, name):
            return None

        def create_experiment(self, name):
            return f"number of {name}"

        def create_run(self, experiment, run_name):
            told.append(("create_run", experiment, run_name))
            return SimpleNamespace(info=SimpleNamespace(run_id="abc"))

        def update_run(self, run, status):
            told.append(("update_run", run, status))

        def log_batch(self, run, metrics):
            told.append(("log_batch", run, metrics))

        def set_terminated(self, run, status):
            told.append(("set_terminated", run, status))

    def init(**options):
        told.append(("init", options))
        return Run()

    modules = {name: ModuleType(name) for name in ("wandb", "mlflow", "mlflow.entities")}
    modules["wandb"].init = init
    modules["mlflow"].MlflowClient = Client
    modules["mlflow.entities"].Metric = lambda name, value, when, step: (name, value, step)
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    for name in ("WANDB_PROJECT", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    return told


def test_wandb_gets_the_rows_and_a_resumed_run_is_the_same(told, tmp_path):
    folder = tmp_path / "run/distill/long"
    with Boards(("wandb",), folder, 0) as boards:
        for row in ROWS:
            boards.write(row)
    (_, began), defined, *rows, ended = told
    assert began["name"] == "run/distill/long"
    assert (began["project"], began["resume"], began["dir"]) == ("minipuzzle", "allow", str(folder))
    assert defined == ("define_metric", ("*",), {"step_metric": "step"})
    assert rows == [("log", {"step": s, "loss": 1 / s}) for s in (10, 20)]  # NaN is no number
    assert ended == ("finish", 0)
    told.clear()
    with pytest.raises(KeyboardInterrupt), Boards(("wandb",), folder, 20):
        raise KeyboardInterrupt
    assert told[0][1]["id"] == began["id"]
    assert told[-1] == ("finish", 1)
    with Boards(("wandb",), tmp_path / "other", 0):
        assert told[-2][1]["id"] != began["id"]


def test_mlflow_gets_the_rows_in_one_run(told, tmp_path, monkeypatch):
    with Boards(("mlflow",), tmp_path, 0) as boards:
        boards.write(ROWS[1])
    assert told[0] == ("client", f"sqlite:///{tmp_path}/mlflow.db")
    assert told[1][:2] == ("create_run", "number of minipuzzle")
    assert told[3:] == [
        ("log_batch", "abc", [("loss", 0.05, 20)]),
        ("set_terminated", "abc", "FINISHED"),
    ]
    told.clear()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking")
    with Boards(("mlflow",), tmp_path, 20):
        pass
    assert told[:2] == [("client", "http://tracking"), ("update_run", "abc", "RUNNING")]


def test_names_and_packages_that_are_not_there(monkeypatch):
    assert Training(log_to="wandb,mlflow").log_to == ("wandb", "mlflow")
    assert Training(log_to=["tensorboard"]).log_to == ("tensorboard",)
    assert Training(log_to="").log_to == ()
    with pytest.raises(UserError, match="not known"):
        Training(log_to="tensorboard,comet")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="Weights & Biases is not installed") as found:
        require_boards(("wandb",))
    assert "minipuzzle[wandb]" in found.value.next
