"""Models that generation and bench are tried on."""

from pathlib import Path

from conftest import tiny

EXAMPLES = Path(__file__).parent.parent / "docs" / "examples"


EVEN = tiny("M-M*-M-", heads=16, head_dim=4, vocab=61)
