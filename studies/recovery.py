"""How a teacher is best recovered: in one step or three, on which texts, on whose text. Tables of
docs/results/recovery.md, by domain.

    OMP_NUM_THREADS=1 python studies/recovery.py embedded run FOLDER steps|texts|on-policy [WAY]
    python studies/recovery.py embedded table FOLDER

    python studies/recovery.py larger data FOLDER ../shared/data   # here: .carry/recovery
    python studies/recovery.py larger run FOLDER steps|texts|on-policy [WAY]
    # after minipuzzle pretrain studies/recovery_teacher.yaml --run FOLDER/teacher

Every way of a question trains at each of its rates with the first seed and at its better one with
the others, for the same tokens that the teacher reads; a rate is chosen on the search's half of the
validation text, and reported is the other half. Given again it goes on. ``larger`` is for a GPU:
studies/gpu/recovery.sh.
"""

from __future__ import annotations

import json
import lzma
import statistics
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from recovery_scale import CARRIED, QUESTIONS, SCALES, Scale

import minipuzzle as mp
from minipuzzle.artifacts import write_json
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.data.documents import SEPARATOR
from minipuzzle.metrics import measure
from minipuzzle.model import load_model
from minipuzzle.pipeline import compress
from minipuzzle.records import EvalResult
from minipuzzle.report.svg import save_png
from minipuzzle.settings import Data, Recipe
from minipuzzle.settings.recipe_file import build

SEEDS = (0, 1)
TRAIN_CHARACTERS = 22_000_000
"""Of each domain of ``larger``: all three go to a GPU machine in one call."""


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


def recipe(scale: Scale, way: dict[str, Any], rate: float, seed: int, folder: Path) -> Recipe:
    """A way with a rate and a seed of its training."""
    data = {"validation": str(folder / "validation"), "length": scale.length}
    if scale.carried:
        data |= {use: str(CARRIED / use) for use in ("calibration", "train")}
    batch = {"batch": scale.batch, "micro_batch": scale.micro_batch}
    training = {"tokens": scale.tokens, "learning_rate": rate, **batch, "seed": seed}
    base = {
        "checkpoint": scale.checkpoint(folder),
        "device": scale.device,
        "data": data,
        "score": scale.score,
        "search": {**scale.search, "top": 1},
        "distill": {"training": training},
    }
    values = merged(base, way)
    if "prompts" in values["distill"]:
        values["distill"]["prompts"] = str(folder / "prompts.jsonl")
    return build(Recipe, values, "recovery")


def write_texts(scale: Scale, folder: Path) -> None:
    """The beginnings of the validation texts, a file a kind; prompts: of the calibration text's
    paragraphs the beginnings. Once: ways may run side by side.
    """
    if (folder / "prompts.jsonl").exists():
        return
    (folder / "validation").mkdir(parents=True, exist_ok=True)
    prompts = []
    for domain in scale.domains:
        text = scale.read("validation", domain)[: scale.characters]
        (folder / "validation" / f"{domain}.txt").write_text(text)
        paragraphs = [p.strip() for p in scale.read("calibration", domain).split("\n\n")]
        prompts += [p[:120] for p in paragraphs if len(p) > 120][:300]
    lines = (json.dumps({"prompt": text}) + "\n" for text in prompts)
    (folder / "prompts.jsonl").write_text("".join(lines))


def carry(scale: Scale, folder: Path, shared: Path) -> None:
    """The texts of ``larger``, whole documents, and what all ways read of them in ``folder``."""
    for domain in scale.domains:
        for use, split in (("train", "train"), ("calibration", "calib"), ("validation", "val")):
            with lzma.open(shared / f"{domain}.{split}.txt.xz", "rt") as whole:
                text = whole.read(TRAIN_CHARACTERS)
            kept = text[: text.rfind(SEPARATOR)]
            path = scale.text(use, domain)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(lzma.compress(kept.encode(), preset=6))


def one(scale: Scale, folder: Path, question: str, way: str, rate: float, seed: int) -> Result:
    """Run it, or read what it was."""
    name = way.replace(" ", "-").replace("%", "")
    stored = folder / "results" / f"{name}.{rate:g}.{seed}.json"
    if stored.exists():
        return Result(**json.loads(stored.read_text()))
    change = scale.ways(question)[way]
    # steps have students in between; what is one step shares its scores and its search
    run = folder / (f"{name}.{rate:g}.{seed}" if "steps" in change else name)
    compress(recipe(scale, change, rate, seed, folder), run)
    teacher, pruned, student = EvalResult.load(run / "eval.json").rows
    job = mp.load(
        scale.checkpoint(folder),
        run=run / "choice",
        data=Data(validation=str(folder / "validation"), length=scale.length),
        device=scale.device,
    )
    model = load_model(Checkpoint.open(run / "student"), device=torch.device(scale.device)).eval()
    result = Result(
        way=way,
        rate=rate,
        seed=seed,
        choice=measure(model, job.validation("search")).loss,
        parameters=student.parameters,
        kl=student.kl or 0.0,
        **{
            when: {name: row.domains[name].loss for name in scale.domains}
            for when, row in (("teacher", teacher), ("pruned", pruned), ("student", student))
        },
    )
    write_json(stored, asdict(result))
    return result


