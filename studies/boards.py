"""Our writers of telemetry against the packages themselves, offline, in an environment of its own:

    python3 -m venv /tmp/boards
    /tmp/boards/bin/pip install numpy wandb mlflow-skinny sqlalchemy alembic
    /tmp/boards/bin/python studies/boards.py

A run is written, ended, and gone on with; what the packages hold of it is compared. No torch is
needed: the module is loaded alone. tests/test_boards.py has the same calls on recorded doubles.
"""

from __future__ import annotations

import math
import os
import sys
import tempfile
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parent.parent


def main() -> None:
    """Write two rows, go on with a third, and read them back."""
    for name in ("minipuzzle", "minipuzzle.training"):  # whose own modules import torch
        package = ModuleType(name)
        package.__path__ = [str(ROOT / name.replace(".", "/"))]
        sys.modules[name] = package
    from minipuzzle.training.board import Boards

    os.environ |= {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    folder = Path(tempfile.mkdtemp()) / "run/distill/long"
    folder.mkdir(parents=True)
    for start, steps in ((0, (10, 20)), (20, (30,))):
        with Boards(("wandb", "mlflow"), folder, start) as boards:
            for step in steps:
                row = {"step": step, "loss": 1 / step, "teacher_entropy": math.nan}
                boards.write({**row, "expert_load.3": 0.5})
    import mlflow
    import wandb

    client = mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    number = (folder / "mlflow-run").read_text()
    run, history = client.get_run(number).info, client.get_metric_history(number, "loss")
    assert (run.status, run.run_name) == ("FINISHED", "run/distill/long")
    assert [(m.step, m.value) for m in history] == [(s, 1 / s) for s in (10, 20, 30)]
    assert not client.get_metric_history(number, "teacher_entropy")
    mine = (folder / "wandb-run").read_text()
    assert len(list((folder / "wandb").glob(f"offline-run-*-{mine}"))) == 2
    print(f"wandb {wandb.__version__}, mlflow {mlflow.__version__}: as they should be")


if __name__ == "__main__":
    main()
