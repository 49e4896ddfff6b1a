"""minipuzzle distill: heal the best candidates with the original as teacher."""

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
from minipuzzle.settings import (
    FASTEST,
    AdapterSettings,
    Checkpointing,
    Data,
    DistillSettings,
    Precision,
    Training,
    parse_count,
)

OURS = DistillSettings()
LONG, ADAPTER = OURS.training, OURS.adapter


def distill(
    run: Run = RUN,
    teacher: Annotated[Path | None, typer.Option(help="Teacher (default: the parent).")] = None,
    data: Annotated[str, typer.Option(help="Training text.")] = Data.train,
    validation: Annotated[str, typer.Option(help="Validation text.")] = Data.validation,
    tokens: Annotated[str, typer.Option(help="Tokens of the long run: 2000000, 3M, 63B.")] = str(
        LONG.tokens
    ),
    short_tokens: Annotated[str, typer.Option(help="Tokens of each short run.")] = str(
        OURS.short_tokens
    ),
    loss: Annotated[
        str,
        typer.Option(help="A divergence, losses, or a sum with weights: forward-kl+0.1*cosine."),
    ] = OURS.loss,
    precision: Annotated[Precision, typer.Option(help="Of the blocks' products.")] = LONG.precision,
    teacher_precision: Annotated[
        Precision, typer.Option(help="The same for the teacher.")
    ] = OURS.teacher_precision,
    bf16_ends: Annotated[
        int, typer.Option(help="Blocks at either end that FP8 leaves in BF16.")
    ] = LONG.bf16_ends,
    adapter: Annotated[
        str, typer.Option(help="Train only an adapter (tl6, lora, ...), then merge it.")
    ] = ADAPTER.kind,
    rank: Annotated[int, typer.Option(help="Of the adapter.")] = ADAPTER.rank,
    target: Annotated[
        str, typer.Option(help="Projections that the adapter is on.")
    ] = ADAPTER.target,
    teacher_logits: Annotated[
        str, typer.Option(help="Folder: ask the teacher once, train from what is stored.")
    ] = OURS.teacher_logits,
    teacher_keep: Annotated[
        str, typer.Option(help="What is stored of a token: top-K or sampled-K words.")
    ] = OURS.teacher_keep,
    micro_batch: Annotated[
        int, typer.Option(help="Blocks a process takes at once (0: its share of the batch).")
    ] = LONG.micro_batch,
    replicas: Annotated[
        int, typer.Option(help="torchrun: whole copies of the model, each sharded (HSDP).")
    ] = LONG.replicas,
    save_every: Annotated[
        float, typer.Option(help="Least seconds between saved states.")
    ] = LONG.save_every,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Also write TensorBoard scalars.")
    ] = LONG.tensorboard,
    activation_checkpointing: Annotated[
        Checkpointing, typer.Option(help="Recompute blocks in backward.")
    ] = LONG.activation_checkpointing,
    plan: Annotated[
        bool, typer.Option("--plan", help="Only print what it takes: configs are enough.")
    ] = False,
    student: Annotated[
        Path | None, typer.Option(help="--plan: folder with the student's config.json.")
    ] = None,
    mfu: Annotated[
        float, typer.Option(help="--plan: share of the GPU's peak that is reached.")
    ] = 0.35,
    gpu: Annotated[str, typer.Option(help="--plan: h100, h200, a100.")] = "h100",
    learning_rate: Annotated[
        str,
        typer.Option(
            help="One, or several to try in short runs of the first candidate: 5e-5,5e-4."
        ),
    ] = "auto",
    batch: int = LONG.batch,
    seed: int = LONG.seed,
    length: Length = Data.length,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Prune if needed, distil the candidates briefly, then the winner for long."""
    rates, long, short = _rates(learning_rate), parse_count(tokens), parse_count(short_tokens)
    settings = DistillSettings(
        rates=rates if len(rates) > 1 else (),
        short_tokens=short,
        loss=loss,
        teacher_precision=teacher_precision,
        teacher_logits=teacher_logits,
        teacher_keep=teacher_keep,
        adapter=AdapterSettings(kind=adapter, rank=rank, target=target),
        training=Training(
            tokens=long,
            batch=batch,
            learning_rate=rates[0] if len(rates) == 1 else 0.0,
            seed=seed,
            precision=precision,
            bf16_ends=bf16_ends,
            activation_checkpointing=activation_checkpointing,
            micro_batch=micro_batch,
            replicas=replicas,
            tensorboard=tensorboard,
            save_every=save_every,
        ),
    )
    if plan:
        _print_plan(teacher, student, long, length, max(1, micro_batch), mfu, gpu, as_json)
        return
    with command(run):
        from minipuzzle.records import Distilled
        from minipuzzle.runs.distill import run_distill

        job = make_job(run, None, Data(train=data, validation=validation, length=length), device)
        made = run_distill(job, settings, teacher)
        if as_json:
            done = job.run.stage(Distilled)
            print_json({"path": str(made.path), "parameters": made.parameters, **done.json()})
        else:
            out.print(
                f"student: {made.path}  {made.parameters:,} parameters    next: minipuzzle eval"
            )


def _rates(text: str) -> tuple[float, ...]:
    """The rates that are named: none for "auto"."""
    if text == "auto":
        return ()
    try:
        rates = tuple(float(part) for part in text.split(","))
    except ValueError:
        rates = ()
    if not rates or not all(0 < rate <= FASTEST for rate in rates):
        raise UserError(
            "--learning-rate is not a rate.",
            got=text,
            allowed="auto, a rate, or several: 5e-5,1.5e-4,5e-4",
            next="Leave it out to try several.",
        )
    return rates


def _print_plan(
    teacher: Path | None,
    student: Path | None,
    tokens: int,
    length: int,
    micro_batch: int,
    mfu: float,
    gpu: str,
    as_json: bool,
) -> None:
    from minipuzzle.checkpoint.config import read_config
    from minipuzzle.cost.distill_plan import DistillPlan
    from minipuzzle.report.plan import distill_plan_view

    if teacher is None or student is None:
        raise UserError(
            "A plan needs two models.",
            got=f"--teacher {teacher}, --student {student}",
            allowed="folders with a config.json; no weights are needed",
            next="For example docs/examples/nemotron-h-56b and docs/examples/nemotron-h-47b.",
        )
    made = DistillPlan(
        student=read_config(student)[1],
        teacher=read_config(teacher)[1],
        tokens=tokens,
        length=length,
        micro_batch=micro_batch,
        mfu=mfu,
        device=gpu,
    ).summary()
    if as_json:
        print_json(made)
    else:
        out.print(distill_plan_view(made))
