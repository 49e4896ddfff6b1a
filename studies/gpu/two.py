"""What needs two GPUs: tests, a distillation of 8 B to 4 B on one card and on two, the same moved
between them, sequences divided between them, and what they exchange.

    bash studies/gpu/two.sh                         # on the GPU machine; its header has the calls
    python studies/gpu/two.py table FOLDER          # the tables of docs/results/two_gpus.md
    # a rehearsal
    python studies/gpu/two.py cut link plan bf16 fp8 pair context tests resume --tiny --device cpu \
        --work /tmp/two --out /tmp/two

Parts, a file OUT/PART.json each (stages.py): **tests** (tests/gpu/test_fsdp_gpu.py), **cut**
(random weights in Nemotron-H-8B's shape; score, search, prune, as short as they go), **link** (GB a
second between the cards), **distill** (``--plan``; BF16 and FP8, the same command on one card and
on two), **resume** (10 steps on two cards, 10 on one, the rest on two, whose profile says what is
exchanged), **context** (long_context.py at 32k and 128k). Every command of a user is ``minipuzzle``
or ``torchrun ... minipuzzle``, in processes of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from stages import HERE, Stage, known, through

ROOT = HERE.parent.parent
PARTS = ("cut", "link", "plan", "bf16", "fp8", "pair", "context", "tests", "resume")
BATCH, STEPS, LEG, WARM = 2, 30, 10, 6
"""Blocks a step, steps of a distillation and of one of its legs, and those that are not timed."""
NO_STATE = {"WATCH_STATE": "no"}
"""Those that are not resumed save no state at their end: 49 GB each."""
FEW_CHARACTERS = 600_000
"""Of validation text: eight blocks of 8,192 tokens in either half."""
LEAST = {"tests": 240.0, "distill": 80.0, "resume": 80.0, "context": 100.0}
"""Seconds that must be left for a stage of a part."""


def main() -> None:
    """Run what is left of the parts that are named, until the limit."""
    if sys.argv[1:2] == ["table"]:
        from two_table import tables

        print(tables(Path(sys.argv[2])))
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="+", choices=PARTS)
    parser.add_argument("--work", type=Path, required=True, help="run directories: 115 GB")
    parser.add_argument("--checkpoint", type=Path, help="for the 8B: 17 GB (default: WORK/parent)")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--limit", type=float, default=560.0, help="seconds of this call")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    ends = time.monotonic() + options.limit
    options.checkpoint = options.checkpoint or options.work / "parent"
    options.work.mkdir(parents=True, exist_ok=True)
    options.out.mkdir(parents=True, exist_ok=True)
    for part in options.parts:
        needs_cut = part not in ("cut", "link", "context", "tests")
        if needs_cut and not known("cut", options.work).get("prune", {}).get("done"):
            print(f"{part}: nothing is cut yet")
            continue
        stages = globals()[part](options)
        chain = part in ("cut", "resume")
        through(stages, part, options.work, options.out, ends, chain=chain)


def least(part: str, options: argparse.Namespace) -> float:
    """Seconds that must be left for a stage."""
    return 10.0 if options.tiny else LEAST[part]


def tests(options: argparse.Namespace) -> list[Stage]:
    """Those that need two GPUs; tried once."""
    if known("tests", options.work):
        return []
    file = ROOT / "tests/gpu/test_fsdp_gpu.py"
    words = ["-m", "pytest", "-s", "-m", "gpu", file]
    seconds = least("tests", options)
    return [Stage(name="tests", words=words, script=True, folder=ROOT, least=seconds)]


def cut(options: argparse.Namespace) -> list[Stage]:
    """A checkpoint, and its half in a run directory: what is cut is of no concern here."""
    tiny, data = options.tiny, ["--data", options.work / "validation.txt"]
    run = ["--run", options.work / "run", "--device", options.device]
    few = ["--samples", 4, "--block-samples", 2, "--batch", 2, "--no-curves"]
    short = ["--length", 64] if tiny else []
    lines: list[list[Any]] = [
        ["make", options.checkpoint, options.work, options.device, *["tiny"] * tiny],
        ["score", options.checkpoint, *few, *short, *data, *run],
        [
            *("search", "--budget", "75%" if tiny else "50%", "--candidates", 2, "--top", 1),
            *("--validation-blocks", 8, *(["--multiple", 8] if tiny else []), *short, *data, *run),
        ],
        ["prune", *run],
    ]
    return [Stage(name=line[0], words=line) for line in lines]


def link(options: argparse.Namespace) -> list[Stage]:
    """GB a second, for the plan."""
    file = options.work / "link_rows.json"
    words = [HERE / "link.py", options.device, file]
    return [Stage(name="link", words=words, cards=2, script=True, found=read(file, "links"))]


def read(file: Path, name: str) -> Callable[..., dict[str, Any]]:
    """The JSON file of a stage, under a name of its row."""
    return lambda row, said: {name: json.loads(file.read_text())}


def plan(options: argparse.Namespace) -> list[Stage]:
    """What a card would hold, and take, with the links as they were measured; of either precision
    of the teacher.
    """
    run, links = options.work / "run", known("link", options.work).get("link", {}).get("links", {})
    chosen = json.loads((run / "search.json").read_text())["top"][0]
    models = ["--teacher", options.checkpoint, "--student", run / "candidates" / chosen]
    speed = max((row["all_gather"] for row in links.values()), default=0.0)
    more = ["--links", f"{speed:.3g}"] if speed else []
    words = [*sizes(options), "--plan", *models, "--gpu", "h200", *more, "--json"]
    ends = ["--bf16-ends", 1] if options.tiny else []
    return [
        Stage(
            name=f"plan-{precision}",
            words=[*words, "--teacher-precision", precision, *ends],
            found=planned,
        )
        for precision in ("bf16", "fp8")
    ]


def bf16(options: argparse.Namespace) -> list[Stage]:
    """On one card."""
    return [training("bf16-1", "bf16-1", 1, "bf16", options, NO_STATE)]


def fp8(options: argparse.Namespace) -> list[Stage]:
    """On one card, both models."""
    return [training("fp8-1", "fp8-1", 1, "fp8", options, NO_STATE)]


def pair(options: argparse.Namespace) -> list[Stage]:
    """The same commands on two cards."""
    return [
        training(f"{precision}-2", f"{precision}-2", 2, precision, options, NO_STATE)
        for precision in ("bf16", "fp8")
    ]


def planned(row: dict[str, Any], said: str) -> dict[str, Any]:
    """The plan's JSON."""
    return {"plan": json.JSONDecoder().raw_decode(said[said.index("{") :])[0]}


