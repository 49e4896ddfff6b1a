"""The README's commands are run and print what it shows (speeds aside)."""

import re
import shlex
from pathlib import Path

import pytest
from helpers import run

ROOT = Path(__file__).parent.parent
SPEED = re.compile(r"[\d,]+ \d+\.\d\dx\s*$|report: .*|, on CPU, \d+ threads")


def shown():
    """[(command, the lines under it)] of every console block."""
    found = []
    for block in re.findall(r"```console\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL):
        for part in block.split("$ ")[1:]:
            command, *lines = part.rstrip("\n").split("\n")
            found.append((command, lines))
    return found


def plain(lines):
    return [" ".join(SPEED.sub("", line).split()) for line in lines if line.strip(" ─")]


def same(shown_line, printed_line):
    """The same words; numbers may differ by 3 %, as another processor adds in another order."""
    words, others = shown_line.split(), printed_line.split()
    return len(words) == len(others) and all(map(close, words, others))


def close(word, other):
    if word == other:
        return True
    try:
        numbers = [float(w.replace(",", "").rstrip("%")) for w in (word, other)]
    except ValueError:
        return False
    return abs(numbers[0] - numbers[1]) <= 0.03 * abs(numbers[0])


@pytest.mark.parametrize(("command", "lines"), shown(), ids=lambda value: value[:24] if isinstance(value, str) else "")
def test_command_prints_what_the_readme_shows(command, lines, capsys, tmp_path, monkeypatch):
    words = shlex.split(command)[1:]
    if words[0] == "demo":
        words += ["--run", str(tmp_path / "minipuzzle-demo"), "--device", "cpu"]
    monkeypatch.chdir(ROOT)
    run(*words)
    printed = plain(capsys.readouterr().out.splitlines())
    for line in plain(lines):
        assert any(same(line, other) for other in printed), f"{line!r} is not in the output:\n" + "\n".join(printed)


def test_what_the_readme_links_to_is_there():
    for page in [ROOT / "README.md", *ROOT.glob("docs/**/*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
