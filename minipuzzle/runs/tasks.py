"""Stage eval --tasks: lm-eval's tasks on teacher, pruned and student; its own JSON in run/lm_eval,
a summary in tasks.json.
"""

from __future__ import annotations

import difflib
import importlib.util
import json
import logging
import os
import re
from pathlib import Path
from typing import Any

from minipuzzle.artifacts import read_json, write_atomic
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.errors import UserError
from minipuzzle.records import TaskRow, TasksResult
from minipuzzle.runs.device import device_name
from minipuzzle.runs.evaluate import named_checkpoints
from minipuzzle.runs.job import Job
from minipuzzle.training import check_vocabularies, mixed_precision

log = logging.getLogger(__name__)

FILE = "tasks.json"
_NAME = re.compile(
    rb"""^["']?(?:task|group|tag)["']?[ \t]*:[ \t]*["']?([\w.+/-]+)["']?[ \t]*$""", re.MULTILINE
)
"""Names in task files, most of them: for what is near to an unknown one."""


def run_tasks(
    job: Job, others: list[Path], tasks: list[str], include: Path | None, limit: int | None
) -> TasksResult:
    """Run ``tasks``, as ``check_tasks`` returns them, on the run's checkpoints (or the teacher and
    ``others``), ``limit`` examples of each or all.

    ``include`` is a folder with task files of lm-eval (YAML), which may name local data files.
    Returns the rows of tasks.json: a task's metric on a checkpoint, with its standard error.
    Raises: UserError where lm-eval is not installed, a task is unknown or its data cannot be had.
    """
    try:
        from lm_eval import simple_evaluate
        from lm_eval.utils import handle_non_serializable

        from minipuzzle.harness import HarnessLM, generation
    except ImportError as error:
        raise _not_installed(error) from error
    manager, loaded = _manager(tasks, include)
    checkpoints = named_checkpoints(job, others)
    for checkpoint in checkpoints.values():  # before hours of tasks that can be run
        for task in loaded:
            if task.OUTPUT_TYPE == "generate_until":
                generation(task.config.generation_kwargs or {}, _context(checkpoint))
    rows: list[TaskRow] = []
    with mixed_precision(job.device):
        for name, checkpoint in checkpoints.items():
            check_vocabularies(
                checkpoint.architecture.vocab_size, job.parent.architecture.vocab_size
            )
            model = job.parent_model if checkpoint is job.parent else job.load_frozen(checkpoint)
            log.info(f"tasks: {name}")
            lm = HarnessLM(
                model, job.tokenizer, name=str(checkpoint.path), max_length=_context(checkpoint)
            )
            result: Any = simple_evaluate(
                lm,
                tasks=list(tasks),
                task_manager=manager,
                limit=limit,
                log_samples=False,
                batch_size=lm.batch,
                device=str(job.device),
            )
            text = json.dumps(result, indent=2, default=handle_non_serializable, ensure_ascii=False)
            write_atomic(job.run / "lm_eval" / f"{name.replace('/', '_')}.json", text.encode())
            rows += _rows(result, name, checkpoint.path)
    summary = TasksResult(
        device=device_name(job.device),
        limit=limit,
        include=None if include is None else str(include),
        rows=tuple(rows),
    ).checked()
    summary.save(job.run / FILE)
    return summary


def _rows(result: dict[str, Any], name: str, path: Path) -> list[TaskRow]:
    """lm-eval's {task: {"acc,none": value, "acc_stderr,none": error}} as one row a task and
    metric.
    """
    rows = []
    for task, metrics in result["results"].items():
        for key, value in metrics.items():
            metric, _, of = key.partition(",")
            if not of or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            error = metrics.get(f"{metric}_stderr,{of}")
            rows.append(
                TaskRow(
                    name=name,
                    path=str(path),
                    task=task,
                    metric=metric if of == "none" else key,
                    value=float(value),
                    stderr=float(error) if isinstance(error, int | float) else None,
                    higher_is_better=(result.get("higher_is_better", {}).get(task, {}).get(metric)),
                    samples=result.get("n-samples", {}).get(task, {}).get("effective"),
                )
            )
    return rows


