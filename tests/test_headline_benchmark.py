"""benchmarks/headline_speed.py, headline_account.py and their tables run to their ends on a tiny config on a CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import tiny

from minipuzzle.families import nemotron_h

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))
import headline_account  # noqa: E402
import headline_speed  # noqa: E402
import headline_table  # noqa: E402


@pytest.fixture
def config(tmp_path):
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(nemotron_h.config(tiny(vocab=200), {})))
    return folder


def call(module, monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, words)])
    module.main()


def test_sections_are_run_once_and_shown(config, tmp_path, monkeypatch, capsys):
    out = tmp_path / "speed.json"
    usual = ("--configs", config, config, "--prompts", 48, "--device", "cpu", "--out", out)
    monkeypatch.setattr("minipuzzle.stages.bench.available_bytes", lambda: 3_000_000)
    monkeypatch.setattr("minipuzzle.timing.ROUNDS", {"cpu": 2})
    call(headline_speed, monkeypatch, "small", *usual, "--seconds", 0)
    call(headline_speed, monkeypatch, "memory", *usual)
    call(headline_account, monkeypatch, *usual)
    found = json.loads(out.read_text())
    assert set(found) == {"small", "memory", "account"}
    assert [len(result["rows"]) for result in found["small"].values()] == [2, 2]
    decode = found["account"]["decode"]
    assert decode["ms"] == pytest.approx(sum(part["ms"] for part in decode["parts"]))
    assert decode["largest_gap"] in [part["part"] for part in decode["parts"]]
    mamba = next(part for part in decode["parts"] if part["part"] == "mamba")
    assert mamba["count"] == 3
    assert len(decode["kernels"]) == headline_speed.SHOWN_KERNELS
    monkeypatch.setattr("headline_speed.run_bench", lambda *_, **__: pytest.fail("measured again"))
    call(headline_speed, monkeypatch, "small", *usual)
    capsys.readouterr()
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- speed -->\nold\n<!-- speed -->\nafter\n")
    call(headline_table, monkeypatch, out, "--write", page)
    text = page.read_text()
    assert "old" not in text
    assert text.startswith("before")
    assert text.endswith("after\n")
    assert text.count("| model | batch |") == 2
    assert "largest gap" in text.lower()


def test_decoding_against_transformers(config, tmp_path):
    """In a process of its own: transformers brings warnings of other packages."""
    out = tmp_path / "speed.json"
    words = ["transformers", "--configs", config, "--prompts", "20", "--device", "cpu", "--out", out]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run([sys.executable, ROOT / "benchmarks" / "headline_speed.py", *words], capture_output=True, text=True,
                         env=environment)  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    rows = json.loads(out.read_text())["transformers"]
    assert set(rows) == {f"{who}, batch {b}, 20" for who in ("ours", "theirs") for b in (1, 8)}
    assert all(row["step_ms"] > 0 for row in rows.values())
    assert "| batch 1, 20 |" in "\n".join(headline_table.tables({"transformers": rows}))
