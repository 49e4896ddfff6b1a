"""No circle among files or rooms, imports within functions included."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import minipuzzle

PACKAGE = Path(minipuzzle.__file__).parent
LAZY = {("minipuzzle", "minipuzzle.api")}
"""The package's functions, imported when they are first used."""


def modules() -> dict[str, Path]:
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports() -> dict[str, set[str]]:
    """File -> the files it imports; a name of a package counts as the package's file."""
    files, graph = modules(), {}
    for name, path in files.items():
        found = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                whole = {f"{node.module}.{alias.name}" for alias in node.names}
                found |= {module if module in files else node.module for module in whole}
            elif isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
        graph[name] = {other for other in found & set(files) if (name, other) not in LAZY} - {name}
    return graph


def check(graph: dict[str, set[str]]) -> None:
    TopologicalSorter(graph).prepare()


def rooms(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """Room -> the rooms it imports: a file or folder of the package."""
    found: dict[str, set[str]] = {}
    for name, others in graph.items():
        room = ".".join(name.split(".")[:2])
        mine = found.setdefault(room, set())
        mine |= {".".join(other.split(".")[:2]) for other in others} - {room}
    return found


def test_no_circle_among_files():
    graph = imports()
    assert len(graph) > 200
    check(graph)


def test_no_circle_among_rooms():
    check(rooms(imports()))


def test_a_circle_is_found():
    graph = imports()
    graph["minipuzzle.errors"] = {"minipuzzle.nas.solve"}
    with pytest.raises(CycleError):
        check(graph)
    with pytest.raises(CycleError):
        check(rooms(graph))
