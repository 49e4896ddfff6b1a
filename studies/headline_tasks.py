r"""Loss and downstream accuracy of checkpoints on held-out text, beside the first of them. A stage
of studies/headline.py.

    python studies/headline_tasks.py teacher=T/model student=R/student --text TEXT/report \
        --out tasks.json

Tasks that a model of 100 M parameters can do, made from documents that no stage has seen
(``--text`` with prose.val and code.val): ``last word`` (as LAMBADA: the last word of a passage that
has it before, every token of it greedy), ``next sentence`` and ``next line`` (of code) among four
by log probability a byte, ``copy`` (a random sequence that began again), ``recall`` (a word that
followed another one before). With lambada_openai.jsonl ({"text"} a line) in the folder also
``lambada``. A task counts where the first model is clearly above chance (two standard errors). The
first model's average, with chance taken off each task, is what others retain: a model that guesses
retains 0 %. Intervals of 95 % are of a bootstrap over examples, the same for both models. KL is
from the first model. What is measured is kept beside --out, so that the same command with more
models measures only these.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cloze import CHANCE, Item, above_chance, continuations, copies, correct, last_words, recalls

from minipuzzle.artifacts import read_json, write_json
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.data import Tokenizer, load_blocks
from minipuzzle.data.documents import read_documents
from minipuzzle.data.files import data_files
from minipuzzle.identity import fingerprint
from minipuzzle.kernels import choose
from minipuzzle.metrics import Answers, answers, measure
from minipuzzle.model import load_model
from minipuzzle.training import mixed_precision

KEPT = ("tokens", "loss", "kl", "next_token_accuracy")
BATCH, RESAMPLES = 32, 2000


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", help="NAME=CHECKPOINT")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--examples", type=int, default=1000)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    device = torch.device(options.device)
    models = {name: Path(path) for name, path in (model.split("=", 1) for model in options.models)}
    words = Tokenizer.load(next(iter(models.values())))
    tasks = make_tasks(options.text, words, options.examples)
    texts = {
        file.name.split(".")[0]: load_blocks(file, words, block_length=options.length)
        for file in data_files(options.text)
        if "lambada" not in file.name
    }
    checkpoints = {name: Checkpoint.open(path) for name, path in models.items()}
    common = [
        options.examples,
        next(iter(checkpoints.values())).fingerprint,
        *(b.fingerprint for b in texts.values()),
    ]
    keys = {
        name: fingerprint(checkpoint.fingerprint, common)
        for name, checkpoint in checkpoints.items()
    }
    file = options.out.with_suffix(".measured.json")
    known: dict[str, Any] = read_json(file) if file.exists() else {}
    first: dict[str, Answers] = {}
    for name, checkpoint in checkpoints.items():
        if first and keys[name] in known:
            continue
        model = load_model(
            checkpoint, device=device, dtype=torch.float32, kernels=choose(device)
        ).eval()
        with mixed_precision(device):
            first = first or {
                group: answers(model, blocks, BATCH) for group, blocks in texts.items()
            }
            if keys[name] not in known:
                losses = {
                    g: asdict(measure(model, blocks, batch=BATCH, teacher=first[g]))
                    for g, blocks in texts.items()
                }
                known[keys[name]] = {
                    "losses": {g: {k: m[k] for k in KEPT} for g, m in losses.items()},
                    "right": {
                        task: correct(model, items).astype(int).tolist()
                        for task, items in tasks.items()
                    },
                }
                write_json(file, known)
    right = {
        name: {t: np.array(r, dtype=bool) for t, r in known[keys[name]]["right"].items()}
        for name in models
    }
    rows = [
        {
            "name": name,
            "parameters": c.parameters,
            "pattern": c.architecture.pattern,
            "losses": known[keys[name]]["losses"],
            **verdict(right, name),
        }
        for name, c in checkpoints.items()
    ]
    write_json(options.out, {"rows": rows, "chance": CHANCE})
    print("\n".join(table(read_json(options.out))))


def make_tasks(text: Path, words: Tokenizer, count: int) -> dict[str, list[Item]]:
    """The tasks, at most ``count`` examples of each."""
    rng = np.random.default_rng(0)
    files = {file.name.split(".")[0]: file for file in data_files(text)}
    made = {"copy": list(copies(words, count, rng))}
    if "prose" in files:
        passages = [
            p
            for d in read_documents(files["prose"])
            for p in re.split(r"\n\s*\n", d)
            if 200 < len(p) < 4000
        ]
        sentences = [re.split(r"(?<=[.!?])\s+", " ".join(p.split())) for p in passages]
        made["last word"] = list(last_words((" ".join(s) for s in sentences), words, count))
        made["recall"] = list(
            recalls(
                [w for p in passages for w in re.findall(r"\b[a-z]{4,8}\b", p)], words, count, rng
            )
        )
        made["next sentence"] = list(continuations(sentences, " ", words, count, rng))
    if "code" in files:
        lines = [[x for x in d.split("\n") if x.strip()] for d in read_documents(files["code"])]
        made["next line"] = list(continuations(lines, "\n", words, count, rng))
    if "lambada_openai" in files:
        made["lambada"] = list(
            last_words(read_documents(files["lambada_openai"]), words, count, seen=False)
        )
    return {task: items for task, items in made.items() if items}


def verdict(right: dict[str, dict[str, np.ndarray]], name: str) -> dict[str, Any]:
    """Accuracies, their average over the tasks that count, and what of the first model's, above
    chance, is retained.
    """
    first = next(iter(right.values()))
    counts = [task for task, r in first.items() if above_chance(r, CHANCE[task])]
    result: dict[str, Any] = {
        "tasks": {
            t: {"accuracy": float(r.mean()), "examples": len(r)} for t, r in right[name].items()
        },
        "counted": counts,
    }
    if counts:
        result |= {
            "average": float(np.mean([right[name][t].mean() for t in counts])),
            **interval([(right[name][t] - CHANCE[t], first[t] - CHANCE[t]) for t in counts]),
        }
    return result


def interval(pairs: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    """The ratio of the averages above chance and its interval of 95 %, examples drawn anew within
    each task.
    """
    rng, ratios = np.random.default_rng(0), []
    for _ in range(RESAMPLES):
        drawn = [
            (a[rows], b[rows]) for a, b in pairs for rows in [rng.integers(len(a), size=len(a))]
        ]
        ratios.append(
            np.mean([a.mean() for a, _ in drawn]) / max(np.mean([b.mean() for _, b in drawn]), 1e-9)
        )
    mean: Callable[[int], float] = lambda k: float(np.mean([p[k].mean() for p in pairs]))  # noqa: E731
    return {
        "retained": mean(0) / mean(1),
        "retained_95": [float(v) for v in np.quantile(ratios, [0.025, 0.975])],
    }


def table(result: dict[str, Any]) -> Iterator[str]:
    """Markdown: a row a model."""
    first = result["rows"][0]
    groups, tasks = list(first["losses"]), list(first["tasks"])
    names = [f"loss {g}" for g in groups] + tasks
    yield (
        "| model | parameters | "
        + " | ".join(names)
        + " | average | above chance, of the teacher's (95 %) |"
    )
    yield "|---" * (4 + len(groups) + len(tasks)) + "|"
    for row in result["rows"]:
        cells = [
            f"{row['losses'][g]['loss']:.4f}"
            f" ({100 * (row['losses'][g]['loss'] / first['losses'][g]['loss'] - 1):+.2f} %)"
            for g in groups
        ]
        cells += [
            f"{row['tasks'][t]['accuracy']:.3f}{'' if t in row['counted'] else ' (not counted)'}"
            for t in tasks
        ]
        if not row["counted"]:
            cells += ["", ""]
        else:
            low, high = row["retained_95"]
            cells += [
                f"{row['average']:.4f}",
                f"{100 * row['retained']:.2f} % ({100 * low:.2f} to {100 * high:.2f})",
            ]
        yield f"| {row['name']} | {row['parameters']:,} | " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
