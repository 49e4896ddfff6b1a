"""How the embedded teacher is best recovered: in one step or three, on which texts, on whose text.
Tables of docs/results/recovery.md, by domain.

    OMP_NUM_THREADS=1 python studies/recovery.py run FOLDER steps|texts|on-policy
    python studies/recovery.py table FOLDER

A CPU is enough. Every way of a question trains at each of RATES with the first seed and at its
better one with the others, for the same tokens that the teacher reads; a rate is chosen on the
search's half of the validation text, and reported is the other half. Given again it goes on.
"""

from __future__ import annotations

import bz2
import json
import statistics
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import minipuzzle as mp
from minipuzzle import embedded
from minipuzzle.artifacts import write_json
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.metrics import measure
from minipuzzle.model import load_model
from minipuzzle.pipeline import compress
from minipuzzle.records import EvalResult
from minipuzzle.report.svg import save_png
from minipuzzle.settings import Data, Recipe
from minipuzzle.settings.recipe_file import build

CHARACTERS = 40_000
"""Of each validation text."""
TOKENS, LENGTH, BATCH, COMPLETION = 40_000, 256, 4, 128
RATES, SEEDS = (5e-4, 1e-3), (0, 1)
DOMAINS = ("code", "docs", "speeches")


def only(domain: str) -> dict[str, Any]:
    """Scores and recovery on one domain's text."""
    names = {w: str(embedded.text_path(w) / f"{domain}.txt.bz2") for w in ("calibration", "train")}
    return {"data": names, "search": {"budget": "83%"}}


def half(share: float) -> dict[str, Any]:
    """Such a share of the steps on the student's own text, TOKENS tokens for the teacher."""
    tokens = TOKENS / (1 - share + share * COMPLETION / LENGTH)
    policy = {"on_policy": share, "prompts": "PROMPTS", "completion": COMPLETION}
    return {
        "search": {"budget": "83%"},
        "distill": {**policy, "training": {"tokens": round(tokens)}},
    }


QUESTIONS: dict[str, dict[str, dict[str, Any]]] = {
    "steps": {
        f"{number} at {budget}": {"search": {"budget": budget}, **steps}
        for budget in ("60%", "50%")
        for number, steps in (("one step", {}), ("three steps", {"steps": 3}))
    },
    "texts": {
        "all three": {"search": {"budget": "83%"}},
        **{f"{domain} only": only(domain) for domain in DOMAINS},
    },
    "on-policy": {"off": {"search": {"budget": "83%"}}, "half on": half(0.5)},
}


@dataclass(frozen=True, kw_only=True)
class Result:
    """One run: losses in nats a token, by domain, on text that nothing was chosen on."""

    way: str
    rate: float
    seed: int
    choice: float
    parameters: int
    teacher: dict[str, float]
    pruned: dict[str, float]
    student: dict[str, float]
    kl: float


