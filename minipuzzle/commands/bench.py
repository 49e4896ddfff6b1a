"""minipuzzle bench: speed and memory of models in turn."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from minipuzzle.commands._shared import Device, Json, out, print_json
from minipuzzle.errors import UserError
from minipuzzle.settings import Generation, parse_count


def bench(
    checkpoints: Annotated[
        list[Path],
        typer.Argument(
            help="Checkpoints, or folders with only a config.json (random "
            "weights); ratios are to the first."
        ),
    ],
    prompt: Annotated[str, typer.Option(help="Tokens read, such as 65536 or 128k.")] = "8192",
    output: Annotated[str, typer.Option(help="Tokens said after them.")] = "1024",
    batch: Annotated[
        str, typer.Option(help="Prompts at once; auto: as many as fit by the estimate.")
    ] = "1",
    dtype: Annotated[
        str, typer.Option(help="auto (bf16 on CUDA, fp32 elsewhere), fp32, bf16.")
    ] = "auto",
    weights: Annotated[
        str, typer.Option(help="auto (as --dtype), or fp8: blocks in a byte a value.")
    ] = "auto",
    state: Annotated[str, typer.Option(help="Mamba states: auto (fp32), fp32, bf16.")] = "auto",
    seconds: Annotated[
        float | None,
        typer.Option(
            help="At most about so long for each phase of each model; what is left "
            "is taken in proportion."
        ),
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Only predict memory, on cards of 80 and 141 GB.")
    ] = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Measure time to the first token, tokens a second and memory of several models in turn."""
    tokens, following = parse_count(prompt), parse_count(output)
    together = None if batch == "auto" else _batch(batch)
    if seconds is not None and not seconds >= 0:
        raise UserError(
            "No phase can be measured in so long.",
            got=seconds,
            allowed="seconds, 0 or more",
            next="Change --seconds.",
        )
    if weights not in ("auto", "fp8"):
        raise UserError(
            "Weights cannot be held so.", got=weights, allowed="auto, fp8", next="Change --weights."
        )
    from minipuzzle.report.bench import bench_table, plan_table
    from minipuzzle.runs.bench import plan_bench, run_bench

    if plan:
        rows = plan_bench(checkpoints, prompt=tokens, output=following, dtype=dtype, state=state)
        if as_json:
            print_json(rows)
        else:
            out.print(plan_table(rows, tokens, following))
        return
    work = Generation(batch=together or 1, prompt=tokens, output=following)
    result = run_bench(
        checkpoints,
        work if together else None,
        prompt=tokens,
        output=following,
        device=device,
        dtype=dtype,
        state=state,
        seconds=float("inf") if seconds is None else seconds,
        fp8_weights=weights == "fp8",
    )
    if as_json:
        print_json(result)
    else:
        out.print(bench_table(result))


def _batch(text: str) -> int:
    if not re.fullmatch("[0-9]{1,12}", text) or int(text) == 0:
        raise UserError(
            "This is no batch.",
            got=text,
            allowed="auto or a number above 0",
            next="Change --batch.",
        )
    return int(text)
