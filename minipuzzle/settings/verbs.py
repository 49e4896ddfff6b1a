"""The commands by name, in the order of the work. No torch."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from minipuzzle.settings.adapt import AdaptCommand
from minipuzzle.settings.bench import BenchCommand
from minipuzzle.settings.declare import keys, options
from minipuzzle.settings.distill import DistillCommand
from minipuzzle.settings.evaluate import EvalCommand
from minipuzzle.settings.export import ExportCommand
from minipuzzle.settings.generate import GenerateCommand
from minipuzzle.settings.inspect import InspectCommand
from minipuzzle.settings.merge import MergeCommand
from minipuzzle.settings.profile import ProfileCommand
from minipuzzle.settings.prune import PruneCommand
from minipuzzle.settings.quantize import QuantizeCommand
from minipuzzle.settings.recipe import (
    DemoCommand,
    PretrainCommand,
    PretrainRecipe,
    Recipe,
    RunCommand,
)
from minipuzzle.settings.report import ReportCommand
from minipuzzle.settings.score import ScoreCommand
from minipuzzle.settings.search import SearchCommand

COMMANDS: dict[str, Any] = {
    "inspect": InspectCommand,
    "score": ScoreCommand,
    "search": SearchCommand,
    "profile": ProfileCommand,
    "prune": PruneCommand,
    "distill": DistillCommand,
    "adapt": AdaptCommand,
    "merge": MergeCommand,
    "eval": EvalCommand,
    "generate": GenerateCommand,
    "bench": BenchCommand,
    "report": ReportCommand,
    "export": ExportCommand,
    "quantize": QuantizeCommand,
    "pretrain": PretrainCommand,
    "run": RunCommand,
    "demo": DemoCommand,
}
RECIPES: dict[str, Any] = {"run": Recipe, "pretrain": PretrainRecipe}
"""What a command reads from a file."""
NAME = re.compile(r"\b[a-z]+\.[a-z_]+\b")


def words_of(verb: str) -> dict[str, str]:
    """What a command calls the settings that it knows: by name ("search.min_keep") its flag, or the
    key in the recipe that it reads.
    """
    found = {}
    if verb in RECIPES:
        found = {option.name: ".".join(option.path) for option in keys(RECIPES[verb])}
    own = options(COMMANDS[verb])
    return {**found, **{o.name: o.flag for o in own if not o.setting.argument}}


def in_words_of(verb: str, text: str) -> str:
    """The text with every setting as the command calls it, or else by the flag of another."""
    known = {**_flags(), **words_of(verb)}
    return NAME.sub(lambda found: known.get(found[0], found[0]), text)


@cache
def _flags() -> dict[str, str]:
    # Of the first command that has the setting: for advice to run another command.
    found: dict[str, str] = {}
    for command in COMMANDS.values():
        for option in options(command):
            if not option.setting.argument:
                found.setdefault(option.name, option.flag)
    return found
