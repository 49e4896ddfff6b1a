"""Check the shapes that signatures name at every call: an import hook, for tests only.

A function of minipuzzle with a shape (``minipuzzle.shapes``) in its signature is wrapped when its
module is imported, so ``install`` comes before any such import. Not on a GPU: compiled kernels
would be compiled with the checks in them. A check takes longer than many a function, and what it
finds follows from types, shapes and dtypes: calls that have those of an earlier one pass unchecked.
"""

from __future__ import annotations

import ast
import functools
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import FunctionType
from typing import Any

import numpy as np
import torch
from beartype import beartype
from jaxtyping import jaxtyped

SHAPES = b"minipuzzle.shapes import"
CHECKED: list[str] = []
ARRAYS, SEQUENCES, SIZES = (torch.Tensor, np.ndarray), (tuple, list), (int, str)


def checked(function: Any) -> Any:
    """The function, with its arguments' and its result's shapes checked."""
    CHECKED.append(f"{function.__module__}.{function.__qualname__}")
    passed: dict[Any, set[Any]] = {}  # what arguments and their results looked like
    results: list[Any] = []  # one that is to be checked

    @functools.cache
    def check(given: bool) -> Any:
        target = _returns_what_it_is_given(function, results) if given else function
        return jaxtyped(target, typechecker=beartype)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():  # what is traced is compiled with all that it calls
            return function(*args, **kwargs)
        seen = _looks(args), _looks(kwargs) if kwargs else None
        if seen not in passed:
            result = check(given=False)(*args, **kwargs)
            passed.setdefault(seen, set()).add(_looks(result))
            return result
        result = function(*args, **kwargs)
        found = _looks(result)
        if found not in passed[seen]:
            results.append(result)
            check(given=True)(*args, **kwargs)
            passed[seen].add(found)
        return result

    return call


def _returns_what_it_is_given(function: Any, results: list[Any]) -> Any:
    """A function of the same signature and globals, by which its annotations are read."""

    def given(*_: Any, **__: Any) -> Any:
        return results.pop()

    like = FunctionType(given.__code__, function.__globals__, closure=given.__closure__)
    return functools.wraps(function)(like)


def _looks(x: Any) -> Any:
    """All of a value that a check looks at: sizes may be numbers among the arguments."""
    kind = type(x)
    if kind is torch.Tensor or isinstance(x, ARRAYS):
        return kind, x.shape, x.dtype
    if isinstance(x, SEQUENCES):
        return kind, *map(_looks, x)
    if isinstance(x, dict):
        return kind, *[(key, _looks(value)) for key, value in x.items()]
    return (kind, x) if isinstance(x, SIZES) else kind


class _Decorate(ast.NodeTransformer):
    """Adds ``checked`` below all other decorators of functions that name a shape."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        self.generic_visit(node)
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        annotations = [*(a.annotation for a in arguments), node.returns]
        if any("[Tensor, " in ast.unparse(a) for a in annotations if a is not None):
            decorator = ast.parse("__import__('shape_checks').checked", mode="eval").body
            node.decorator_list.append(ast.copy_location(decorator, node))
        return node


class _Loader(SourceFileLoader):
    def get_code(self, fullname: str) -> Any:
        """Never from a cache, which would hold the functions as they are."""
        tree = _Decorate().visit(ast.parse(self.get_data(self.path), self.path))
        return compile(ast.fix_missing_locations(tree), self.path, "exec", dont_inherit=True)


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: Any = None
    ) -> ModuleSpec | None:
        if not fullname.startswith("minipuzzle."):
            return None
        spec = PathFinder.find_spec(fullname, path)
        loader = None if spec is None else spec.loader
        if spec is not None and isinstance(loader, SourceFileLoader):
            if SHAPES in loader.get_data(loader.path):
                spec.loader = _Loader(loader.name, loader.path)
            return spec
        return None


def install() -> None:
    """Check from now on. Raises: RuntimeError where a module was imported unchecked before."""
    early = [name for name in sys.modules if name.startswith(("minipuzzle.model", "minipuzzle.t"))]
    if early:
        raise RuntimeError(f"imported before shapes are checked: {early[0]}")
    sys.meta_path.insert(0, _Finder())
