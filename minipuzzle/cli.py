"""The command line: the commands in the order of the work, and what a user's mistake looks like."""

from __future__ import annotations

import io
import sys
from functools import cache, partial
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

import minipuzzle
from minipuzzle.commands._faults import EXIT, tell_fault
from minipuzzle.commands._line import add_commands
from minipuzzle.errors import InternalError, UserError, explained
from minipuzzle.messages import print_messages
from minipuzzle.settings.verbs import COMMANDS, in_words_of

STOPPED = 130


class Commands(TyperGroup):
    """The commands, with what the machine refuses them said in four parts: before typer answers it
    with "Aborted!".
    """

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was named. Raises: UserError also in place of errors of files,
        memory and texts, with settings as that command calls them.
        """
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise  # who read us has gone: typer ends quietly
        except KeyboardInterrupt:
            print("stopped; the same command continues from what was saved last", file=sys.stderr)
            sys.exit(STOPPED)
        except Exception as error:
            if (said := explained(error)) is not None:
                raise said from error
            if isinstance(error, UserError) and ctx.invoked_subcommand in COMMANDS:
                error.reword(partial(in_words_of, ctx.invoked_subcommand))
            raise


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Compress hybrid Mamba-Transformer language models: score, search, prune, distil.",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"minipuzzle {minipuzzle.__version__}")
        raise typer.Exit


@app.callback()
def _about(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_show_version, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    pass


add_commands(app)


@cache
def _line() -> Any:
    """All commands with their options, made once."""
    return get_command(app)


def main() -> None:
    """Run the command line. A user's mistake prints its four parts and exits with 2; --debug shows
    where it came from.

    What is no user's mistake is an InternalError: it prints where it happened and what to attach to
    a report, and exits with 70.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # a path that is not UTF-8 is shown all the same
        sys.stdout.reconfigure(errors="backslashreplace")
    print_messages()
    debug = "--debug" in sys.argv
    sys.argv = [a for a in sys.argv if a != "--debug"]
    try:
        _line()()
    except UserError as error:
        if debug:
            raise
        from rich.console import Console
        from rich.markup import escape

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
