"""The command line: the commands in the order of the work, and what a user's mistake looks like."""

from __future__ import annotations

import io
import sys
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperGroup

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
from minipuzzle.commands._faults import EXIT, tell_fault
from minipuzzle.errors import InternalError, UserError, explained
from minipuzzle.registry import DIVERGENCES, ESTIMATORS, LOSSES, METRICS, Registry

STOPPED = 130


def listed(*registries: Registry) -> str:
    """The end of a command's help: what may be named, as it is found; "\b" keeps its lines."""
    return "\n\n".join(f"\b\n{registry.listing()}" for registry in registries)


class Commands(TyperGroup):
    """The commands, with what the machine refuses them said in four parts: before typer answers it
    with "Aborted!".
    """

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was named. Raises: UserError also in place of errors of files,
        memory and texts.
        """
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise  # who read us has gone: typer ends quietly
        except KeyboardInterrupt:
            print("stopped; the same command goes on from the last saved state", file=sys.stderr)
            sys.exit(STOPPED)
        except Exception as error:
            if (said := explained(error)) is None:
                raise
            raise said from error


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Compress hybrid Mamba-Transformer language models: score, search, prune, distil.",
)
app.command()(inspect.inspect)
app.command(epilog=listed(ESTIMATORS, METRICS))(score.score)
app.command()(search.search)
app.command()(profile.profile)
app.command()(prune.prune)
app.command(epilog=listed(DIVERGENCES, LOSSES))(distill.distill)
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
    """Run the command line. A user's mistake prints its four parts and exits with 2; --debug shows
    where it came from.

    What is no user's mistake is an InternalError: it prints where it happened and what to attach to
    a report, and exits with 70.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # a path that is not UTF-8 is shown all the same
        sys.stdout.reconfigure(errors="backslashreplace")
    debug = "--debug" in sys.argv
    sys.argv = [a for a in sys.argv if a != "--debug"]
    try:
        app()
    except UserError as error:
        if debug:
            raise
        Console(stderr=True, highlight=False, soft_wrap=True).print(
            f"[bold red]error:[/] {escape(str(error))}"
        )
        sys.exit(2)
    except KeyboardInterrupt:  # before a command had begun, or as it ended
        sys.exit(STOPPED)
    except Exception as error:
        fault = error if isinstance(error, InternalError) else InternalError.of(error)
        tell_fault(fault, ["minipuzzle", *sys.argv[1:]])
        sys.exit(EXIT)
