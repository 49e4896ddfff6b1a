"""What the search predicted that the student costs, beside what it costs: rows of eval.json."""

from __future__ import annotations

import torch

from minipuzzle.arch import Architecture
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.cost.latency import LatencyTable, model_ms
from minipuzzle.memory import Workload, resident
from minipuzzle.model import HybridLM, mixed_precision
from minipuzzle.model.cache import Cache
from minipuzzle.records import CostRow, Distilled, SearchResult
from minipuzzle.runs.job import Job
from minipuzzle.timing import Machine, step_ms, time_in_turns

DTYPES = {"BF16": "bf16", "F16": "fp16", "F32": "fp32"}


def cost_checks(
    job: Job, student: Checkpoint, model: HybridLM, tokens: torch.Tensor
) -> list[CostRow]:
    """Rows for the winner ``student``; ``tokens`` [1, s] fill its
    caches.

    Parameters and weights: the plan against the file. Caches: the memory formula against the
    tensors after a prefill, states in FP32, keys and values as the model is held. Times: the
    latency table that the search used against the student running on this machine; left out where
    the budget names no time or the table is of another machine.
    """
    search = SearchResult.load(job.run / "search.json")
    winner = job.run.stage(Distilled).winner
    planned = search.candidate(winner)
    rows = [_row("parameters", "", planned.parameters, student.parameters)]
    if student.dtype in DTYPES:
        weights = resident(
            student.architecture, Workload(context=1, weights=DTYPES[student.dtype])
        )["weights"]
        rows.append(
            _row(f"weights in the file, {DTYPES[student.dtype]}", "bytes", weights, student.bytes)
        )
    length = tokens.shape[1]
    held = "bf16" if model.embeddings.weight.dtype == torch.bfloat16 else "fp32"
    formula = resident(
        student.architecture, Workload(context=length, weights="fp32", kv=held, state="fp32")
    )
    keys, states = _cache_bytes(model, tokens)
    rows.append(_row(f"keys and values of {length:,} tokens, {held}", "bytes", formula["kv"], keys))
    rows.append(_row("Mamba states of a sequence, fp32", "bytes", formula["ssm"], states))
    return rows + _times(job, search, student.architecture)


def _row(what: str, unit: str, predicted: float, measured: float) -> CostRow:
    return CostRow(what=what, unit=unit, predicted=predicted, measured=measured)


@torch.no_grad()
def _cache_bytes(model: HybridLM, tokens: torch.Tensor) -> tuple[int, int]:
    cache: Cache = model.new_cache(*tokens.shape)
    with mixed_precision(tokens.device):
        model.hidden_states(tokens, cache=cache)
    slots = [slot for slot in cache.slots if slot is not None]
    return sum(s.nbytes("kv") for s in slots), sum(s.nbytes("state") for s in slots)


def _times(job: Job, search: SearchResult, student: Architecture) -> list[CostRow]:
    file = job.run / "latency.json"
    if not search.budget.times or not file.exists():
        return []
    table = LatencyTable.load(file)
    machine = Machine(
        device=job.device, dtype=getattr(torch, table.meta["dtype"]), kernels=job.kernels
    )
    if table.source != search.budget.timing or table.meta["device"] != machine.name:
        return []
    asked = search.budget.asked
    models = {"teacher": job.original.architecture, "student": student}
    taken = time_in_turns(
        list(models.values()), list(dict.fromkeys(work for work, _ in asked)), machine
    )
    return [
        _row(
            f"{who}: {phase} of {work}",
            "ms",
            model_ms(table, architecture, phase, work),
            step_ms(times, phase, work),
        )
        for work, phase in asked
        for (who, architecture), times in zip(models.items(), taken, strict=True)
    ]
