"""minipuzzle profile: times of every distinct block on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from minipuzzle.commands._shared import RUN, Device, Json, Run, command, out, print_json
from minipuzzle.rundir import RunDir
from minipuzzle.settings import Generation, check, parse_work


def profile(
    checkpoint: Annotated[
        Path | None, typer.Argument(help="Checkpoint, or a folder with only a config.json.")
    ] = None,
    run: Run = RUN,
    workload: Annotated[
        list[str] | None, typer.Option(help="b1,p8k,o1k: batch, prompt, output; may be repeated.")
    ] = None,
    widths: Annotated[
        int, typer.Option(help="Sizes of each axis to time, from whole to an eighth.")
    ] = 6,
    dtype: Annotated[
        str, typer.Option(help="auto (bf16 on CUDA, fp32 elsewhere), fp32, bf16.")
    ] = "auto",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Time every distinct block on this machine, so that search can meet budgets of time."""
    works = [parse_work(text) for text in workload or [str(Generation())]]
    check("widths", widths, 1, 64)
    with command(run):
        from minipuzzle.checkpoint.config import read_config
        from minipuzzle.report.latency import profile_table
        from minipuzzle.runs.job import choose_checkpoint
        from minipuzzle.runs.profile import run_profile

        path = choose_checkpoint(checkpoint, RunDir(run))
        table = run_profile(
            read_config(path)[1],
            works,
            run / "latency.json",
            device=device,
            dtype=dtype,
            widths=widths,
        )
        if as_json:
            print_json(table.meta)
        else:
            out.print(profile_table(table))
            out.print(f"table: {run / 'latency.json'}    next: minipuzzle search --budget 1.2x")
