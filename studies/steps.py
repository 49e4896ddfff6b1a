"""One step of cut and recovery against three, at half of the embedded teacher's parameters and for
the same tokens: the table of docs/decisions/steps.md.

    OMP_NUM_THREADS=1 python studies/steps.py FOLDER [SEED ...]

A CPU is enough. Given again it goes on where it was stopped.
"""

from __future__ import annotations

import bz2
import sys
from pathlib import Path
from typing import Any

from minipuzzle import embedded
from minipuzzle.pipeline import compress
from minipuzzle.records import EvalResult, RunRecord
from minipuzzle.settings import Recipe
from minipuzzle.settings.recipe_file import build

CHARACTERS = 15_000
"""Of each validation text: so few that it takes minutes on a CPU."""
TOKENS, RATE = 40_000, 1e-3
WAYS: dict[str, dict[str, Any]] = {
    "one step": {"search": {"budget": "50%"}},
    "three steps": {"search": {"budget": "50%"}, "steps": 3},
}


def recipe(way: str, seed: int, texts: Path) -> Recipe:
    """A way with a seed of its training."""
    training = {"tokens": TOKENS, "learning_rate": RATE, "batch": 4, "seed": seed}
    values: dict[str, Any] = {
        "checkpoint": "embedded",
        "device": "cpu",
        "data": {"validation": str(texts), "length": 256},
        "score": {"samples": 16, "block_samples": 8},
        "distill": {"training": training},
        **WAYS[way],
    }
    values["search"] = {"candidates": 12, "validation_blocks": 12, "top": 1, **values["search"]}
    return build(Recipe, values, way)


def write_texts(folder: Path) -> Path:
    """The beginnings of the validation texts, a file a kind."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(embedded.text_path("validation").glob("*.bz2")):
        with bz2.open(path, "rt", encoding="utf-8") as whole:
            (folder / path.stem).write_text(whole.read(CHARACTERS), encoding="utf-8")
    return folder


def rows(way: str, seed: int, run: Path) -> list[str]:
    """A row for each step, in Markdown."""
    measured = EvalResult.load(run / "eval.json")
    teacher, pruned, student = measured.rows
    steps = RunRecord.load(run / "run.json").steps or ()
    found = [
        (f"step {s.number}, {s.budget}", s.parameters, s.tokens, s.loss[1:], s.kl[1:])
        for s in steps[:-1]
    ]
    last = (pruned.loss, student.loss), (pruned.kl, student.kl)
    tokens = steps[-1].tokens if steps else TOKENS
    found.append((f"**{way}**", student.parameters, tokens, *last))
    return [
        f"| {seed} | {name} | {parameters / 1e6:.2f} M | {count:,} |"
        f" {losses[0]:.4f} {losses[0] / teacher.loss - 1:+.1%} |"
        f" {losses[1]:.4f} {losses[1] / teacher.loss - 1:+.1%} | {kl[0]:.3f} | {kl[1]:.3f} |"
        for name, parameters, count, losses, kl in found
    ]


def main() -> None:
    """Run what is not there yet, and print the table as far as it is."""
    folder, seeds = Path(sys.argv[1]), [int(text) for text in sys.argv[2:]] or [0, 1]
    texts = write_texts(folder / "validation")
    print("| seed | | parameters | tokens | loss, pruned | recovered | KL, pruned | recovered |")
    print("|--:|---|--:|--:|--:|--:|--:|--:|")
    for seed in seeds:
        for number, way in enumerate(WAYS):
            run = folder / f"{number}-{seed}"
            if not (run / "report.html").exists():
                compress(recipe(way, seed, texts), run)
            print("\n".join(rows(way, seed, run)), flush=True)


if __name__ == "__main__":
    main()
