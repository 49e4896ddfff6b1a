"""How a setting is declared: once, with its default, unit, bounds, choices and help.

The command line, the keys of recipes, the defaults of the API and the option tables of the docs are
made from these declarations. A setting is named by its section and its field ("search.min_keep");
only the command line knows flags.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass, replace
from functools import cache
from typing import Any, Literal, TypeVar

from minipuzzle.registry import Registry

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is said of a setting beside its type and its default.

    ``within`` are the least and the greatest number, both allowed, of whole numbers where both are
    ``int``. ``names`` list what may be named, where files of a folder say it. ``parse`` makes the
    value of a text. ``shown`` says the default where its value would say nothing ("auto").
    On the command line: the long ``flag`` (by default the field's name) and the ``short`` one, the
    ``panel`` of the help that lists it, and whether the short help has it too (``common``). An
    ``argument`` has no flag. ``name`` is the setting's name where it is not the section's.
    """

    help: str
    unit: str = ""
    within: tuple[float, float] | None = None
    names: tuple[Registry, ...] = ()
    parse: Callable[[str], Any] | None = None
    shown: str = ""
    flag: str = ""
    short: str = ""
    panel: str = ""
    common: bool = False
    argument: bool = False
    name: str = ""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Which settings of a nested dataclass a command takes, and under which flags; ``only`` None:
    all but ``omit``.
    """

    only: tuple[str, ...] | None = None
    omit: tuple[str, ...] = ()
    flags: Mapping[str, str] = field(default_factory=dict)

    def has(self, name: str) -> bool:
        """Whether the command takes this field."""
        return name not in self.omit and (self.only is None or name in self.only)


def setting(default: T, help: str, **more: Any) -> T:
    """A field with this default and a ``Setting``."""
    return field(default=default, metadata={"setting": Setting(help=help, **more)})


def needed(help: str, **more: Any) -> Any:
    """A field without a default and with a ``Setting``."""
    return field(metadata={"setting": Setting(help=help, **more)})


def group(
    default: T,
    *,
    only: Sequence[str] | None = None,
    omit: Sequence[str] = (),
    flags: Mapping[str, str] | None = None,
) -> T:
    """A field that holds settings of another section, with a ``Group``; ``flags`` by field."""
    chosen = Group(only=None if only is None else tuple(only), omit=tuple(omit), flags=flags or {})
    return field(default=default, metadata={"group": chosen})


@dataclass(frozen=True, kw_only=True)
class Option:
    """A setting as a command has it: ``path`` leads to it from the command's dataclass, ``name`` is
    what library code calls it, ``kind`` its type, ``default`` MISSING where it has none.
    """

    path: tuple[str, ...]
    name: str
    flag: str
    kind: Any
    default: Any
    setting: Setting

    @property
    def choices(self) -> tuple[str, ...]:
        """The values it may have, where its type says them."""
        return typing.get_args(self.kind) if typing.get_origin(self.kind) is Literal else ()


@cache
def options(command: type) -> tuple[Option, ...]:
    """The settings of a command's dataclass and of the groups in it, in their order."""
    return tuple(_walk(command, None, (), Group()))


@cache
def keys(recipe: type) -> tuple[Option, ...]:
    """Every setting of a recipe, those without an option included."""
    return tuple(_walk(recipe, None, (), None))


def _walk(kind: Any, instance: Any, path: tuple[str, ...], chosen: Group | None) -> list[Option]:
    found = []
    hints = hints_of(kind)
    for each in fields(kind):
        if chosen is not None and not chosen.has(each.name):
            continue
        default = default_of(each) if instance is None else getattr(instance, each.name)
        here = (*path, each.name)
        if (inner := each.metadata.get("group")) is not None:
            found += _walk(type(default), default, here, inner if chosen is not None else None)
        elif (said := each.metadata.get("setting")) is not None:
            said = replace(said, panel=said.panel or getattr(kind, "PANEL", ""))
            given = chosen.flags.get(each.name) if chosen is not None else None
            flag = given or said.flag or each.name.replace("_", "-")
            found.append(
                Option(
                    path=here,
                    name=said.name or f"{kind.SECTION}.{each.name}",
                    flag=f"--{flag}",
                    kind=hints[each.name],
                    default=default,
                    setting=said,
                )
            )
    return found


def assemble(command: type[T], values: Mapping[tuple[str, ...], Any]) -> T:
    """The dataclass with ``values`` by path in place of its defaults. Raises: UserError for a value
    that its dataclass refuses.
    """
    return command(**_nested(command, None, values, ()))


def _nested(
    kind: Any, instance: Any, values: Mapping[tuple[str, ...], Any], path: tuple[str, ...]
) -> dict[str, Any]:
    found = {}
    for each in fields(kind):
        here = (*path, each.name)
        if here in values:
            found[each.name] = values[here]
        elif "group" in each.metadata:
            held = default_of(each) if instance is None else getattr(instance, each.name)
            found[each.name] = replace(held, **_nested(type(held), held, values, here))
    return found


def default_of(each: Field[Any]) -> Any:
    """The default of a field, or MISSING."""
    if each.default_factory is not MISSING:
        return each.default_factory()
    return each.default


@cache
def hints_of(kind: type) -> dict[str, Any]:
    """The types of a dataclass's fields."""
    assert is_dataclass(kind)
    return typing.get_type_hints(kind)
