"""The option tables of docs/commands.md, made from the declarations. No torch.

    python -m minipuzzle.settings.tables docs/commands.md

writes them anew between their markers; tests/test_flags.py compares.
"""

from __future__ import annotations

import re
import sys
from dataclasses import MISSING
from pathlib import Path

from minipuzzle.settings.declare import Option, keys, options
from minipuzzle.settings.verbs import COMMANDS, RECIPES, in_words_of

BLOCK = re.compile(r"<!-- (options|keys) of (\w+) -->\n.*?<!-- end -->", re.DOTALL)


def with_tables(page: str) -> str:
    """A page with what lies between ``<!-- options of VERB -->`` (or ``keys of``, for what a recipe
    may hold) and ``<!-- end -->`` as it should be now.
    """

    def made(found: re.Match[str]) -> str:
        table = option_table(found[2]) if found[1] == "options" else key_table(found[2])
        return f"<!-- {found[1]} of {found[2]} -->\n\n{table}\n\n<!-- end -->"

    return BLOCK.sub(made, page)


def option_table(verb: str) -> str:
    """Markdown: a row an option, in the order of the help's panels."""
    by_panel: dict[str, list[Option]] = {}
    for option in options(COMMANDS[verb]):
        panel = "" if option.setting.argument else option.setting.panel
        by_panel.setdefault(panel, []).append(option)
    rows = [(o, _spelt(o)) for panel in by_panel.values() for o in panel]
    return _table("option", [(spelt, o.name, _default(o), _help(verb, o)) for o, spelt in rows])


def key_table(verb: str) -> str:
    """Markdown: a row a key of the recipe that the command reads."""
    found = [(".".join(o.path), o) for o in keys(RECIPES[verb])]
    return _table(
        "key", [(f"`{key}`", "", _default(o), _help(verb, o)) for key, o in found], named=False
    )


def _table(first: str, rows: list[tuple[str, str, str, str]], named: bool = True) -> str:
    head = [first, "setting", "default", "what it does"]
    lines = [head, ["---"] * 4, *([a, f"`{b}`", c, d] for a, b, c, d in rows)]
    if not named:
        lines = [[line[0], *line[2:]] for line in lines]
    return "\n".join(f"| {' | '.join(cell or ' ' for cell in line)} |" for line in lines)


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


def _help(verb: str, option: Option) -> str:
    said = in_words_of(verb, option.setting.help)
    said = re.sub(r"(?<![\w`-])(--[a-z][a-z-]*)", r"`\1`", said)
    if option.choices:
        said += f" One of {', '.join(f'`{name}`' for name in option.choices)}."
    if option.setting.names:  # a new file is enough for a new name: none is listed here
        said += f" `minipuzzle {option.name.partition('.')[0]} --help` lists the names."
    return said.replace("|", "\\|")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        Path(name).write_text(with_tables(Path(name).read_text()))
