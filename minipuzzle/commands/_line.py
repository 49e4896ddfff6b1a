"""The command line, made from the dataclasses of ``settings.verbs``: no option, default or help is
written here.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterator
from dataclasses import MISSING
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from minipuzzle.messages import print_messages
from minipuzzle.registry import Registry
from minipuzzle.settings.declare import Option, assemble, options
from minipuzzle.settings.verbs import COMMANDS, in_words_of

ARGUMENTS = "Arguments"


class VerbCommand(TyperCommand):
    """A command whose ``--help`` lists all options, a panel a group, and ``-h`` those that most
    people need.
    """

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments and options, a section a panel."""
        self._sections(ctx, formatter, [*options(COMMANDS[str(self.name)])])
        for registry in _registries(str(self.name)):
            formatter.write(f"\n{registry.listing()}\n")
        with formatter.section("Help"):
            formatter.write_dl([("-h", "Show the options that most people need."), _HELP])

    def short_help_of(self, ctx: typer.Context) -> str:
        """What ``-h`` prints."""
        formatter = ctx.make_formatter()
        everything = options(COMMANDS[str(self.name)])
        few = [o for o in everything if o.setting.common or o.setting.argument]
        self.format_usage(ctx, formatter)
        self.format_help_text(ctx, formatter)
        self._sections(ctx, formatter, few)
        more = f"{ctx.command_path} --help shows all {len(everything)} options."
        if found := _registries(str(self.name)):
            more += f" It also lists every {' and '.join(each.what for each in found)}."
        with formatter.section("Help"):
            formatter.write_text(more if len(few) < len(everything) else "These are all options.")
        return str(formatter.getvalue()).rstrip()

    def _sections(self, ctx: typer.Context, formatter: Any, shown: list[Option]) -> None:
        parameters = {parameter.name: parameter for parameter in self.get_params(ctx)}
        panels: dict[str, list[tuple[str, str]]] = {}
        for option in shown:
            record = parameters[_name(option)].get_help_record(ctx)
            assert record is not None
            panel = ARGUMENTS if option.setting.argument else option.setting.panel
            panels.setdefault(panel, []).append(record)
        for panel, records in panels.items():
            with formatter.section(panel):
                formatter.write_dl(records)


def _registries(verb: str) -> list[Registry]:
    """Each once, whichever options name what it has."""
    found = (each for option in options(COMMANDS[verb]) for each in option.setting.names)
    return list(dict.fromkeys(found))


_HELP = ("--help", "Show all options.")


def add_commands(app: typer.Typer) -> None:
    """Add every command of ``settings.verbs``. Each calls ``run`` of its file in this folder, which
    is imported then.
    """
    for verb, command in COMMANDS.items():
        app.command(verb, cls=VerbCommand, help=_one_line(command.__doc__))(_made(verb, command))


def _made(verb: str, command: Any) -> Callable[..., None]:
    known = {_name(option): option for option in options(command)}

    def call(**values: Any) -> None:
        print_messages(partial(in_words_of, verb))
        run = import_module(f"minipuzzle.commands.{verb}").run
        run(assemble(command, dict(_given(known, values))))

    parameters = [_parameter(verb, option) for option in known.values()]
    parameters.append(_short_help())
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {each.name: each.annotation for each in parameters}
    call.__name__ = verb
    return call


def _given(
    known: dict[str, Option], values: dict[str, Any]
) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, value in values.items():
        option = known.get(name)
        # None is an option left out, or "auto" where that means None.
        if option is not None and (value is not None or option.default not in (None, ())):
            several = typing.get_origin(option.kind) is tuple and isinstance(value, list)
            yield option.path, tuple(value) if several else value


def _parameter(verb: str, option: Option) -> inspect.Parameter:
    said = option.setting
    kind: Any = option.kind
    more: dict[str, Any] = {"help": _help(verb, option), "metavar": _metavar(option)}
    default = option.default
    if typing.get_origin(kind) is Literal:
        kind = str  # its dataclass says in four parts what is allowed
    if said.parse is not None:
        more["parser"] = _parser(verb, said.parse)
        kind = str if typing.get_origin(kind) is tuple else kind
        default = None if default in ((), None) else default
    elif typing.get_origin(kind) is tuple:
        kind = list[typing.get_args(kind)[0]]  # type: ignore[misc]
        default = default if default is MISSING else list(default) or None
    if default is None:
        kind = kind | None
    if said.argument:
        about = typer.Argument(**more, show_default=False)
    else:
        flags = [option.flag]
        if option.kind is bool and default is True:
            flags = [f"{option.flag}/--no-{option.flag[2:]}"]
        if said.short:
            flags.append(f"-{said.short}")
        about = typer.Option(*flags, **more, show_default=said.shown or _worth_saying(option))
    return inspect.Parameter(
        _name(option),
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if default is MISSING else default,
        annotation=Annotated[kind, about],
    )


def _short_help() -> inspect.Parameter:
    def show(ctx: typer.Context, value: bool) -> None:
        if value:
            assert isinstance(ctx.command, VerbCommand)
            typer.echo(ctx.command.short_help_of(ctx))
            raise typer.Exit

    about = typer.Option("-h", is_eager=True, expose_value=False, callback=show, hidden=True)
    return inspect.Parameter(
        "short_help",
        inspect.Parameter.KEYWORD_ONLY,
        default=False,
        annotation=Annotated[bool, about],
    )


def _help(verb: str, option: Option) -> str:
    return in_words_of(verb, option.setting.help)


def _metavar(option: Option) -> str | None:
    if option.setting.argument:
        return option.setting.unit or option.path[-1].upper()
    if option.kind is bool:
        return None
    if typing.get_origin(option.kind) is Literal:
        return f"[{'|'.join(option.choices)}]"
    return (option.setting.unit or _plain_type(option.kind)).upper()


def _plain_type(kind: Any) -> str:
    inner = [each for each in (kind, *typing.get_args(kind)) if each in _WORDS]
    return _WORDS[inner[0]]


_WORDS: dict[Any, str] = {int: "n", float: "x", str: "text", Path: "path"}


def _worth_saying(option: Option) -> bool:
    return option.kind is not bool and option.default not in ("", None, ())


def _parser(verb: str, parse: Callable[[str], Any]) -> Callable[[Any], Any]:
    def parsed(value: Any) -> Any:
        # What is passed here as a default has its type already.
        return parse(value) if isinstance(value, str) else value

    return parsed


def _name(option: Option) -> str:
    return "_".join(option.path)


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())
