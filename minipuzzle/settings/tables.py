"""The tables of settings in docs/, made from the declarations. No torch.

    python -m minipuzzle.settings.tables docs/commands.md docs/api.md

writes them anew between their markers; tests/test_flags.py compares.
"""

from __future__ import annotations

import re
import sys
from dataclasses import MISSING
from pathlib import Path
from typing import get_args

from minipuzzle import settings
from minipuzzle.settings.declare import Option, keys, options
from minipuzzle.settings.verbs import COMMANDS, RECIPES, in_words_of

BLOCK = re.compile(r"<!-- (options|keys|fields) of (\w+) -->\n.*?<!-- end -->", re.DOTALL)


def with_tables(page: str) -> str:
    """A page with what lies between ``<!-- options of VERB -->`` and ``<!-- end -->`` as it should
    be now; ``keys of VERB`` is what its recipe may hold, ``fields of CLASS`` a settings class.
    """
    tables = {"options": option_table, "keys": key_table, "fields": field_table}

    def made(found: re.Match[str]) -> str:
        return f"<!-- {found[1]} of {found[2]} -->\n\n{tables[found[1]](found[2])}\n\n<!-- end -->"

    return BLOCK.sub(made, page)


def option_table(verb: str) -> str:
    """Markdown: a row an option, in the order of the help's panels."""
    by_panel: dict[str, list[Option]] = {}
    for option in options(COMMANDS[verb]):
        panel = "" if option.setting.argument else option.setting.panel
        by_panel.setdefault(panel, []).append(option)
    rows = [option for panel in by_panel.values() for option in panel]
    return _table(
        ("option", "setting", "default", "what it does"),
        [(_spelt(o), f"`{o.name}`", _default(o), _help(o, verb)) for o in rows],
    )


def key_table(verb: str) -> str:
    """Markdown: a row a key of the recipe that the command reads."""
    return _table(
        ("key", "default", "what it does"),
        [(f"`{'.'.join(o.path)}`", _default(o), _help(o)) for o in keys(RECIPES[verb])],
    )


def field_table(name: str) -> str:
    """Markdown: a row a field of a settings class of ``minipuzzle.settings``."""
    own = [option for option in keys(getattr(settings, name)) if len(option.path) == 1]
    return _table(
        ("field", "type", "default", "what it does"),
        [(f"`{o.path[0]}`", _type(o), _value(o), _help(o)) for o in own],
    )


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell or ' ' for cell in line)} |" for line in lines)


def _type(option: Option) -> str:
    if option.choices:
        return "str"
    return str(option.kind) if get_args(option.kind) else str(option.kind.__name__)


def _value(option: Option) -> str:
    shown = f" ({option.setting.shown})" if option.setting.shown else ""
    return f"`{option.default!r}`{shown}"


def _spelt(option: Option) -> str:
    if option.setting.argument:
        return f"`{option.path[-1].upper()}`"
    flag = option.flag
    if option.kind is bool and option.default is True:
        flag = f"{flag}`, `--no-{flag[2:]}"
    if option.setting.unit:
        flag = f"{flag} {option.setting.unit.upper()}"
    return f"`{flag}`" + (f", `-{option.setting.short}`" if option.setting.short else "")


def _default(option: Option) -> str:
    if option.default is MISSING:
        return "needed"
    if option.setting.shown:
        return option.setting.shown
    value = option.default
    if value in ("", (), None):
        return ""
    if isinstance(value, bool):
        return "on" if value else ""
    return f"`{' '.join(value) if isinstance(value, tuple) else value}`"


def _help(option: Option, verb: str = "") -> str:
    said = option.setting.help
    if verb:
        said = re.sub(r"(?<![\w`-])(--[a-z][a-z-]*)", r"`\1`", in_words_of(verb, said))
    if option.choices:
        said += f" One of {', '.join(f'`{name}`' for name in option.choices)}."
    if option.setting.names:  # a new file is enough for a new name: none is listed here
        said += f" `minipuzzle {option.name.partition('.')[0]} --help` lists the names."
    return said.replace("|", "\\|")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        Path(name).write_text(with_tables(Path(name).read_text()))