def sizes(options: argparse.Namespace) -> list[Any]:
    """Of every distillation here, and of its plan."""
    length = 64 if options.tiny else 8192
    return [
        *("distill", "--tokens", STEPS * BATCH * length, "--length", length),
        *("--batch", BATCH, "--micro-batch", 1),
    ]


def training(
    name: str,
    folder: str,
    cards: int,
    precision: str,
    options: argparse.Namespace,
    environment: dict[str, str] | None = None,
    last: bool = True,
) -> Stage:
    """A distillation on ``cards`` cards in a run directory of its own, WORK/FOLDER, or the next leg
    of one; what it wrote goes after the ``last``.
    """
    run, texts = options.work / folder, options.work
    emulated = "-emulated" if options.device == "cpu" and precision == "fp8" else ""
    words = [
        *(*sizes(options), "--data", texts / "train.txt", "--validation", texts / "few.txt"),
        *("--precision", precision + emulated, "--teacher-precision", precision + emulated),
        *(["--bf16-ends", 1] if options.tiny else []),
        *("--learning-rate", "1e-4", "--save-every", 600, "--run", run, "--device", options.device),
    ]

    def before() -> None:
        whole = (texts / "validation.txt").read_text()
        (texts / "few.txt").write_text(whole[:FEW_CHARACTERS])
        if not run.exists():
            shutil.copytree(texts / "run", run, copy_function=linked)

    def after() -> None:
        if last:
            shutil.rmtree(run)

    def found(row: dict[str, Any], said: str) -> dict[str, Any]:
        length = sizes(options)[4]
        spans = [b - a for a, b in zip(row["began"], row["began"][1:], strict=False)][WARM:]
        seconds = {"step_s": median(spans)} if spans else {}
        rate = {"tokens_per_second": BATCH * length / median(spans)} if spans else {}
        told = [line for line in said.splitlines() if "going on" in line or "(estimate)" in line]
        log = (run / "distill/long/log.csv").read_text().splitlines()
        return {**seconds, **rate, "told": told, "log": log}

    return Stage(
        name=name,
        words=words,
        cards=cards,
        least=least("distill", options),
        environment=environment or {},
        before=before,
        after=after,
        found=found,
    )


def linked(source: str, target: str) -> None:
    """Weights are hard links: they are replaced, never written to."""
    (os.link if source.endswith(".safetensors") else shutil.copy2)(source, target)


def resume(options: argparse.Namespace) -> list[Stage]:
    """Two cards, one, two again; the last leg is profiled, so its times are not the others'."""
    stop, profile = {"WATCH_STOP": str(LEG)}, {"WATCH_PROFILE": f"{WARM},3"}
    return [
        training("two", "moved", 2, "bf16", options, stop, last=False),
        training("then-one", "moved", 1, "bf16", options, stop, last=False),
        training("two-again", "moved", 2, "bf16", options, profile),
    ]


def context(options: argparse.Namespace) -> list[Stage]:
    """A sequence on one card and divided between two."""
    stages = []
    for length in (128, 256) if options.tiny else (32_768, 131_072):
        file = options.work / f"context_{length}.json"
        words = [HERE / "long_context.py", "--lengths", length, "--device", options.device]
        words += ["--out", file, *["--tiny"] * options.tiny]
        stage = Stage(
            name=f"context-{length}",
            words=words,
            script=True,
            least=least("context", options),
            found=read(file, "context"),
        )
        stages.append(stage)
    return stages


if __name__ == "__main__":
    main()
