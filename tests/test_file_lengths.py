"""No Python file is over 300 lines."""

from pathlib import Path

ROOT = Path(__file__).parent.parent
ROOMS = ("minipuzzle", "tests", "studies", "benchmarks", "recipes")


def test_no_file_is_over_300_lines():
    lines = {
        str(path.relative_to(ROOT)): len(path.read_text().splitlines())
        for room in ROOMS
        for path in (ROOT / room).rglob("*.py")
    }
    assert len(lines) > 500
    assert {name: n for name, n in lines.items() if n > 300} == {}
