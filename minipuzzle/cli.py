"""The commands. Each fills a frozen settings object and calls one stage; nothing here imports torch until it must."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from minipuzzle.budget import parse_work
from minipuzzle.errors import UserError
from minipuzzle.recipe import (
    EMBEDDED,
    Data,
    DistillSettings,
    Method,
    PretrainRecipe,
    Recipe,
    ScoreSettings,
    SearchSettings,
    Training,
    load_recipe,
)
from minipuzzle.rundir import RunDir

if TYPE_CHECKING:
    from minipuzzle.stages.job import Job

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
    help="Compress hybrid Mamba-Transformer language models: score, search, prune, distil.",
)  # fmt: skip
FIRST = os.environ.get("RANK", "0") == "0"  # of the processes of a torchrun only the first prints
out = Console(highlight=False, width=None if sys.stdout.isatty() else 132, quiet=not FIRST)

Run = Annotated[Path, typer.Option("--run", help="Run directory that all commands share.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Length = Annotated[int, typer.Option(help="Tokens in a block of text.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
RUN = Path("minipuzzle-run")


def main() -> None:
    """Run the command line: a user's mistake prints its four parts and exits 2; --debug shows where it came from."""
    debug = "--debug" in sys.argv
    sys.argv = [a for a in sys.argv if a != "--debug"]
    try:
        app()
    except UserError as error:
        if debug:
            raise
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"[bold red]error:[/] {_escape(str(error))}")
        sys.exit(2)
    except KeyboardInterrupt:
        Console(stderr=True).print("stopped; the same command goes on from the last saved state")
        sys.exit(130)


@app.command()
def inspect(path: Annotated[Path, typer.Argument(help="Checkpoint, or a folder with a config.json.")],
            context: str = "8192", batch: int = 1, weights: str = "bf16", kv: str = "bf16", state: str = "bf16",
            as_json: Json = False) -> None:  # fmt: skip
    """Show a model's strip, parameters and memory, from its config.json alone."""
    from minipuzzle.budget import parse_count
    from minipuzzle.checkpoint.config import read_config
    from minipuzzle.cost import Workload
    from minipuzzle.report.inspect import inspect_json, inspect_view

    _, architecture = read_config(path)
    workload = Workload(context=parse_count(context), batch=batch, weights=weights, kv=kv, state=state)
    if as_json:
        _print_json(inspect_json(architecture, workload))
    else:
        out.print(inspect_view(str(path), architecture, workload))


@app.command()
def score(checkpoint: Annotated[Path | None, typer.Argument(help="Checkpoint (default: the run's).")] = None,
          run: Run = RUN, data: Annotated[str, typer.Option(help="Calibration text.")] = EMBEDDED,
          samples: Annotated[int, typer.Option(help="Blocks of text for FFN channels and Mamba heads.")] = 1024,
          block_samples: Annotated[int, typer.Option(help="Blocks of text for removing whole blocks.")] = 128,
          batch: int = 8,
          estimator: Annotated[str, typer.Option(help="How channels and heads are scored.")] = "minitron",
          metric: Annotated[str, typer.Option(help="What removing a block does: mse, logit-mse, kl or loss.")] = "mse",
          curves: Annotated[bool, typer.Option(help="Also narrow each block to some sizes.")] = True,
          iterative: Annotated[int, typer.Option(help="Remove this many blocks one by one, scoring again.")] = 0,
          seed: int = 0, length: Length = 512, device: Device = "auto", as_json: Json = False) -> None:  # fmt: skip
    """Score every block, FFN channel and head on calibration text, with one block in memory at a time."""
    settings = ScoreSettings(
        samples=samples, block_samples=block_samples, batch=batch, estimator=estimator, curves=curves,
        metric=metric, iterative=iterative, seed=seed,  # type: ignore[arg-type]
    )  # fmt: skip
    with _command(run):
        from minipuzzle.report.tables import scores_table
        from minipuzzle.stages.score import run_score

        job = _job(run, checkpoint, Data(calibration=data, length=length), device)
        scores = run_score(job, settings)
        if as_json:
            _print_json({"file": str(run / "scores.safetensors"), "blocks": scores.blocks.tolist(), "meta": scores.meta})
        else:
            out.print(scores_table(job.parent.architecture.pattern, scores))
            out.print(f"scores: {run / 'scores.safetensors'}    next: minipuzzle search --budget 83%")


