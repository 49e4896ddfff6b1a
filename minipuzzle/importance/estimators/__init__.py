"""Estimators, one file each, found by their names (``minipuzzle.registry``).

Where sources differ: NVIDIA's Model Optimizer reads FFN channels after the activation
(``minitron``), the formula of arXiv:2504.03624 before it (``minitron-pre``). For attention it takes
mean |x| of each channel and then the norm over a head's; F_head of arXiv:2407.14679 takes the norm
first, as here. FLAP's released code squares its attention scores and standardises all of them to
compare blocks, and adds the mean of what it cuts to a bias; none of that is done here. Scores rank
the channels of one block; ``minipuzzle.importance.stream`` says what blocks are worth.
"""

from __future__ import annotations

from minipuzzle.importance.estimators.base import Estimator, WholeModel
from minipuzzle.registry import ESTIMATORS


def find(name: str) -> Estimator:
    """The estimator of a name. Raises: UserError for an unknown one."""
    return ESTIMATORS.load(name, Estimator)


def streamed() -> tuple[str, ...]:
    """The names of those that need one block at a time: forward activations or weights alone."""
    names = ESTIMATORS.names()
    return tuple(name for name in names if not isinstance(find(name), WholeModel))


def check_streamed(name: str) -> None:
    """Raises: UserError for an unknown name, and for one that one block cannot answer."""
    found = find(name)
    if isinstance(found, WholeModel):
        found.refuse(name, streamed())
