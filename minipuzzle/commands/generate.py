"""minipuzzle generate: what a model says."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from minipuzzle.commands._shared import RUN, Device, Run, student
from minipuzzle.errors import UserError


def generate(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[CHECKPOINT] PROMPT", help="Without a checkpoint the run's student speaks."
        ),
    ],
    run: Run = RUN,
    tokens: Annotated[int, typer.Option(help="At most so many new ones.")] = 128,
    temperature: Annotated[
        float, typer.Option(help="0 takes the likeliest token each time.")
    ] = 0.0,
    top_p: Annotated[
        float, typer.Option(help="Draw only from the likeliest tokens of so much probability.")
    ] = 1.0,
    seed: int = 0,
    dtype: Annotated[
        str, typer.Option(help="auto (bf16 on CUDA, fp32 elsewhere), fp32, bf16.")
    ] = "auto",
    device: Device = "auto",
) -> None:
    """Continue a text, shown as it comes: does the pruned model still speak?"""
    if len(words) > 2 or (len(words) == 1 and (Path(words[0]) / "config.json").is_file()):
        raise UserError(
            "One prompt is wanted, after a checkpoint or alone.",
            got=" ".join(words),
            allowed="[CHECKPOINT] PROMPT",
            next='Put the prompt in quotes: minipuzzle generate CHECKPOINT "It was".',
        )
    checkpoint = Path(words[0]) if len(words) == 2 else student(run)
    from minipuzzle.generation import Sampling
    from minipuzzle.runs.generate import run_generate

    sampling = Sampling(temperature=temperature, top_p=top_p, seed=seed)
    pieces = run_generate(
        checkpoint, words[-1], tokens=tokens, sampling=sampling, device=device, dtype=dtype
    )
    for i, piece in enumerate(pieces):
        shown = piece if i else words[-1] + piece
        encoding = sys.stdout.encoding or "utf-8"  # a terminal may not have all characters
        sys.stdout.write(shown.encode(encoding, "replace").decode(encoding))
        sys.stdout.flush()
