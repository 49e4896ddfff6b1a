"""Every benchmark still imports what it uses of the package, and has its row in the README."""

import importlib
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"
PARTS = {
    "_clocks",
    "_options",
    "_rows",
    "_shapes",
    "delta_net_decode",
    "distill_account",
    "distill_trainers",
    "experts_ways",
    "random_checkpoint",
    "scoring_large",
    "watch",
}
"""Helpers of the scripts."""
SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.py"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_script_imports(name, monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    importlib.import_module(name)


def test_every_script_has_one_claim():
    rows = [
        line.split("|")[1].strip()
        for line in (FOLDER / "README.md").read_text().splitlines()
        if line.startswith("| `")
    ]
    assert rows == [f"`{name}.py`" for name in SCRIPTS if name not in PARTS]
