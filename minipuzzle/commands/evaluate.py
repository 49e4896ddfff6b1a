"""minipuzzle eval: teacher, pruned model and student side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from minipuzzle.commands._shared import (
    RUN,
    Device,
    Json,
    Length,
    Run,
    command,
    make_job,
    out,
    print_json,
)
from minipuzzle.errors import UserError
from minipuzzle.settings import Data


def evaluate(
    checkpoints: Annotated[
        list[Path] | None, typer.Argument(help="Others to compare with the parent.")
    ] = None,
    run: Run = RUN,
    parent: Annotated[
        Path | None, typer.Option(help="What they are compared with (default: the run's).")
    ] = None,
    data: Annotated[str, typer.Option(help="Validation text.")] = Data.validation,
    tasks: Annotated[str, typer.Option(help="Tasks of lm-eval in place of the text: a,b,c.")] = "",
    include: Annotated[
        Path | None, typer.Option(help="Folder of lm-eval task files (YAML) to know too.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Only so many examples of each task.")] = None,
    length: Length = Data.length,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Measure teacher, pruned model and student side by side, on a text or on lm-eval's tasks."""
    if tasks:
        if data != Data.validation:
            raise UserError(
                "lm-eval's tasks bring their own texts.",
                got=f"--tasks and --data {data}",
                allowed="one of them",
                next="Run eval twice.",
            )
        _tasks(run, parent, checkpoints or [], tasks, include, limit, device, as_json)
        return
    if include is not None or limit is not None:
        raise UserError(
            "--include and --limit are about tasks, and none was named.",
            got=include or limit,
            allowed="them together with --tasks",
            next="Add --tasks NAME.",
        )
    with command(run):
        from minipuzzle.report.evaluated import eval_table
        from minipuzzle.runs.evaluate import run_eval

        result = run_eval(
            make_job(run, parent, Data(validation=data, length=length), device), checkpoints or []
        )
        if as_json:
            print_json(result.json())
        else:
            out.print(eval_table(result))


def _tasks(
    run: Path,
    parent: Path | None,
    checkpoints: list[Path],
    tasks: str,
    include: Path | None,
    limit: int | None,
    device: str,
    as_json: bool,
) -> None:
    with command(run):
        from minipuzzle.report.evaluated import tasks_table
        from minipuzzle.runs.tasks import check_tasks, run_tasks

        checked = check_tasks(tasks, include, limit)
        result = run_tasks(
            make_job(run, parent, Data(), device), checkpoints, checked, include, limit
        )
        if as_json:
            print_json(result.json())
        else:
            out.print(tasks_table(result))
            out.print(f"lm-eval's own results: {run / 'lm_eval'}", soft_wrap=True)
