"""Run cases, write a line of JSON for each, print the table. Given again it goes on where it was.

python -m tests.fuzz [--out FILE] [--groups a b] [--part 1/2] [--again FILE: only the bad of another
run]
"""

import argparse
import gc
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

os.environ.update(
    HF_HUB_OFFLINE="1",
    TOKENIZERS_PARALLELISM="false",
    COLUMNS="160",
    TERM="dumb",
    OMP_NUM_THREADS="1",
)
sys.path.insert(0, str(Path(__file__).parents[1]))
KINDS = ("four parts", "usage", "done", "traceback", "hang", "signal", "other")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("fuzz.jsonl"))
    parser.add_argument("--groups", nargs="*")
    parser.add_argument("--again", type=Path)
    parser.add_argument("--part", default="1/1", help="2/3: the second of three processes")
    options = parser.parse_args()
    from .base import make_base
    from .groups import all_cases
    from .runner import run_case, warm

    with tempfile.TemporaryDirectory(prefix="minipuzzle-fuzz-") as name:
        base = make_base(Path(name) / "base")
        warm()
        cases = {
            case.key: case
            for case in all_cases(base)
            if not options.groups or case.group in options.groups
        }
        if options.again:
            bad = {f"{row['group']}: {row['name']}" for row in _rows(options.again) if _bad(row)}
            cases = {key: case for key, case in cases.items() if key in bad}
        order = list(cases)
        random.Random(0).shuffle(order)  # what is done so far speaks for the rest
        part, of = map(int, options.part.split("/"))
        order = order[part - 1 :: of]
        known = {f"{row['group']}: {row['name']}" for row in _rows(options.out)}
        print(f"{len(order):,} cases, {len(known & set(order)):,} of them done", flush=True)
        gc.freeze()  # children then share what is there
        started = time.monotonic()
        with options.out.open("a") as file:
            for key in order:
                if key in known:
                    continue
                outcome = run_case(cases[key], base, Path(name) / "work")
                file.write(json.dumps(outcome.row()) + "\n")
                file.flush()
                if outcome.bad:
                    print(key, outcome.kind, outcome.where, outcome.said, *outcome.left, flush=True)
    print(f"{time.monotonic() - started:.0f} s\n{table(_rows(options.out))}")


def table(rows: list[dict]) -> str:
    """The outcomes by group, as Markdown."""
    lines = [
        "| group | cases | " + " | ".join(KINDS) + " | files left |",
        "|---|" + "--:|" * (len(KINDS) + 2),
    ]
    for group in [*dict.fromkeys(row["group"] for row in rows), ""]:
        of = [row for row in rows if group in ("", row["group"])]
        counts = Counter(row["kind"] for row in of)
        left = sum(bool(row["left"]) for row in of)
        numbers = [len(of), *(counts[kind] for kind in KINDS), left]
        lines.append(
            f"| {group or 'all'} | " + " | ".join(f"{number:,}" for number in numbers) + " |"
        )
    return "\n".join(lines)


def _rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _bad(row: dict) -> bool:
    from .runner import BAD

    return row["kind"] in BAD or bool(row["left"])


if __name__ == "__main__":
    main()
