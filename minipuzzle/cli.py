"""The command line: the commands in the order of the work, and what a user's mistake looks like."""

from __future__ import annotations

import sys

import typer
from rich.console import Console

from minipuzzle.commands import (
    adapt,
    bench,
    distill,
    evaluate,
    export,
    generate,
    inspect,
    merge,
    pretrain,
    profile,
    prune,
    report,
    run,
    score,
    search,
)
from minipuzzle.errors import UserError

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
    help="Compress hybrid Mamba-Transformer language models: score, search, prune, distil.",
)  # fmt: skip
app.command()(inspect.inspect)
app.command()(score.score)
app.command()(search.search)
app.command()(profile.profile)
app.command()(prune.prune)
app.command()(distill.distill)
app.command()(adapt.adapt)
app.command()(merge.merge)
app.command(name="eval")(evaluate.evaluate)
app.command()(generate.generate)
app.command()(bench.bench)
app.command()(report.report)
app.command()(export.export)
app.command()(pretrain.pretrain)
app.command(name="run")(run.run_recipe)
app.command()(run.demo)


def main() -> None:
    """Run the command line: a user's mistake prints its four parts and exits 2; --debug shows where it came from."""
    debug = "--debug" in sys.argv
    sys.argv = [a for a in sys.argv if a != "--debug"]
    try:
        app()
    except UserError as error:
        if debug:
            raise
        plain = str(error).replace("[", "\\[")
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"[bold red]error:[/] {plain}")
        sys.exit(2)
    except KeyboardInterrupt:
        Console(stderr=True).print("stopped; the same command goes on from the last saved state")
        sys.exit(130)
