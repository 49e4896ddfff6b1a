"""minipuzzle: compress hybrid Mamba-Transformer language models. See CONTRIBUTING.md for the rooms.

``import minipuzzle as mp`` gives the functions of ``minipuzzle.api`` and the dataclasses of
``minipuzzle.settings``, imported when they are first used: importing this package needs no torch
(PEP 562).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from minipuzzle.version import VERSION as __version__

if TYPE_CHECKING:
    from minipuzzle.api import distill, evaluate, load, prune, qad, score, search
    from minipuzzle.errors import InternalError, UserError
    from minipuzzle.settings import Data, DistillSettings, ScoreSettings, SearchSettings, Training

_FUNCTIONS = ("load", "score", "search", "prune", "distill", "qad", "evaluate")
_ERRORS = ("UserError", "InternalError")
_SETTINGS = ("Data", "ScoreSettings", "SearchSettings", "DistillSettings", "Training")
__all__ = [
    "Data",
    "DistillSettings",
    "InternalError",
    "ScoreSettings",
    "SearchSettings",
    "Training",
    "UserError",
    "__version__",
    "distill",
    "evaluate",
    "load",
    "prune",
    "qad",
    "score",
    "search",
]


def __getattr__(name: str) -> Any:
    if name in _FUNCTIONS:
        return _function(name)
    if name in _SETTINGS:
        return getattr(import_module(f"{__name__}.settings"), name)
    if name in _ERRORS:
        return getattr(import_module(f"{__name__}.errors"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _function(name: str) -> Any:
    return getattr(import_module(f"{__name__}.api"), name)
