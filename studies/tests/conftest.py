"""The fixtures and tiny checkpoints of tests/, and the scripts of studies/ on the path."""

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
sys.path[:0] = [
    str(ROOT / folder) for folder in (".", "tests", "studies", "studies/gpu", "benchmarks")
]

from tests.conftest import *  # noqa: E402, F403
