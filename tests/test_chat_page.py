"""The example of docs/data.md is made as the page says, and read as it prints."""

import runpy
from pathlib import Path

from helpers import run

ROOT = Path(__file__).parent.parent
FEW = ("--samples", 2, "--block-samples", 1, "--device", "cpu")
COMMAND = "$ minipuzzle score chat-model --data sums.jsonl --length 256\n"


def test_conversations_are_counted_as_the_page_shows(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(ROOT / "docs/examples/chat.py"))
    run(*COMMAND.split()[2:], *FEW)
    shown = (ROOT / "docs/data.md").read_text().split(COMMAND)[1].split("$ ")[0].splitlines()
    printed = capsys.readouterr().err
    assert len(shown) == 2
    assert [line for line in shown if line not in printed] == []
