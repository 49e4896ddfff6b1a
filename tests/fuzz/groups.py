"""All cases, by group."""

from collections.abc import Iterator
from pathlib import Path

from . import adapters, checkpoints, exports, options, recipes, runs, tensors, texts, tokenizers
from .case import Case

GROUPS = {
    "config": checkpoints.configs,
    "family": checkpoints.families,
    "safetensors": tensors.files,
    "index": tensors.indices,
    "tokenizer": tokenizers.cases,
    "text": texts.cases,
    "budget": recipes.budgets,
    "recipe": recipes.recipes,
    "rundir": runs.cases,
    "adapter": adapters.cases,
    "export": exports.cases,
    "options": options.cases,
}


def cases_of(group: str, base: Path) -> Iterator[Case]:
    """The cases of a group, from the files in ``base``; the same in the same order every time."""
    for name, words, *changes in GROUPS[group](base):
        yield Case(group, name, tuple(words), tuple(changes))


def all_cases(base: Path) -> Iterator[Case]:
    """Every case."""
    for group in GROUPS:
        yield from cases_of(group, base)
