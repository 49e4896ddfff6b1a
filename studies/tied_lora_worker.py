"""What one process of studies/tied_lora.py does: a task's model and data, one training run, its
measurement.
"""

from __future__ import annotations

import json
import lzma
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tied_lora_peft import inject_peft, peft_version
from torch import Tensor

from minipuzzle import embedded
from minipuzzle.adapters import attach, make_plan
from minipuzzle.adapters.saved import SavedAdapter
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.data import TokenBlocks, Tokenizer, load_blocks
from minipuzzle.metrics import measure
from minipuzzle.model import HybridLM, load_frozen, load_model
from minipuzzle.nas.select import select
from minipuzzle.scores import Scores
from minipuzzle.settings import Training
from minipuzzle.space import Shape
from minipuzzle.surgery import cut
from minipuzzle.training import answers_only, distillation, mixed_precision, next_token, train

if TYPE_CHECKING:
    from tied_lora import Run

LENGTH = 512
SHAPES = {
    "83%": Shape.of({"attention": 2, "mlp": 6, "mamba": 5}, {"intermediate": 576}, hidden=192),
    "60%": Shape.of({"attention": 1, "mlp": 3, "mamba": 4}, {"intermediate": 448}, hidden=192),
}
"""The students of docs/results/embedded.md."""
PLACE: dict[str, Any] = {}


def start_worker(counter: Any, data: str, device: str, work: str, tests: int) -> None:
    """Say where this process works: the GPUs are dealt out in turn."""
    torch.set_num_threads(1)
    with counter.get_lock():
        number, counter.value = counter.value, counter.value + 1
    if device == "cuda":
        device = f"cuda:{number % torch.cuda.device_count()}"
        torch.cuda.set_device(device)
    PLACE.update(data=Path(data), device=torch.device(device), work=Path(work), tests=tests)


def prepare(data: str, device: str, work: str, tests: int) -> dict[str, Any]:
    """Tokenise, cut the students and run every kernel once; facts about the machine."""
    PLACE.update(data=Path(data), device=torch.device(device), work=Path(work), tests=tests)
    scores = Scores.load(Path(data) / "scores.safetensors")
    teacher = Checkpoint.open(embedded.teacher_path())
    students = {}
    for budget, shape in SHAPES.items():
        path = Path(work) / budget
        students[budget] = cut(
            teacher, select(teacher.architecture, scores, shape), path
        ).parameters
    for task in ("field", "source", "recall", "recovery 60%"):
        training_blocks(task)
    for isolate in (False, True):
        model = load_frozen(teacher, device=PLACE["device"])
        attach(model, make_plan(model.architecture, "tl6", rank=8))
        tokens = torch.zeros(8, LENGTH, dtype=torch.int64, device=PLACE["device"])
        with mixed_precision(PLACE["device"]):
            model.hidden_states(tokens, tokens if isolate else None).float().sum().backward()
    name = torch.cuda.get_device_name() if device.startswith("cuda") else "CPU"
    count = torch.cuda.device_count() if device.startswith("cuda") else 0
    return {
        "device": f"{count} x {name}" if count else name,
        "torch": torch.__version__,
        "students": students,
        "kernels": model.kernels.name,
        "peft": peft_version(),
        "teacher": teacher.parameters,
    }


def work_on(run: Run) -> dict[str, Any]:
    """Train and measure; ``before`` and ``after`` hold "choice" and "report", higher is better
    (recovery: minus nats).
    """
    device = PLACE["device"]
    model, facts = make_model(run)
    before = base_quality(run.task)
    settings = Training(
        tokens=run.steps * run.batch * LENGTH,
        learning_rate=run.rate,
        batch=run.batch,
        seed=run.seed,
        weight_decay=0.0,
        save_every=1e9,
        isolate_documents=with_answers(run.task),
    )
    objective = (
        distillation(teacher())
        if run.task.startswith("recovery")
        else (answers_only() if with_answers(run.task) else next_token)
    )
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        loss = train(
            model, objective, training_blocks(run.task), settings, Path(folder), identity=run.key
        )
    seconds = time.monotonic() - started
    memory = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    return {
        "run": asdict(run),
        "before": before,
        "after": quality(model, run.task),
        "seconds": seconds,
        "loss": loss,
        "tokens": settings.tokens,
        "memory": memory,
        **facts,
    }


def make_model(run: Run) -> tuple[HybridLM, dict[str, Any]]:
    """The task's model ready to train, and what its trained part weighs."""
    device, source = PLACE["device"], checkpoint(run.task)
    if run.adapter == "full":
        model = load_model(source, device=device).eval()
        count = sum(p.numel() for p in model.parameters())
        return model, {"trainable": count, "bytes": 2 * count, "lora": count}
    model = load_frozen(source, device=device)
    if run.adapter.startswith("peft"):
        return model, inject_peft(
            model, run.adapter.split()[1], run.rank, run.seed, PLACE["device"]
        )
    plan = make_plan(model.architecture, run.adapter, rank=run.rank)
    adapters = attach(model, plan, seed=run.seed)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "adapter.safetensors"
        SavedAdapter(plan=plan, tensors=adapters.tensors(), base=source.fingerprint).write(file)
        size = file.stat().st_size
    return model, {"trainable": plan.trainable, "bytes": size, "lora": plan.lora}


