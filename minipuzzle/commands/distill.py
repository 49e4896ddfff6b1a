"""minipuzzle distill: heal the best candidates with the original as teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from minipuzzle.commands._shared import RUN, Device, Json, Length, Run, command, make_job, out, print_json
from minipuzzle.recipe import DEFAULT_LOSS, EMBEDDED, Data, DistillSettings, Precision, Training


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
            teacher_logits: Annotated[str, typer.Option(help="Folder: ask the teacher once, train from what is stored.")] = "",
            teacher_keep: Annotated[str, typer.Option(help="What is stored of a token: top-K or sampled-K words.")] = "top-64",
            micro_batch: Annotated[int, typer.Option(help="Blocks a process takes at once (0: its share of the batch).")] = 0,
            replicas: Annotated[int, typer.Option(help="torchrun: whole copies of the model, each sharded (HSDP).")] = 1,
            tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Also write TensorBoard scalars.")] = False,
            batch: int = 8, learning_rate: float = 5e-4, seed: int = 0, length: Length = 512,
            device: Device = "auto", as_json: Json = False) -> None:  # fmt: skip
    """Prune if needed, distil the candidates briefly, then the winner for long."""
    settings = DistillSettings(
        short_tokens=short_tokens, loss=loss, teacher_precision=teacher_precision, teacher_logits=teacher_logits,
        teacher_keep=teacher_keep,
        training=Training(tokens=tokens, batch=batch, learning_rate=learning_rate, seed=seed,
                          precision=precision, bf16_ends=bf16_ends, micro_batch=micro_batch, replicas=replicas,
                          tensorboard=tensorboard),
    )
    with command(run):
        from minipuzzle.stages.distill import run_distill, summary

        job = make_job(run, None, Data(train=data, validation=validation, length=length), device)
        student = run_distill(job, settings, teacher)
        if as_json:
            print_json({"path": str(student.path), "parameters": student.parameters, **summary(job)})
        else:
            out.print(f"student: {student.path}  {student.parameters:,} parameters    next: minipuzzle eval")
