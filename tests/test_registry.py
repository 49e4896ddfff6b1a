"""A new file is enough: dropped into its folder it is listed by --help, accepted by the settings
and tested by its suite.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from minipuzzle.registry import DIVERGENCES, ENGINES, ESTIMATORS, LOSSES, METRICS, Registry

ROOT = Path(__file__).parent.parent
SUITES = {
    ESTIMATORS: ("test_estimator_suite", "flap"),
    METRICS: ("test_metric_suite", "kl"),
    DIVERGENCES: ("test_loss_suite", "reverse_kl"),
    LOSSES: ("test_loss_suite", "cosine"),
    ENGINES: ("test_engine_suite", "vllm"),
}


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """This repository as links, with one more file in each folder: a copy of one that is there."""
    root = tmp_path_factory.mktemp("copy")
    (root / "tests").symlink_to(ROOT / "tests")
    for name in ("pyproject.toml", "docs"):
        (root / name).symlink_to(ROOT / name)
    real = {root / "minipuzzle"}
    for registry in SUITES:
        folder = root / "minipuzzle" / registry.folder
        real |= {folder, *(p for p in folder.parents if root / "minipuzzle" in p.parents)}
    for folder in sorted(real):
        folder.mkdir()
        for path in (ROOT / folder.relative_to(root)).iterdir():
            if folder / path.name not in real and path.name != "__pycache__":
                (folder / path.name).symlink_to(path)
    for registry, (_, example) in SUITES.items():
        folder = root / "minipuzzle" / registry.folder
        text = (folder / f"{example}.py").read_text()
        (folder / "dropped_here.py").write_text(text.replace('"""', '"""A new one. ', 1))
    return root


def said(copy, *command):
    environment = {**os.environ, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command],
        cwd=copy,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_new_file_is_listed_and_accepted(copy):
    for command in ("score", "distill"):
        listing = said(copy, "-m", "minipuzzle", command, "--help")
        assert listing.count("dropped-here") == 2
        assert listing.count("A new one.") == 2
    code = (
        "from minipuzzle.settings import DistillSettings, ScoreSettings\n"
        "ScoreSettings(estimator='dropped-here', metric='dropped-here')\n"
        "DistillSettings(loss='dropped-here')\n"
    )
    said(copy, "-c", code)


def test_a_new_file_is_tested_by_its_suite(copy):
    suites = {f"tests/{suite}.py" for suite, _ in SUITES.values()}
    options = ("-p", "no:cacheprovider", "-k", "dropped-here")
    names = said(copy, "-m", "pytest", *options, "--collect-only", *suites).splitlines()
    for suite, _ in SUITES.values():
        assert any(suite in name and "dropped-here" in name for name in names), suite
    assert sum("dropped-here" in name for name in names) > 100


@pytest.mark.parametrize("registry", SUITES, ids=lambda registry: registry.what)
def test_names_are_those_of_the_files_and_say_what_they_are(registry):
    files = {p.stem for p in (ROOT / "minipuzzle" / registry.folder).glob("[!_]*.py")}
    assert {name.replace("-", "_") for name in registry.names()} == files - {"base"}
    for name, summary in registry.summaries().items():
        assert name in registry.listing()
        assert summary.endswith(".")
        assert 10 < len(summary) <= 100


def test_a_file_that_holds_nothing_is_named():
    with pytest.raises(TypeError, match=r"importance/estimators/flap\.py must hold PUZZLE, a str"):
        Registry(folder="importance/estimators", what="puzzle").load("flap", str)