@cache
def teacher() -> HybridLM:
    """The embedded teacher, frozen."""
    return load_frozen(Checkpoint.open(embedded.teacher_path()), device=PLACE["device"])


@cache
def tokenizer() -> Tokenizer:
    """The embedded teacher's."""
    return Tokenizer.load(embedded.teacher_path())


def checkpoint(task: str) -> Checkpoint:
    """The model that a task adapts."""
    return Checkpoint.open(
        PLACE["work"] / task.split()[1] if task.startswith("recovery") else embedded.teacher_path()
    )


def with_answers(task: str) -> bool:
    """Whether the loss is on answers only."""
    return task in ("field", "source", "recall")


@cache
def training_blocks(task: str) -> TokenBlocks:
    """The training text of a task."""
    if with_answers(task):
        return load_blocks(
            PLACE["data"] / f"{task}.train.jsonl.xz", tokenizer(), block_length=LENGTH
        )
    name = task.split()[0]
    return load_blocks(
        PLACE["data"] / f"{name}.train.txt.xz",
        tokenizer(),
        block_length=LENGTH,
        cache=PLACE["work"] / "tokens",
    )


@cache
def examples(task: str) -> list[tuple[list[int], list[list[int]]]]:
    """(prompt, candidates) of the test examples in tokens; the first candidate is the answer."""
    with lzma.open(PLACE["data"] / f"{task}.test.jsonl.xz", "rt") as file:
        rows = [json.loads(line) for line in file][: PLACE["tests"]]
    encode = tokenizer()._ids
    return [
        (encode(row["prompt"]), [encode(w) for w in (row["answer"], *row.get("others", []))])
        for row in rows
    ]


@cache
def base_quality(task: str) -> dict[str, float]:
    """Before training."""
    return quality(load_frozen(checkpoint(task), device=PLACE["device"]), task)


@torch.no_grad()
def quality(model: HybridLM, task: str) -> dict[str, float]:
    """ "choice" and "report": accuracy on either half of the test, or minus the loss in nats per
    token.
    """
    model.eval()
    if task.startswith("recovery"):
        blocks = load_blocks(
            PLACE["data"] / "recovery.val.txt.xz",
            tokenizer(),
            block_length=LENGTH,
            cache=PLACE["work"] / "tokens",
        )
        count = min(PLACE["tests"] // 8, len(blocks) // 2)
        with mixed_precision(PLACE["device"]):
            halves = [
                measure(model, blocks.every_other(h).take(count), batch=16, teacher=teacher())
                for h in (0, 1)
            ]
        return {
            "choice": -halves[0].loss,
            "report": -halves[1].loss,
            "kl": halves[1].kl or 0.0,
            "agreement": halves[1].agreement or 0.0,
        }
    tests = examples(task)
    flat = [(prompt, candidate) for prompt, candidates in tests for candidate in candidates]
    log_p, exact = answer_scores(model, flat)
    width = len(tests[0][1])
    right = log_p.view(-1, width).argmax(-1) == 0 if width > 1 else exact
    return {
        "choice": right[::2].double().mean().item(),
        "report": right[1::2].double().mean().item(),
    }


def answer_scores(
    model: HybridLM, pairs: list[tuple[list[int], list[int]]], batch: int = 64
) -> tuple[Tensor, Tensor]:
    """For each (prompt, answer): the answer's log probability, and whether greedy decoding would
    give exactly it.
    """
    order = sorted(range(len(pairs)), key=lambda i: len(pairs[i][0]) + len(pairs[i][1]))
    log_p, exact = (
        torch.zeros(len(pairs), dtype=torch.float64),
        torch.zeros(len(pairs), dtype=torch.bool),
    )
    for chunk in chunks(order, batch):
        sequences = [pairs[i][0] + pairs[i][1] for i in chunk]
        longest = max(map(len, sequences))
        tokens = torch.tensor(
            [s + [0] * (longest - len(s)) for s in sequences], device=PLACE["device"]
        )
        with mixed_precision(PLACE["device"]):
            logits = model(tokens)[:, :-1].float()
        target = tokens[:, 1:]
        said = torch.log_softmax(logits, -1).gather(2, target[..., None])[..., 0].double().cpu()
        agrees = (logits.argmax(-1) == target).cpu()
        for row, i in enumerate(chunk):
            answer = slice(
                len(pairs[i][0]) - 1, len(sequences[row]) - 1
            )  # a causal model: padding changes nothing before it
            log_p[i], exact[i] = said[row, answer].sum(), agrees[row, answer].all()
    return log_p, exact


def chunks(order: list[int], size: int) -> Iterator[list[int]]:
    """Pieces of a list."""
    for start in range(0, len(order), size):
        yield order[start : start + size]
