"""Every script still imports what it uses of the package, so that a renamed function is noticed."""

import importlib
from pathlib import Path

import pytest

STUDIES = Path(__file__).parent.parent


@pytest.mark.parametrize("name", sorted(path.stem for path in STUDIES.glob("*.py")))
def test_script_imports(name):
    importlib.import_module(name)