@app.command()
def search(checkpoint: Annotated[Path | None, typer.Argument(help="Checkpoint, or a folder with only a config.json.")]
           = None, budget: Annotated[list[str] | None, typer.Option(help="47B, 83%, 31.7GiB; may be repeated.")] = None,
           run: Run = RUN, context: str = "8192", batch: int = 1,
           prompt: Annotated[str, typer.Option(help="Budgets of time: tokens read.")] = "512",
           output: Annotated[str, typer.Option(help="Budgets of time: tokens written.")] = "64",
           latency: Annotated[str, typer.Option(help="Table of minipuzzle profile (default: the run's).")] = "",
           roofline: Annotated[str, typer.Option(help="Estimate times for h100, h200, a100, rtx5090.")] = "",
           target_device: Annotated[str, typer.Option(help="Refuse a latency table of another device.")] = "",
           target_dtype: Annotated[str, typer.Option(help="Refuse a latency table of another dtype.")] = "",
           weights: str = "bf16", kv: str = "bf16",
           state: str = "bf16", candidates: Annotated[int, typer.Option(help="Candidates to realise.")] = 400,
           top: Annotated[int, typer.Option(help="Candidates to keep.")] = 3,
           multiple: Annotated[int, typer.Option(help="FFN widths are multiples of this.")] = 64,
           mamba_heads: Annotated[bool, typer.Option("--mamba-heads", help="Also narrow Mamba heads.")] = False,
           least: Annotated[list[str] | None, typer.Option(help="Bound the space: attention=50%, others=83%, width=75%.")]
           = None,
           method: Annotated[Method, typer.Option(help="minipuzzle: the paper's grid. solver: also block by block.")]
           = "minipuzzle",
           uniform: Annotated[bool, typer.Option("--uniform", help="Solver: one FFN width for all blocks.")] = False,
           own_heads: Annotated[bool, typer.Option("--own-heads", help="Solver: Mamba heads block by block.")] = False,
           kv_heads: Annotated[bool, typer.Option("--kv-heads", help="Solver: also drop KV groups.")] = False,
           refine: Annotated[int, typer.Option(help="Solver: moves tried by local search.")] = 100,
           data: Annotated[str, typer.Option(help="Validation text.")] = EMBEDDED,
           validation_blocks: int = 128, length: Length = 512, device: Device = "auto",
           as_json: Json = False) -> None:  # fmt: skip
    """Find the architectures that fit the budget, realise them as masks and keep the best."""
    settings = SearchSettings(
        budget=tuple(budget or ()), context=context, batch=batch, weights=weights, kv=kv, state=state,
        candidates=candidates, validation_blocks=validation_blocks, top=top, multiple=multiple,
        mamba_heads=mamba_heads, least=tuple(least or ()), method=method, uniform=uniform, own_heads=own_heads,
        kv_heads=kv_heads, refine=refine, prompt=prompt, output=output, latency=latency, roofline=roofline,
        target_device=target_device, target_dtype=target_dtype,
    )  # fmt: skip
    from minipuzzle.report.tables import candidates_table, plan_view
    from minipuzzle.search.plan import make_plan

    if checkpoint is not None and _config_only(checkpoint):
        from minipuzzle.checkpoint.config import read_config
        from minipuzzle.search.timing import load_timing

        plan = make_plan(read_config(checkpoint)[1], settings, load_timing(settings, run / "latency.json"))
        if as_json:
            _print_json({**plan.summary(), "maximal": plan.maximal()})
        else:
            out.print(plan_view(plan.summary(), plan.maximal()))
        return
    with _command(run):
        from minipuzzle.stages.search import run_search

        job = _job(run, checkpoint, Data(validation=data, length=length), device)
        result = run_search(job, settings)
        if as_json:
            _print_json(result)
        else:
            out.print(candidates_table(result, settings.top))
            if "front" in result:
                from minipuzzle.report.plots import draw_front, save_png

                save_png(lambda axes: draw_front(axes, result), run / "pareto.png")
                out.print(f"picture: {run / 'pareto.png'}")
            out.print(f"search: {run / 'search.json'}    next: minipuzzle distill")


