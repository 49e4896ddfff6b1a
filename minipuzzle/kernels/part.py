"""A part of a package without all of it."""

from __future__ import annotations

import sys
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any


class _Later(ModuleType):
    """A package whose own file runs when a name of it is first wanted."""

    def __getattr__(self, name: str) -> Any:
        loader = self.__spec__.loader if self.__spec__ else None
        if loader is None or (name.startswith("__") and name != "__version__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        object.__setattr__(self, "__class__", ModuleType)  # from here on as any other
        loader.exec_module(self)
        return getattr(self, name)


def import_parts_of(package: str) -> None:
    """Let modules within an installed package be imported without its ``__init__``, which runs when
    somebody wants a name of it: mamba-ssm's imports its models and with them transformers, 7 s of
    each command.
    """
    spec = find_spec(package)
    if spec is not None and package not in sys.modules:
        module = module_from_spec(spec)
        module.__class__ = _Later
        sys.modules[package] = module
