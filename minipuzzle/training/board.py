"""The numbers of log.csv for who watches many runs: TensorBoard, Weights & Biases, MLflow, each a
package of its own (``pip install "minipuzzle[tensorboard]"``, ``[wandb]``, ``[mlflow]``).

Where they send to, and whether they send at all, their own variables say: ``WANDB_MODE=offline``
and the others of wandb, ``MLFLOW_TRACKING_URI`` (without it: a file in the training's folder).
"""

from __future__ import annotations

import importlib.util
import math
import os
import secrets
import time
import warnings
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

from minipuzzle.artifacts import write_atomic
from minipuzzle.errors import UserError

PROJECT = "minipuzzle"
NAMES = {"tensorboard": "TensorBoard", "wandb": "Weights & Biases", "mlflow": "MLflow"}


class Board(Protocol):
    """Shows one training run."""

    def write(self, row: Mapping[str, float]) -> None:
        """Every number of a row of the log that is one, at its step."""

    def close(self, *, done: bool) -> None:
        """The run goes no further; ``done``: because it is at its end."""


def require_boards(names: Collection[str]) -> None:
    """Raises: UserError where the package of one is not installed."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise UserError(
                f"{NAMES[name]} is not installed.",
                got=f"training.log_to {','.join(names)}",
                allowed=f"the package {name}",
                next=f'pip install "minipuzzle[{name}]", or leave it out: log.csv has the numbers.',
            )


class Boards:
    """Those named, of a training in ``folder`` that goes on after ``step`` and keeps its run there.
    As a context they are closed at its end.

    Raises: UserError where a package is not installed.
    """

    def __init__(self, names: Collection[str], folder: Path, step: int) -> None:
        require_boards(names)
        made: dict[str, Callable[[Path, int], Board]] = {
            "tensorboard": TensorBoard,
            "wandb": WeightsAndBiases,
            "mlflow": MLflow,
        }
        self.each: list[Board] = [made[name](folder, step) for name in names]

    def write(self, row: Mapping[str, float]) -> None:
        """As ``Board.write``."""
        for board in self.each:
            board.write(row)

    def __enter__(self) -> Boards:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for board in self.each:
            board.close(done=kind is None)


class TensorBoard:
    """Event files in ``tensorboard/``; what an interrupted run wrote after the step is hidden."""

    def __init__(self, folder: Path, step: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the packages that it imports
            from torch.utils.tensorboard import SummaryWriter

            self.writer: Any = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def write(self, row: Mapping[str, float]) -> None:
        """As ``Board.write``."""
        for name, value in row.items():
            if name != "step":
                self.writer.add_scalar(name, value, int(row["step"]))
        self.writer.flush()

    def close(self, *, done: bool) -> None:
        """As ``Board.close``."""
        self.writer.close()


class WeightsAndBiases:
    """A run of the project "minipuzzle", drawn over ``step``: the steps that an interrupted run had
    taken since its last save are there twice.
    """

    def __init__(self, folder: Path, step: int) -> None:
        import wandb

        self.run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=_name(folder),
            id=_kept(folder / "wandb-run", lambda: secrets.token_hex(8)),
            resume="allow",
            dir=str(folder),
        )
        self.run.define_metric("*", step_metric="step")

    def write(self, row: Mapping[str, float]) -> None:
        """As ``Board.write``."""
        self.run.log(_finite(row))

    def close(self, *, done: bool) -> None:
        """As ``Board.close``."""
        self.run.finish(exit_code=0 if done else 1)


class MLflow:
    """A run of the experiment "minipuzzle"."""

    def __init__(self, folder: Path, step: int) -> None:
        from mlflow import MlflowClient

        near = f"sqlite:///{(folder / 'mlflow.db').absolute()}"
        self.client: Any = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or near)
        self.run: str = _kept(folder / "mlflow-run", lambda: self._create(folder))
        self.client.update_run(self.run, status="RUNNING")

    def _create(self, folder: Path) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self.client.get_experiment_by_name(name)
        experiment = self.client.create_experiment(name) if found is None else found.experiment_id
        return str(self.client.create_run(experiment, run_name=_name(folder)).info.run_id)

    def write(self, row: Mapping[str, float]) -> None:
        """As ``Board.write``."""
        from mlflow.entities import Metric

        now, step = int(1000 * time.time()), int(row["step"])
        numbers = {name: value for name, value in _finite(row).items() if name != "step"}
        self.client.log_batch(self.run, [Metric(n, v, now, step) for n, v in numbers.items()])

    def close(self, *, done: bool) -> None:
        """As ``Board.close``."""
        self.client.set_terminated(self.run, status="FINISHED" if done else "KILLED")


def _finite(row: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in row.items() if math.isfinite(value)}


def _name(folder: Path) -> str:
    """Of a run, from the last folders of its path: "run/distill/long"."""
    return "/".join(folder.absolute().parts[-3:])


def _kept(file: Path, make: Any) -> str:
    """A run's name at the service: made once, and read when the training goes on."""
    if not file.exists():
        name: str = make()
        write_atomic(file, name.encode())
    return file.read_text().strip()
