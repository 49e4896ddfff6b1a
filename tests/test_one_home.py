"""A kind of block is named in kinds/, model/, families/ and by export's writers, nowhere else."""

import ast
from pathlib import Path

import pytest

import minipuzzle
from minipuzzle.kinds import KINDS

PACKAGE = Path(minipuzzle.__file__).parent
CLASSES = {kind.__name__ for kind in KINDS.values()}
WRITERS = {
    PACKAGE / "export" / f"gguf{part}.py"
    for part in ("", "_experts", "_llama", "_nemotron_h", "_qwen")
}


def at_home(path: Path) -> bool:
    room = path.relative_to(PACKAGE).parts[0]
    return room in ("kinds", "model", "families") or path in WRITERS


FILES = sorted(path for path in PACKAGE.rglob("*.py") if not at_home(path))


def named(source: str) -> list[str]:
    """Every mention of a kind: its class by name, or its name as a text of its own."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name | ast.alias):
            name = node.id if isinstance(node, ast.Name) else node.name
            found += [f"{node.lineno}: {name}"] if name in CLASSES else []
        elif isinstance(node, ast.Attribute) and node.attr in CLASSES:
            found.append(f"{node.lineno}: {node.attr}")
        elif isinstance(node, ast.Constant) and node.value in KINDS:
            found.append(f"{node.lineno}: {node.value!r}")
    return found


def test_no_file_outside_their_rooms_names_a_kind():
    assert all(path.exists() for path in WRITERS)
    assert len(FILES) > 100
    wrong = {str(p.relative_to(PACKAGE)): found for p in FILES if (found := named(p.read_text()))}
    assert not wrong


@pytest.mark.parametrize(
    "source",
    [
        "isinstance(block, Mamba2)",
        "from minipuzzle.kinds import Attention",
        "kinds.FeedForward",
        "block.kind == 'mlp'",
        "x = {'attention': 1}",
    ],
)
def test_the_search_for_names_finds_them(source):
    assert len(named(source)) == 1