def run(scale: Scale, folder: Path, question: str, ways: list[str]) -> None:
    """These ways of a question, without any all."""
    write_texts(scale, folder)
    for way in ways or scale.ways(question):
        tried = [one(scale, folder, question, way, rate, SEEDS[0]) for rate in scale.rates]
        best = min(tried, key=lambda result: result.choice)
        for seed in SEEDS[1:]:
            one(scale, folder, question, way, best.rate, seed)


def table(scale: Scale, folder: Path) -> None:
    """Losses above the teacher's in percent, a mean and the seeds' range, as far as they are, and
    a picture of them.
    """
    drawn = {}
    found = [Result(**json.loads(p.read_text())) for p in sorted(folder.glob("results/*.json"))]
    domains = scale.domains
    head = ["", "M", "rate", *(f"{d}: pruned" for d in domains), *domains, "worst", "KL", "seeds"]
    for question in QUESTIONS:
        print(f"\n{question}\n\n| " + " | ".join(head) + " |\n|---|" + "--:|" * (len(head) - 1))
        for way in scale.ways(question):
            mine = [result for result in found if result.way == way]
            first = [result for result in mine if result.seed == SEEDS[0]]
            if first:
                best = min(first, key=lambda result: result.choice)
                runs = [best, *(r for r in mine if r.seed != SEEDS[0])]
                print(line(domains, way, runs))
                drawn[f"{question}: {way}"] = {d: [above(r, d) for r in runs] for d in domains}
    save_png(lambda axes: draw(axes, domains, drawn), folder / "recovery.png", (8, 5))


def above(result: Result, domain: str, when: str = "student") -> float:
    """Its loss above the teacher's, in percent."""
    return 100 * (float(getattr(result, when)[domain]) / result.teacher[domain] - 1)


def draw(axes: Any, domains: tuple[str, ...], drawn: dict[str, dict[str, list[float]]]) -> None:
    """A group of bars a way, one a domain, seeds as whiskers."""
    for place, domain in enumerate(domains):
        each = [by_domain[domain] for by_domain in drawn.values()]
        means = [statistics.mean(losses) for losses in each]
        spread = [(max(losses) - min(losses)) / 2 for losses in each]
        rows = [row + place / 4 for row in range(len(drawn))]
        axes.barh(rows, means, 0.25, xerr=spread, color=f"C{place}", label=domain)
    axes.set_yticks([row + 0.25 for row in range(len(drawn))], list(drawn))
    axes.invert_yaxis()
    axes.set_xlabel("loss above the teacher's after recovery, %")
    axes.legend()


def line(domains: tuple[str, ...], way: str, runs: list[Result]) -> str:
    """A row of Markdown."""

    cells = [way, f"{runs[0].parameters / 1e6:.2f}", f"{runs[0].rate:g}"]
    cells += [f"{above(runs[0], d, 'pruned'):+.1f} %" for d in domains]
    means = {}
    for domain in domains:
        each = [above(result, domain) for result in runs]
        means[domain] = statistics.mean(each)
        cells.append(f"{means[domain]:+.2f} ± {(max(each) - min(each)) / 2:.2f} %")
    worst = max(means, key=means.__getitem__)
    cells += [f"{worst} {means[worst]:+.2f} %", f"{statistics.mean(r.kl for r in runs):.4f}"]
    return "| " + " | ".join([*cells, str(len(runs))]) + " |"


if __name__ == "__main__":
    scale, folder = SCALES[sys.argv[1]], Path(sys.argv[3])
    if sys.argv[2] == "run":
        run(scale, folder, sys.argv[4], sys.argv[5:])
    elif sys.argv[2] == "list":  # a line for each process
        questions = sys.argv[4:] or QUESTIONS
        print("\n".join({way: f"{q} {way}" for q in questions for way in scale.ways(q)}.values()))
    elif sys.argv[2] == "texts":  # before processes side by side
        write_texts(scale, folder)
    elif sys.argv[2] == "data":
        carry(scale, folder, Path(sys.argv[4]))
    else:
        table(scale, folder)
