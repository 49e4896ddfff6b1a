"""minipuzzle: compress hybrid Mamba-Transformer language models. See README.md for the rooms.

``import minipuzzle as mp`` gives the functions of ``minipuzzle.api`` and the settings of ``minipuzzle.recipe``, imported
when they are first used: importing this package needs no torch (PEP 562).
"""

from __future__ import annotations

import inspect
import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from minipuzzle.api import distill, evaluate, load, prune, score, search
    from minipuzzle.errors import UserError
    from minipuzzle.recipe import Data, DistillSettings, ScoreSettings, SearchSettings, Training

_FUNCTIONS = ("load", "score", "search", "prune", "distill", "evaluate")
_SETTINGS = ("Data", "ScoreSettings", "SearchSettings", "DistillSettings", "Training")
__all__ = [
    "Data", "DistillSettings", "ScoreSettings", "SearchSettings", "Training", "UserError",
    "distill", "evaluate", "load", "prune", "score", "search",
]  # fmt: skip


class _Room(ModuleType):
    """A room that is also a function: ``mp.search(job, settings)`` beside ``minipuzzle.search.plan``."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return _function(self.__name__.rpartition(".")[2])(*args, **kwargs)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(_function(self.__name__.rpartition(".")[2]))


class _Package(ModuleType):
    """Importing a submodule sets it here as an attribute: where a function has that name, both are wanted."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _FUNCTIONS and isinstance(value, ModuleType):
            value.__class__ = _Room
        super().__setattr__(name, value)


def __getattr__(name: str) -> Any:
    if name in ("search", "distill", "evaluate"):
        return import_module(f"{__name__}.{name}")
    if name in _FUNCTIONS:
        return _function(name)
    if name in _SETTINGS:
        return getattr(import_module(f"{__name__}.recipe"), name)
    if name == "UserError":
        return import_module(f"{__name__}.errors").UserError
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _function(name: str) -> Any:
    return getattr(import_module(f"{__name__}.api"), name)


sys.modules[__name__].__class__ = _Package