@app.command()
def profile(checkpoint: Annotated[Path | None, typer.Argument(help="Checkpoint, or a folder with only a config.json.")]
            = None, run: Run = RUN,
            workload: Annotated[list[str] | None, typer.Option(help="b1,p8k,o1k: batch, prompt, output; may be repeated.")]
            = None,
            widths: Annotated[int, typer.Option(help="Sizes of each axis to time, from whole to an eighth.")] = 6,
            dtype: Annotated[str, typer.Option(help="auto (bf16 on CUDA, fp32 elsewhere), fp32, bf16.")] = "auto",
            device: Device = "auto", as_json: Json = False) -> None:  # fmt: skip
    """Time every distinct block on this machine, so that search can meet budgets of time."""
    works = [parse_work(text) for text in workload or ["b1,p512,o64"]]
    with _command(run):
        from minipuzzle.checkpoint.config import read_config
        from minipuzzle.report.tables import profile_table
        from minipuzzle.stages.job import find_checkpoint
        from minipuzzle.stages.profile import run_profile

        path = checkpoint or RunDir(run).parent or find_checkpoint(Path.cwd())
        table, rows = run_profile(read_config(path)[1], works, run / "latency.json", device=device, dtype=dtype,
                                  widths=widths)  # fmt: skip
        if as_json:
            _print_json(table.meta)
        else:
            out.print(profile_table(table, rows))
            out.print(f"table: {run / 'latency.json'}    next: minipuzzle search --budget 1.2x")


@app.command()
def prune(run: Run = RUN, device: Device = "auto", as_json: Json = False) -> None:
    """Cut the candidates that search kept and check that each file is what was planned."""
    with _command(run):
        from minipuzzle.stages.prune import run_prune

        cuts = run_prune(_job(run, None, Data(), device))
        if as_json:
            _print_json({name: {"path": str(c.path), "parameters": c.parameters, "bytes": c.bytes}
                         for name, c in cuts.items()})  # fmt: skip


@app.command()
def distill(run: Run = RUN,
            teacher: Annotated[Path | None, typer.Option(help="Teacher (default: the parent).")] = None,
            data: Annotated[str, typer.Option(help="Training text.")] = EMBEDDED,
            validation: Annotated[str, typer.Option(help="Validation text.")] = EMBEDDED,
            tokens: Annotated[int, typer.Option(help="Tokens of the long run.")] = 2_000_000,
            short_tokens: Annotated[int, typer.Option(help="Tokens of each short run.")] = 200_000,
            batch: int = 8, learning_rate: float = 5e-4, seed: int = 0, length: Length = 512,
            device: Device = "auto", as_json: Json = False) -> None:  # fmt: skip
    """Prune if needed, distil the candidates briefly, then the winner for long."""
    settings = DistillSettings(
        short_tokens=short_tokens,
        training=Training(tokens=tokens, batch=batch, learning_rate=learning_rate, seed=seed),
    )
    with _command(run):
        from minipuzzle.stages.distill import run_distill, summary

        job = _job(run, None, Data(train=data, validation=validation, length=length), device)
        student = run_distill(job, settings, teacher)
        if as_json:
            _print_json({"path": str(student.path), "parameters": student.parameters, **summary(job)})
        else:
            out.print(f"student: {student.path}  {student.parameters:,} parameters    next: minipuzzle eval")


