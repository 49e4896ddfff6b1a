"""Stage eval --tasks: lm-eval's tasks on teacher, pruned and student; its own JSON in run/lm_eval, a summary in tasks.json."""

from __future__ import annotations

import difflib
import importlib.util
import json
from pathlib import Path
from typing import Any

from minipuzzle.artifacts import write_atomic, write_json
from minipuzzle.distill import check_vocabularies, mixed_precision
from minipuzzle.errors import UserError
from minipuzzle.run_files import TASKS_SCHEMA, check_measured
from minipuzzle.run_shapes import TasksFile
from minipuzzle.stages.device import device_name
from minipuzzle.stages.evaluate import named_checkpoints
from minipuzzle.stages.job import Job, say

FILE = "tasks.json"


def run_tasks(job: Job, others: list[Path], tasks: list[str], include: Path | None, limit: int | None) -> dict[str, Any]:
    """Run ``tasks`` on the run's checkpoints (or the teacher and ``others``), ``limit`` examples of each or all.

    ``include`` is a folder with task files of lm-eval (YAML), which may name local data files. Returns the rows of
    tasks.json: a task's metric on a checkpoint, with its standard error. Raises: UserError where lm-eval is not
    installed, a task is unknown or its data cannot be had.
    """
    _check_installed()
    from lm_eval import simple_evaluate
    from lm_eval.utils import handle_non_serializable

    from minipuzzle.harness import HarnessLM

    manager = _manager(tasks, include)
    rows = []
    with mixed_precision(job.device):
        for name, checkpoint in named_checkpoints(job, others).items():
            check_vocabularies(checkpoint.architecture.vocab_size, job.parent.architecture.vocab_size)
            model = job.parent_model if checkpoint is job.parent else job.load(checkpoint)
            say(f"tasks: {name}")
            lm = HarnessLM(model, job.tokenizer, name=str(checkpoint.path))
            result: Any = simple_evaluate(lm, tasks=list(tasks), task_manager=manager, limit=limit, log_samples=False,
                                          batch_size=lm.batch, device=str(job.device))  # fmt: skip
            text = json.dumps(result, indent=2, default=handle_non_serializable, ensure_ascii=False)
            write_atomic(job.run / "lm_eval" / f"{name.replace('/', '_')}.json", text.encode())
            rows += [{"name": name, "path": str(checkpoint.path), **row} for row in _rows(result)]
    summary = {"schema": TASKS_SCHEMA, "device": device_name(job.device), "limit": limit, "include": include, "rows": rows}
    write_json(job.run / FILE, check_measured(summary, TasksFile))
    return summary


def _rows(result: dict[str, Any]) -> list[dict[str, Any]]:
    """lm-eval's {task: {"acc,none": value, "acc_stderr,none": error}} as one row a task and metric."""
    rows = []
    for task, metrics in result["results"].items():
        for key, value in metrics.items():
            metric, _, of = key.partition(",")
            if not of or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            error = metrics.get(f"{metric}_stderr,{of}")
            rows.append({
                "task": task, "metric": metric if of == "none" else key, "value": float(value),
                "stderr": float(error) if isinstance(error, int | float) else None,
                "higher_is_better": result.get("higher_is_better", {}).get(task, {}).get(metric),
                "samples": result.get("n-samples", {}).get(task, {}).get("effective"),
            })  # fmt: skip
    return rows


def _manager(tasks: list[str], include: Path | None) -> Any:
    from lm_eval.tasks import TaskManager

    if include is not None and not include.is_dir():
        raise UserError("The folder of task files is not there.", got=include, allowed="a folder with YAML task files",
                        next="Name another with --include.")  # fmt: skip
    if include is not None:  # reading lm-eval's own 14,000 tasks takes seconds: not where the folder has all
        manager = TaskManager(include_path=str(include), include_defaults=False)
        if set(tasks) <= set(manager.all_tasks):
            return manager
    manager = TaskManager(include_path=None if include is None else str(include))
    for task in tasks:
        if task not in manager.all_tasks:
            near = difflib.get_close_matches(task, manager.all_tasks, n=5) or ["no similar one"]
            raise UserError("lm-eval knows no such task.", got=task, allowed=", ".join(near),
                            next="Run lm_eval ls tasks for all, or name a folder of task files with --include.")  # fmt: skip
    return manager


def _check_installed() -> None:
    if importlib.util.find_spec("lm_eval") is None:
        raise UserError("lm-eval, whose tasks --tasks runs, is not installed.", got="no package lm_eval",
                        allowed="lm-eval 0.4.9 or later", next='pip install "minipuzzle[hf]"')  # fmt: skip
