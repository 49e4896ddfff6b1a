"""Stage eval: run/eval.json, teacher, pruned and student side by side."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import torch

from minipuzzle.bars import progress_bar
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.data import TokenBlocks
from minipuzzle.memory import Workload, resident
from minipuzzle.metrics import Metrics, measure, tokens_per_second
from minipuzzle.model import HybridLM
from minipuzzle.ranks import Ranks, ranks
from minipuzzle.records import CostRow, Distilled, EvalResult, EvalRow, SearchResult, TextNumbers
from minipuzzle.report.card import write_card
from minipuzzle.runs.costs import cost_checks
from minipuzzle.runs.device import device_name
from minipuzzle.runs.job import Job, open_checkpoint
from minipuzzle.settings import SearchSettings
from minipuzzle.training import check_vocabularies

FILE = "eval.json"
SPEED_BATCH = 4


def run_eval(job: Job, others: list[Path]) -> EvalResult:
    """Measure the run's checkpoints (or the teacher and ``others``) on the half of the text that
    search never saw, each domain of it too.

    Under torchrun the models are in shards over all processes, and the first one writes.
    """
    with job.run.locked(), ranks(job.device) as group:
        return _eval(job, others, group)


def _eval(job: Job, others: list[Path], group: Ranks) -> EvalResult:
    blocks = group.first_then_all(lambda: job.validation("eval"))
    teacher = job.frozen_original(group)
    named = named_checkpoints(job, others)
    rows: list[EvalRow] = []
    costs: list[CostRow] = []
    with progress_bar("eval", len(blocks) * len(named), "blocks") as bar:
        for name, checkpoint in named.items():
            check_vocabularies(
                checkpoint.architecture.vocab_size, job.original.architecture.vocab_size
            )
            model = teacher if checkpoint is job.original else job.load_frozen(checkpoint, group)
            metrics = measure(model, blocks, teacher=teacher, progress=bar)
            rows.append(
                EvalRow(
                    name=name,
                    path=str(checkpoint.path),
                    parameters=checkpoint.parameters,
                    active=checkpoint.architecture.active_if_fewer,
                    bytes=checkpoint.bytes,
                    memory_bytes=resident(checkpoint.architecture, workload(job)).total,
                    **vars(_numbers(metrics, blocks)),
                    domains={
                        part: _numbers(metrics.domains[part], text)
                        for part, text in blocks.by_domain()
                    },
                    tokens_per_second=_speed(model, blocks, job.device),
                )
            )
            if name == "student" and not others:
                costs = cost_checks(job, checkpoint, model, _batch(blocks, 1, job.device))
    result = EvalResult(
        device=device_name(job.device),
        data=str(job.data.validation),
        tokens=blocks.counted,
        rows=tuple(rows),
        costs=tuple(costs),
        distill=job.run.key("distill") if "student" in named and not others else None,
    ).checked()
    if job.run.writes:
        result.save(job.run / FILE)
        if costs:
            write_card(job.run.path)
    return result


def _numbers(metrics: Metrics, blocks: TokenBlocks) -> TextNumbers:
    assert metrics.kl is not None  # measured beside a teacher
    assert metrics.agreement is not None
    return TextNumbers(
        tokens=blocks.counted,
        loss=metrics.loss,
        perplexity=metrics.perplexity,
        bits_per_byte=metrics.bits_per_byte(blocks.text_bytes / blocks.counted),
        kl=metrics.kl,
        agreement=metrics.agreement,
        next_token_accuracy=metrics.next_token_accuracy,
    )


def named_checkpoints(job: Job, others: list[Path]) -> dict[str, Checkpoint]:
    """The teacher and ``others`` by the names of their folders, or where there are none what the
    run has: pruned and student.
    """
    return {"teacher": job.original, **(_others(others) if others else _of_run(job))}


def workload(job: Job) -> Workload:
    """The workload of the run's search, or the default one."""
    file = job.run / "search.json"
    if file.exists():
        return SearchResult.load(file).budget.workload
    default = SearchSettings()
    return Workload(
        context=default.context,
        batch=default.batch,
        weights=default.weights,
        kv=default.kv,
        state=default.state,
    )


def _of_run(job: Job) -> dict[str, Checkpoint]:
    found = {}
    if (job.run / "student").exists():
        winner = job.run.stage(Distilled).winner
        found["pruned"] = Checkpoint.open(job.run / "candidates" / winner)
        found["student"] = Checkpoint.open(job.run / "student")
    elif (job.run / FILE.replace("eval", "search")).exists():
        top = SearchResult.load(job.run / "search.json").top
        found = {
            f"pruned {n}": Checkpoint.open(job.run / "candidates" / n)
            for n in top
            if (job.run / "candidates" / n).exists()
        }
    return found


def _others(paths: list[Path]) -> dict[str, Checkpoint]:
    """Each under the shortest end of its path that is nobody else's, the teacher's row included."""
    whole = {path.resolve(): path for path in paths}
    ends = {
        path: [str(Path(*path.parts[-n:])) for n in range(1, len(path.parts) + 1)] for path in whole
    }
    taken = Counter(["teacher", *(end for path in whole for end in ends[path])])
    return {
        next(end for end in ends[path] if taken[end] == 1): open_checkpoint(given)
        for path, given in whole.items()
    }


def _speed(model: HybridLM, blocks: TokenBlocks, device: torch.device) -> float:
    return tokens_per_second(model, _batch(blocks, SPEED_BATCH, device))


def _batch(blocks: TokenBlocks, size: int, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(blocks.tokens[:size].astype("int64")).to(device)
