"""The commands of docs/nemotron-3-nano.md that need weights, on a tiny model of the same kind."""

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

from conftest import save, shaken, tiny
from helpers import FAST, TEXT, run

PAGE = Path(__file__).parent.parent / "docs" / "nemotron-3-nano.md"
SIZES = {"experts": 8, "top_k": 3, "expert_width": 32, "shared_width": 16}
NAMES = {
    "active=3.0B": "active=99%",
    "experts=96..128/8": "experts=4..8/2",
    "hidden=2304..2688/128": "hidden=24,32",
    "shared_width=3072,3712": "shared_width=8,16",
}
SMALL = {
    "score": FAST["score"],
    "search": ("--data", TEXT, "--length", 64, "--candidates", 1, "--validation-blocks", 4),
    "distill": FAST["distill"],
    "export": (),
}


def test_the_page_from_scores_to_gguf(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    plain = tiny("ME*EM")
    blocks = [replace(b, **SIZES) if "experts" in b.sizes else b for b in plain.blocks]
    save(shaken(replace(plain, blocks=tuple(blocks))), tmp_path / "Nemotron-3-Nano-30B-A3B")
    commands = re.findall(r"^minipuzzle .*--run nano.*$", PAGE.read_text(), re.MULTILINE)
    done = []
    for command in commands:
        words = [NAMES.get(word, word) for word in shlex.split(command)[1:]]
        run(*words, *SMALL[words[0]])
        done.append(words[0])
    assert done == ["score", "search", "distill", "export", "export"]
    said = capsys.readouterr().out
    assert "active" in said
    config = json.loads((tmp_path / "nano" / "student" / "config.json").read_text())
    assert config["model_type"] == "nemotron_h"
    assert (tmp_path / "nano.gguf").stat().st_size > 100_000
    assert "expert_load.1" in next((tmp_path / "nano").rglob("log.csv")).read_text()
