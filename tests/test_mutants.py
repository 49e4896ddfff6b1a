"""The map of modules to test files that tests/mutants.py goes by names files that are there."""

import pytest
from mutants import FILES
from mutations import ROOT, mutants


@pytest.mark.parametrize("module", FILES)
def test_a_module_and_its_test_files_are_there(module):
    tests = [ROOT / "tests" / f"{name}.py" for name in FILES[module]]
    assert tests
    assert [path.name for path in tests if not path.exists()] == []
    assert mutants(module)