def check_tasks(named: str, include: Path | None, limit: int | None) -> list[str]:
    """The tasks in ``named`` (a,b,c). Raises: UserError for what can be told without a model,
    lm-eval's index or the network.
    """
    tasks = list(dict.fromkeys(name.strip() for name in named.split(",") if name.strip()))
    if limit is not None and limit < 1:
        raise UserError(
            "There is nothing to measure.",
            got=f"eval.limit {limit}",
            allowed="at least 1",
            next="Change eval.limit.",
        )
    found = importlib.util.find_spec("lm_eval")
    if found is None or not found.submodule_search_locations:
        raise _not_installed("no package lm_eval")
    if include is not None and not include.is_dir():
        raise UserError(
            "The folder of task files is not there.",
            got=include,
            allowed="a folder with YAML task files",
            next="Name another with eval.include.",
        )
    own = Path(found.submodule_search_locations[0]) / "tasks"
    unknown = set(tasks)
    names: set[str] = set()
    for root in (own,) if include is None else (include, own):
        if tasks and not unknown:
            break
        for folder, _, files in os.walk(root):
            for file in files:
                if file.endswith(".yaml") or "." not in file:
                    data = Path(folder, file).read_bytes()
                    unknown -= {name for name in unknown if name.encode() in data}
                    names.update(name.decode(errors="replace") for name in _NAME.findall(data))
    if unknown or not tasks:
        raise _unknown(min(unknown, default="none"), sorted(names))
    return tasks


def _manager(tasks: list[str], include: Path | None) -> tuple[Any, list[Any]]:
    """lm-eval's list of tasks, and the named ones with their data: those of a group one by one."""
    from lm_eval.tasks import TaskManager

    manager = None
    if (
        include is not None
    ):  # reading lm-eval's own 14,000 tasks takes seconds: not where the folder has all
        manager = TaskManager(include_path=str(include), include_defaults=False)
    if manager is None or not set(tasks) <= set(manager.all_tasks):
        log.info("reading lm-eval's list of tasks ...")
        manager = TaskManager(include_path=None if include is None else str(include))
    for task in tasks:
        if task not in manager.all_tasks:
            raise _unknown(task, manager.all_tasks)
    loaded: list[Any] = []
    for task in tasks:
        try:
            loaded += manager.load([task])["tasks"].values()
        except (
            Exception
        ) as error:  # a task is code of others, and what it loads may fail in any way
            raise UserError(
                f"The task {task} cannot be loaded.",
                got=f"{type(error).__name__}: {str(error)[:300]}",
                allowed=(
                    "a task whose packages are installed, with data that is here or can be"
                    " downloaded"
                ),
                next="Run it once where there is a network, or leave it out of eval.tasks.",
            ) from error
    return manager, loaded


def _unknown(task: str, names: list[str]) -> UserError:
    near = (
        difflib.get_close_matches(task, names, n=5)
        or [n for n in names if task in n][:5]
        or ["no similar one"]
    )
    return UserError(
        "lm-eval knows no such task.",
        got=task,
        allowed=", ".join(near),
        next="Run lm_eval ls tasks for all, or name a folder of task files with eval.include.",
    )


def _context(checkpoint: Checkpoint) -> int:
    """The model's context in tokens, as lm-eval takes it: where its config names none its
    tokenizer's, else 2048.
    """
    if checkpoint.config.get("model_type") != "mamba2":
        return checkpoint.architecture.max_positions
    file = checkpoint.path / "tokenizer_config.json"
    named = read_json(file).get("model_max_length") if file.is_file() else None
    return named if isinstance(named, int) and 0 < named < 10**9 else 2048


def _not_installed(got: object) -> UserError:
    return UserError(
        "lm-eval, which runs eval.tasks, is not installed.",
        got=got,
        allowed="lm-eval 0.4.9 or later",
        next='pip install "minipuzzle[hf]"',
    )
