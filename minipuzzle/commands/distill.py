"""minipuzzle distill: heal the best candidates with the original as teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from minipuzzle.commands._shared import RUN, Device, Json, Length, Run, command, make_job, out, print_json
from minipuzzle.recipe import DEFAULT_LOSS, EMBEDDED, Checkpointing, Data, DistillSettings, Precision, Training


def distill(run: Run = RUN,
            teacher: Annotated[Path | None, typer.Option(help="Teacher (default: the parent).")] = None,
            data: Annotated[str, typer.Option(help="Training text.")] = EMBEDDED,
            validation: Annotated[str, typer.Option(help="Validation text.")] = EMBEDDED,
            tokens: Annotated[int, typer.Option(help="Tokens of the long run.")] = 2_000_000,
            short_tokens: Annotated[int, typer.Option(help="Tokens of each short run.")] = 200_000,
            loss: Annotated[str, typer.Option(help="forward-kl, reverse-kl, jsd, top-k, cosine, cross-entropy, or a sum: "
                                                   "forward-kl+0.1*cosine.")] = DEFAULT_LOSS,
            precision: Annotated[Precision, typer.Option(help="Of the blocks' products.")] = "bf16",
            teacher_precision: Annotated[Precision, typer.Option(help="The same for the teacher.")] = "bf16",
            bf16_ends: Annotated[int, typer.Option(help="Blocks at either end that FP8 leaves in BF16.")] = 4,
            activation_checkpointing: Annotated[Checkpointing, typer.Option(help="Recompute blocks in backward.")] = "auto",
            batch: int = 8, learning_rate: float = 5e-4, seed: int = 0, length: Length = 512,
            device: Device = "auto", as_json: Json = False) -> None:  # fmt: skip
    """Prune if needed, distil the candidates briefly, then the winner for long."""
    settings = DistillSettings(
        short_tokens=short_tokens, loss=loss, teacher_precision=teacher_precision,
        training=Training(tokens=tokens, batch=batch, learning_rate=learning_rate, seed=seed,
                          precision=precision, bf16_ends=bf16_ends, activation_checkpointing=activation_checkpointing),
    )
    with command(run):
        from minipuzzle.stages.distill import run_distill, summary

        job = make_job(run, None, Data(train=data, validation=validation, length=length), device)
        student = run_distill(job, settings, teacher)
        if as_json:
            print_json({"path": str(student.path), "parameters": student.parameters, **summary(job)})
        else:
            out.print(f"student: {student.path}  {student.parameters:,} parameters    next: minipuzzle eval")