@app.command(name="eval")
def evaluate(checkpoints: Annotated[list[Path] | None, typer.Argument(help="Others to compare with the parent.")] = None,
             run: Run = RUN, data: Annotated[str, typer.Option(help="Validation text.")] = EMBEDDED,
             length: Length = 512, device: Device = "auto", as_json: Json = False) -> None:  # fmt: skip
    """Measure teacher, pruned model and student side by side."""
    with _command(run):
        from minipuzzle.report.tables import eval_table
        from minipuzzle.stages.evaluate import run_eval

        result = run_eval(_job(run, None, Data(validation=data, length=length), device), checkpoints or [])
        if as_json:
            _print_json(result)
        else:
            out.print(eval_table(result))


@app.command()
def report(run: Run = RUN) -> None:
    """Write report.html: one file with the strips, scores, candidates, loss curves and numbers."""
    from minipuzzle.report.page import build_report

    out.print(f"report: {build_report(run)}", soft_wrap=True)


@app.command()
def pretrain(recipe: Annotated[Path, typer.Argument(help="YAML recipe.")], run: Run = RUN) -> None:
    """Train a hybrid from nothing with a recipe; run/model is an ordinary checkpoint."""
    loaded = load_recipe(recipe, PretrainRecipe)
    with _command(run):
        from minipuzzle.stages.pretrain import run_pretrain

        model = run_pretrain(loaded, RunDir(run))
        out.print(f"model: {model.path}  {model.parameters:,} parameters")


@app.command(name="run")
def run_recipe(recipe: Annotated[Path, typer.Argument(help="YAML recipe.")],
               run: Annotated[Path | None, typer.Option("--run", help="Run directory (default: the recipe's).")] = None,
               as_json: Json = False) -> None:  # fmt: skip
    """Run a whole recipe: score, search, prune, distil, eval, report."""
    _compress(load_recipe(recipe, Recipe), run, as_json)


@app.command()
def demo(run: Annotated[Path, typer.Option("--run", help="Run directory.")] = Path("minipuzzle-demo"),
         device: Device = "auto", as_json: Json = False) -> None:  # fmt: skip
    """Compress the embedded teacher to 83 % of its parameters: the whole pipeline in a few minutes on two cores."""
    from dataclasses import replace

    from minipuzzle.embedded import recipe_path

    _compress(replace(load_recipe(recipe_path("demo"), Recipe), device=device), run, as_json)


def _compress(recipe: Recipe, run: Path | None, as_json: bool) -> None:
    where = run or Path(recipe.run)
    with _command(where):
        from minipuzzle.artifacts import read_json
        from minipuzzle.pipeline import compress
        from minipuzzle.report.tables import candidates_table, eval_table

        measured, page = compress(recipe, where)
        if as_json:
            _print_json({**measured, "report": str(page)})
            return
        out.print(candidates_table(read_json(where / "search.json"), recipe.search.top))
        out.print(eval_table(measured))
        out.print(f"report: {page}", soft_wrap=True)


def _job(run: Path, checkpoint: Path | None, data: Data, device: str) -> Job:
    from minipuzzle.stages.job import Job

    return Job(RunDir(run), checkpoint=checkpoint, data=data, device=device)


def _config_only(path: Path) -> bool:
    return (path / "config.json").is_file() and not any(path.glob("*.safetensors*"))


@contextmanager
def _command(run: Path) -> Iterator[None]:
    started = time.monotonic()
    yield
    words = ["minipuzzle", *sys.argv[1:]]
    RunDir(run).record_command(shlex.join(words), time.monotonic() - started)


def _print_json(value: Any) -> None:
    if FIRST:
        print(json.dumps(value, indent=1, default=str))


def _escape(text: str) -> str:
    return text.replace("[", "\\[")
