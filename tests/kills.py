r"""Kills every training and scoring command at random times, gives it again, and compares with the
uninterrupted run.

    PYTHONPATH=. python tests/kills.py score search prune distill adapt pretrain run steps \
        --trials 15 --seed 1 > kills.jsonl
    python tests/kills.py --table kills.jsonl

A trial starts a command, sends a signal after a random part of its time (SIGKILL mostly, else
SIGTERM or SIGINT), perhaps once more in the rerun, and then lets the same command end. It is good
when every file of the run directory is there, no other, all equal but for times and dates, and when
a command that a signal stopped said how to go on, without a traceback. Run by hand. Everything
happens in a folder of the system's temporary ones.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from hashlib import sha256
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

import helpers
from conftest import save, shaken, tiny
from killed_commands import BEFORE, COMMANDS, PRETRAIN, RECIPE, STEPS

import minipuzzle.api
import minipuzzle.cli
import minipuzzle.pipeline
import minipuzzle.runs.adapt
import minipuzzle.runs.pretrain

WORK = Path(tempfile.gettempdir()) / f"minipuzzle-kills-{os.getuid()}"
SIGNALS = {"SIGKILL": 8, "SIGTERM": 1, "SIGINT": 1}
"""And how often each is taken."""
EXITS = {"SIGTERM": (0, -signal.SIGTERM), "SIGINT": (130, 1)}
"""Before the command has begun nobody has asked for the signals yet."""
TIMES = {"finished", "seconds", "date", "tokens_per_second", "since", "measured"}
"""Fields of JSON files that differ between two uninterrupted runs."""
KEYS = {"key", "identity", "distill", "search"}
"""Hashes of what a stage read. Those of ``run`` and ``steps`` hash the seconds in search.json,
which their trials search themselves.
"""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("commands", nargs="*", choices=[*COMMANDS, []])
    options.add_argument("--trials", type=int, default=15)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--table", type=Path)
    given = options.parse_args()
    if given.table is not None:
        print(table([json.loads(line) for line in given.table.read_text().splitlines()]))
    for name in given.commands:
        generator = random.Random(f"{given.seed} {name}")
        seconds = reference(name)
        for number in range(given.trials):
            print(
                json.dumps({"command": name, "trial": number, **trial(name, seconds, generator)}),
                flush=True,
            )


def trial(name: str, seconds: float, generator: random.Random) -> dict:
    """One trial of a command that takes ``seconds`` seconds."""
    folder = WORK / f"trial-{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(start(name), folder)
    faults, sent, hidden = [], [], []
    for _ in range(generator.choice((1, 1, 2))):
        number = generator.choices(list(SIGNALS), SIGNALS.values())[0]
        after = generator.uniform(0.05, 1.0) * seconds
        command = Command(name, folder)
        if command.wait(after) is not None:
            break  # it had ended before
        os.kill(command.pid, getattr(signal, number))
        code, text = command.end()
        sent.append(f"{number} {after:.1f}")
        if number in EXITS:
            faults += [] if code in EXITS[number] else [f"{number} gave {code}: {text[-300:]}"]
            faults += ["a traceback"] if "Traceback" in text else []
        hidden += [path.name for path in folder.rglob(".*.writing")]
    code, text = Command(name, folder).end()
    if code:
        faults.append(f"the rerun gave {code}: {text[-600:]}")
    drop = TIMES | KEYS if name in ("run", "steps") else TIMES
    want, got = (contents(place / "run", drop) for place in (reference_folder(name), folder))
    left = sorted(set(got) - set(want))
    lost = sorted(path for path in want if got.get(path) != want[path])
    return {
        "sent": sent,
        "half written": len(hidden),
        "left": left,
        "differ": lost,
        "faults": faults,
        "went on": len(re.findall(r"going on after|kept |goes on with", text)),
    }


class Command:
    """A command in a forked child: this process has imported what takes seconds, and computes
    nothing itself.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.log = WORK / f"log-{os.getpid()}"
        self.pid = os.fork()
        if self.pid == 0:
            os.chdir(folder)
            handle = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(handle, 1)
            os.dup2(handle, 2)
            inside(
                [
                    {"CKPT": str(WORK / "ckpt"), "TEXT": str(WORK / "text.txt")}.get(word, word)
                    for word in COMMANDS[name]
                ]
            )

    def wait(self, seconds: float) -> int | None:
        """The exit code, as ``subprocess`` has it; None where the command is still at work."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.005)
        return None

    def end(self) -> tuple[int, str]:
        """(its exit code, all that it printed)."""
        code = self.wait(600)
        if code is None:
            os.kill(self.pid, signal.SIGKILL)
            code = self.wait(60)
        return -signal.SIGKILL if code is None else code, self.log.read_text()


def inside(words: list[str]) -> None:
    """Run the command line in a child, and leave."""
    code: object = 1
    begun = False
    try:
        sys.argv, begun = ["minipuzzle", *words], True
        minipuzzle.cli.main()
    except SystemExit as stopped:
        code = stopped.code or 0
    except BaseException:
        if begun:
            traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1)


def start(name: str) -> Path:
    """The folder that a command starts in."""
    if name in BEFORE:
        reference(BEFORE[name])
        return reference_folder(BEFORE[name])
    folder = WORK / "start"
    if not folder.exists():
        inputs()
        (folder / "run").mkdir(parents=True)
        recipes = {"recipe.yaml": RECIPE, "steps.yaml": STEPS, "pretrain.yaml": PRETRAIN}
        for file, text in recipes.items():
            text = text.replace("CKPT", str(WORK / "ckpt")).replace("TEXT", str(WORK / "text.txt"))
            (folder / file).write_text(text)
    return folder


def inputs() -> None:
    """A tiny checkpoint and a text, made in a child."""
    WORK.mkdir(exist_ok=True)
    pid = os.fork()
    if pid == 0:
        save(shaken(tiny()), WORK / "ckpt")
        shutil.copy(helpers.TEXT, WORK / "text.txt")
        os._exit(0)
    os.waitpid(pid, 0)


def reference_folder(name: str) -> Path:
    return WORK / f"whole-{name}"


def reference(name: str) -> float:
    """Run a command without interruption, once; the seconds that it took."""
    folder = reference_folder(name)
    note = WORK / f"whole-{name}.json"
    if not note.exists():
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(start(name), folder)
        began = time.monotonic()
        code, text = Command(name, folder).end()
        if code:
            sys.exit(f"{name}: {text}")
        note.write_text(json.dumps(time.monotonic() - began))
    return float(json.loads(note.read_text()))


def contents(folder: Path, drop: set[str]) -> dict[str, str]:
    """What each file of a run directory holds but for times and dates; pages with times in them
    only have to be there.
    """
    found = {}
    for path in sorted(path for path in folder.rglob("*") if not path.is_dir()):
        name, text = str(path.relative_to(folder)), ""
        if path.suffix == ".json" and path.name != "commands.json":
            text = json.dumps(timeless(json.loads(path.read_text()), drop), sort_keys=True)
        elif path.name == "log.csv":
            rows = [line.split(",") for line in path.read_text().splitlines()]
            text = json.dumps(
                [
                    [cell for head, cell in zip(rows[0], row, strict=True) if head != "seconds"]
                    for row in rows
                ]
            )
        elif path.suffix not in (".html", ".md", ".png") and path.name != "commands.json":
            text = sha256(path.read_bytes()).hexdigest()
        found[name] = text
    return found


def timeless(value: object, drop: set[str]) -> object:
    if isinstance(value, dict):
        return {key: timeless(part, drop) for key, part in value.items() if key not in drop}
    return [timeless(part, drop) for part in value] if isinstance(value, list) else value


def table(rows: list[dict]) -> str:
    """The trials of each command in a Markdown table."""
    lines = [
        (
            "| command | trials | SIGKILL | SIGTERM | Ctrl-C | half written then | left after the"
            " rerun | files that differ | other faults |"
        ),
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name in [*(n for n in COMMANDS if any(row["command"] == n for row in rows)), "all"]:
        mine = [row for row in rows if name in (row["command"], "all")]
        sent = Counter(text.split()[0] for row in mine for text in row["sent"])
        sums = [sum(len(row[kind]) for row in mine) for kind in ("left", "differ", "faults")]
        cells = [
            len(mine),
            *(sent[s] for s in SIGNALS),
            sum(row["half written"] for row in mine),
            *sums,
        ]
        lines.append(" | ".join([f"| {name}", *map(str, cells)]) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