def merged(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """Base with the changes, section by section."""
    found = dict(base)
    for name, value in change.items():
        both = isinstance(value, dict) and isinstance(found.get(name), dict)
        found[name] = merged(found[name], value) if both else value
    return found


def recipe(way: dict[str, Any], rate: float, seed: int, folder: Path) -> Recipe:
    """A way with a rate and a seed of its training."""
    base = {
        "checkpoint": "embedded",
        "device": "cpu",
        "data": {"validation": str(folder / "validation"), "length": LENGTH},
        "score": {"samples": 32, "block_samples": 16},
        "search": {"candidates": 12, "validation_blocks": 24, "top": 1},
        "distill": {
            "training": {"tokens": TOKENS, "learning_rate": rate, "batch": BATCH, "seed": seed}
        },
    }
    values = merged(base, way)
    if "prompts" in values["distill"]:
        values["distill"]["prompts"] = str(folder / "prompts.jsonl")
    return build(Recipe, values, "recovery")


def write_texts(folder: Path) -> None:
    """The beginnings of the validation texts, a file a kind; prompts: of the calibration text's
    paragraphs the beginnings.
    """
    (folder / "validation").mkdir(parents=True, exist_ok=True)
    prompts = []
    for domain in DOMAINS:
        with bz2.open(embedded.text_path("validation") / f"{domain}.txt.bz2", "rt") as whole:
            (folder / "validation" / f"{domain}.txt").write_text(whole.read(CHARACTERS))
        with bz2.open(embedded.text_path("calibration") / f"{domain}.txt.bz2", "rt") as whole:
            paragraphs = [p.strip() for p in whole.read().split("\n\n")]
            prompts += [p[:120] for p in paragraphs if len(p) > 120][:300]
    lines = (json.dumps({"prompt": text}) + "\n" for text in prompts)
    (folder / "prompts.jsonl").write_text("".join(lines))


def one(folder: Path, question: str, way: str, rate: float, seed: int) -> Result:
    """Run it, or read what it was."""
    name = f"{question}.{way}".replace(" ", "-").replace("%", "")
    stored = folder / "results" / f"{name}.{rate:g}.{seed}.json"
    if stored.exists():
        return Result(**json.loads(stored.read_text()))
    change = QUESTIONS[question][way]
    # steps have students in between; what is one step shares its scores and its search
    run = folder / (f"{name}.{rate:g}.{seed}" if "steps" in change else name)
    compress(recipe(change, rate, seed, folder), run)
    teacher, pruned, student = EvalResult.load(run / "eval.json").rows
    job = mp.load(
        "embedded",
        run=folder / "choice",
        data=Data(validation=str(folder / "validation"), length=LENGTH),
        device="cpu",
    )
    model = load_model(Checkpoint.open(run / "student")).eval()
    result = Result(
        way=way,
        rate=rate,
        seed=seed,
        choice=measure(model, job.validation("search")).loss,
        parameters=student.parameters,
        kl=student.kl or 0.0,
        **{
            when: {name: row.domains[name].loss for name in DOMAINS}
            for when, row in (("teacher", teacher), ("pruned", pruned), ("student", student))
        },
    )
    write_json(stored, asdict(result))
    return result


def run(folder: Path, question: str) -> None:
    """Every way of a question."""
    write_texts(folder)
    for way in QUESTIONS[question]:
        tried = [one(folder, question, way, rate, SEEDS[0]) for rate in RATES]
        best = min(tried, key=lambda result: result.choice)
        for seed in SEEDS[1:]:
            one(folder, question, way, best.rate, seed)


def table(folder: Path) -> None:
    """Losses above the teacher's in percent, a mean and the seeds' range, as far as they are, and
    a picture of them.
    """
    drawn = {}
    found = [Result(**json.loads(p.read_text())) for p in sorted(folder.glob("results/*.json"))]
    head = ["", "M", "rate", *(f"{d}: pruned" for d in DOMAINS), *DOMAINS, "worst", "KL", "seeds"]
    for question, ways in QUESTIONS.items():
        print(f"\n{question}\n\n| " + " | ".join(head) + " |\n|---|" + "--:|" * (len(head) - 1))
        for way in ways:
            mine = [result for result in found if result.way == way]
            first = [result for result in mine if result.seed == SEEDS[0]]
            if first:
                best = min(first, key=lambda result: result.choice)
                runs = [best, *(r for r in mine if r.seed != SEEDS[0])]
                print(line(way, runs))
                drawn[f"{question}: {way}"] = {d: [above(r, d) for r in runs] for d in DOMAINS}
    save_png(lambda axes: draw(axes, drawn), folder / "recovery.png", (8, 5))


def above(result: Result, domain: str, when: str = "student") -> float:
    """Its loss above the teacher's, in percent."""
    return 100 * (float(getattr(result, when)[domain]) / result.teacher[domain] - 1)


def draw(axes: Any, drawn: dict[str, dict[str, list[float]]]) -> None:
    """A group of bars a way, one a domain, seeds as whiskers."""
    for place, domain in enumerate(DOMAINS):
        each = [by_domain[domain] for by_domain in drawn.values()]
        means = [statistics.mean(losses) for losses in each]
        spread = [(max(losses) - min(losses)) / 2 for losses in each]
        rows = [row + place / 4 for row in range(len(drawn))]
        axes.barh(rows, means, 0.25, xerr=spread, color=f"C{place}", label=domain)
    axes.set_yticks([row + 0.25 for row in range(len(drawn))], list(drawn))
    axes.invert_yaxis()
    axes.set_xlabel("loss above the teacher's after recovery, %")
    axes.legend()


def line(way: str, runs: list[Result]) -> str:
    """A row of Markdown."""

    cells = [way, f"{runs[0].parameters / 1e6:.2f}", f"{runs[0].rate:g}"]
    cells += [f"{above(runs[0], d, 'pruned'):+.1f} %" for d in DOMAINS]
    means = {}
    for domain in DOMAINS:
        each = [above(result, domain) for result in runs]
        means[domain] = statistics.mean(each)
        cells.append(f"{means[domain]:+.2f} ± {(max(each) - min(each)) / 2:.2f} %")
    worst = max(means, key=means.__getitem__)
    cells += [f"{worst} {means[worst]:+.2f} %", f"{statistics.mean(r.kl for r in runs):.4f}"]
    return "| " + " | ".join([*cells, str(len(runs))]) + " |"


if __name__ == "__main__":
    if sys.argv[1] == "run":
        run(Path(sys.argv[2]), sys.argv[3])
    else:
        table(Path(sys.argv[2]))
