"""What pages show of output: console blocks, and when a printed line is the shown one."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
SPEED = re.compile(r"[\d,]+ \d+\.\d\dx\s*$|tokens/s\s*$|report: .*|, on CPU, \d+ threads")
"""What moves with the machine."""


def shown(page):
    """[(command, the lines under it)] of every console block of a page."""
    found = []
    for block in re.findall(r"```console\n(.*?)```", page.read_text(), re.DOTALL):
        for part in block.split("$ ")[1:]:
            command, *lines = part.rstrip("\n").split("\n")
            found.append((command, lines))
    return found


def plain(lines):
    """Lines without speeds, without rules and with single spaces."""
    kept = (" ".join(SPEED.sub("", line).split()) for line in lines if line.strip(" ─"))
    return [line for line in kept if line]


def same(shown_line, printed_line):
    """The same words; numbers may differ by 3 %, as another processor adds in another order, and
    changes (+1.61 %) by 0.2.
    """
    words, others = shown_line.split(), printed_line.split()
    return len(words) == len(others) and all(map(close, words, others))


def close(word, other):
    if word == other:
        return True
    try:
        numbers = [float(w.replace(",", "").rstrip("%")) for w in (word, other)]
    except ValueError:
        return False
    return abs(numbers[0] - numbers[1]) <= (
        0.2 if word[0] in "+-" and other[0] in "+-" else 0.03 * abs(numbers[0])
    )


def missing(lines, printed):
    """The shown lines that are not in the printed ones."""
    others = plain(printed)
    return [line for line in plain(lines) if not any(same(line, other) for other in others)]
