"""minipuzzle search: the architectures that fit a budget, realised and ranked."""

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
    config_only,
    make_job,
    out,
    print_json,
)
from minipuzzle.settings import Data, Method, SearchSettings

OURS = SearchSettings()


def search(
    checkpoint: Annotated[
        Path | None, typer.Argument(help="Checkpoint, or a folder with only a config.json.")
    ] = None,
    budget: Annotated[
        list[str] | None, typer.Option(help="47B, 83%, 31.7GiB; may be repeated.")
    ] = None,
    run: Run = RUN,
    context: str = OURS.context,
    batch: int = OURS.batch,
    prompt: Annotated[str, typer.Option(help="Budgets of time: tokens read.")] = OURS.prompt,
    output: Annotated[str, typer.Option(help="Budgets of time: tokens written.")] = OURS.output,
    latency: Annotated[
        str, typer.Option(help="Table of minipuzzle profile (default: the run's).")
    ] = OURS.latency,
    roofline: Annotated[
        str, typer.Option(help="Estimate times for h100, h200, a100, rtx5090.")
    ] = OURS.roofline,
    target_device: Annotated[
        str, typer.Option(help="Refuse a latency table of another device.")
    ] = OURS.target_device,
    target_dtype: Annotated[
        str, typer.Option(help="Refuse a latency table of another dtype.")
    ] = OURS.target_dtype,
    weights: str = OURS.weights,
    kv: str = OURS.kv,
    state: str = OURS.state,
    candidates: Annotated[int, typer.Option(help="Candidates to realise.")] = OURS.candidates,
    top: Annotated[int, typer.Option(help="Candidates to keep; 0: 3, with solver 9.")] = OURS.top,
    multiple: Annotated[
        int, typer.Option(help="FFN widths are multiples of this.")
    ] = OURS.multiple,
    mamba_heads: Annotated[
        bool, typer.Option("--mamba-heads", help="Also narrow Mamba heads.")
    ] = OURS.mamba_heads,
    hidden_size: Annotated[
        bool, typer.Option("--hidden-size", help="Also narrow the model.")
    ] = OURS.hidden_size,
    min_keep: Annotated[
        list[str] | None,
        typer.Option(help="Bound the space: attention=50%, others=83%, width=75%, hidden=75%."),
    ] = None,
    method: Annotated[
        Method, typer.Option(help="minipuzzle: the paper's grid. solver: also block by block.")
    ] = OURS.method,
    uniform: Annotated[
        bool, typer.Option("--uniform", help="Solver: one FFN width for all blocks.")
    ] = OURS.uniform,
    per_block_heads: Annotated[
        bool, typer.Option("--per-block-heads", help="Solver: Mamba heads block by block.")
    ] = OURS.per_block_heads,
    kv_heads: Annotated[
        bool, typer.Option("--kv-heads", help="Solver: also drop KV groups.")
    ] = OURS.kv_heads,
    refine: Annotated[int, typer.Option(help="Solver: moves tried by local search.")] = OURS.refine,
    data: Annotated[str, typer.Option(help="Validation text.")] = Data.validation,
    validation_blocks: int = OURS.validation_blocks,
    length: Length = Data.length,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Find the architectures that fit the budget, realise them as masks and keep the best."""
    settings = SearchSettings(
        budget=tuple(budget or ()),
        context=context,
        batch=batch,
        weights=weights,
        kv=kv,
        state=state,
        candidates=candidates,
        validation_blocks=validation_blocks,
        top=top,
        multiple=multiple,
        mamba_heads=mamba_heads,
        hidden_size=hidden_size,
        min_keep=tuple(min_keep or ()),
        method=method,
        uniform=uniform,
        per_block_heads=per_block_heads,
        kv_heads=kv_heads,
        refine=refine,
        prompt=prompt,
        output=output,
        latency=latency,
        roofline=roofline,
        target_device=target_device,
        target_dtype=target_dtype,
    )
    settings.check_budget()
    from minipuzzle.nas.plan import make_plan
    from minipuzzle.report.tables import candidates_table, plan_view

    if checkpoint is not None and config_only(checkpoint):
        from minipuzzle.checkpoint.config import read_config
        from minipuzzle.nas.timing import load_timing

        plan = make_plan(
            read_config(checkpoint)[1], settings, load_timing(settings, run / "latency.json")
        )
        if as_json:
            print_json({**plan.summary(), "maximal": plan.maximal()})
        else:
            for sentence in plan.sentences():
                out.print(sentence)
            out.print(plan_view(plan.summary(), plan.maximal()))
        return
    with command(run):
        from minipuzzle.runs.search import run_search

        job = make_job(run, checkpoint, Data(validation=data, length=length), device)
        result = run_search(job, settings)
        if as_json:
            print_json(result)
        else:
            out.print(candidates_table(result))
            if "front" in result:
                from minipuzzle.report.plots import draw_front
                from minipuzzle.report.svg import save_png

                save_png(lambda axes: draw_front(axes, result), run / "pareto.png")
                out.print(f"picture: {run / 'pareto.png'}")
            out.print(f"search: {run / 'search.json'}    next: minipuzzle distill")
