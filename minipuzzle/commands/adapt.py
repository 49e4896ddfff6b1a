"""minipuzzle adapt: LoRA, Tied-LoRA and what lies between, on weights that stay as they are."""

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
from minipuzzle.settings import ADAPT_RATE, AdapterSettings, Data, Precision, Training, parse_count

OURS, NONE = Training(), AdapterSettings()


def adapt(
    checkpoint: Annotated[
        Path | None, typer.Argument(help="Checkpoint (default: the run's).")
    ] = None,
    run: Run = RUN,
    data: Annotated[
        str, typer.Option(help="Text, or JSON lines of prompt and answer.")
    ] = Data.train,
    adapter: Annotated[
        str, typer.Option(help="lora, tl5, tl6, vera, or a mask: tied:A,u,v, layer:A,B,u,v.")
    ] = "tl6",
    rank: int = NONE.rank,
    alpha: Annotated[float, typer.Option(help="Scales by alpha/rank (0: the rank).")] = NONE.alpha,
    target: Annotated[
        str,
        typer.Option(
            help="Projections (in, out, up, down, q, k, v, o, qkv), kinds of blocks, all."
        ),
    ] = NONE.target,
    few: Annotated[
        bool, typer.Option("--few", help="Under 10 % of the blocks is meant.")
    ] = NONE.few,
    teacher: Annotated[
        Path | None, typer.Option(help="Learn from this checkpoint's distribution.")
    ] = None,
    tokens: Annotated[str, typer.Option(help="Tokens to train on: 2000000, 3M, 63B.")] = str(
        OURS.tokens
    ),
    batch: int = OURS.batch,
    learning_rate: float = ADAPT_RATE,
    precision: Annotated[
        Precision, typer.Option(help="Of the frozen blocks' products.")
    ] = OURS.precision,
    bf16_ends: Annotated[
        int, typer.Option(help="Blocks at either end that FP8 leaves in BF16.")
    ] = OURS.bf16_ends,
    save_every: Annotated[
        float, typer.Option(help="Least seconds between saved states.")
    ] = OURS.save_every,
    seed: int = OURS.seed,
    length: Length = Data.length,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Train an adapter beside frozen weights, with cross-entropy or with a teacher."""
    kind = AdapterSettings(kind=adapter, rank=rank, alpha=alpha, target=target, few=few)
    training = Training(
        tokens=parse_count(tokens),
        batch=batch,
        learning_rate=learning_rate,
        seed=seed,
        precision=precision,
        bf16_ends=bf16_ends,
        save_every=save_every,
    )
    with command(run):
        from minipuzzle.runs.adapt import AdaptSettings, run_adapt

        job = make_job(run, checkpoint, Data(train=data, length=length), device)
        file, done = run_adapt(job, AdaptSettings(adapter=kind, training=training), teacher)
        if as_json:
            print_json({"path": str(file), "bytes": file.stat().st_size, **done.json()})
        else:
            size = file.stat().st_size
            out.print(
                f"adapter: {file}  {size:,} bytes    next: minipuzzle merge CHECKPOINT {file}",
                soft_wrap=True,
            )
