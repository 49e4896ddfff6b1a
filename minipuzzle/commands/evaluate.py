"""minipuzzle eval: teacher, pruned model and student side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from minipuzzle.commands._shared import RUN, Device, Json, Length, Run, command, make_job, out, print_json
from minipuzzle.recipe import EMBEDDED, Data


def evaluate(checkpoints: Annotated[list[Path] | None, typer.Argument(help="Others to compare with the parent.")] = None,
             run: Run = RUN, data: Annotated[str, typer.Option(help="Validation text.")] = EMBEDDED,
             length: Length = 512, device: Device = "auto", as_json: Json = False) -> None:  # fmt: skip
    """Measure teacher, pruned model and student side by side."""
    with command(run):
        from minipuzzle.report.tables import eval_table
        from minipuzzle.stages.evaluate import run_eval

        result = run_eval(make_job(run, None, Data(validation=data, length=length), device), checkpoints or [])
        if as_json:
            print_json(result)
        else:
            out.print(eval_table(result))
