"""TensorBoard scalars of a training run, for who asks for them: ``pip install
"minipuzzle[tensorboard]"``.
"""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from typing import Any

from minipuzzle.errors import UserError


def open_board(folder: Path, step: int) -> Any:
    """A writer of events in ``folder``; what an interrupted run wrote there after ``step`` is not
    shown again.

    Raises: UserError where tensorboard is not installed.
    """
    require_board()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the packages that it imports
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(folder), purge_step=step + 1)


def require_board() -> None:
    """Raises: UserError where tensorboard is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        raise UserError(
            "TensorBoard is not installed.",
            got="training.tensorboard",
            allowed="the package tensorboard",
            next='pip install "minipuzzle[tensorboard]", or leave it out: log.csv has the numbers.',
        )


def write_row(board: Any, row: dict[str, float]) -> None:
    """Every number of a row of the log, at its step."""
    for name, value in row.items():
        if name != "step":
            board.add_scalar(name, value, int(row["step"]))
    board.flush()
