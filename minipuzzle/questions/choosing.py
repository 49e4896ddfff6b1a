"""The questions where a search or a distillation chooses by them: how a candidate does above
chance, by kind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from minipuzzle.data import Tokenizer
from minipuzzle.errors import UserError
from minipuzzle.model import HybridLM
from minipuzzle.questions import CHANCE, Item, item, questions
from minipuzzle.questions.answers import right
from minipuzzle.questions.intervals import share

LIMIT, LONGEST = 100, 1024
"""Questions of a kind, and tokens of the longest: each candidate answers all of them."""

Asked = Mapping[str, Sequence[Item]]
"""By kind."""


def choosing(words: Tokenizer, context: int) -> Asked:
    """The half of the questions that chooses, for a model with so long a context."""
    made = questions(words, "search", longest=min(LONGEST, context), limit=LIMIT)
    return {kind: [item(question, words) for question in found] for kind, found in made.items()}


def counted(model: HybridLM, asked: Asked) -> Asked:
    """The kinds that the parent ``model`` does better than by chance, by the whole interval of
    95 %. Raises: UserError where there is none.
    """
    found = {
        kind: items for kind, items in asked.items() if share(right(model, items)).low > CHANCE
    }
    if not found:
        raise UserError(
            "The shipped questions do not distinguish the candidates.",
            got=f"the model is at chance in {', '.join(asked) or 'none'}",
            allowed="a model that answers questions of one kind at least",
            next="Rank by the text alone: by_tasks 0, winner loss.",
        )
    return found


def by_kind(model: HybridLM, asked: Asked) -> dict[str, float]:
    """The share of right answers of each kind with chance taken off: 0 for a guess, 1 for all."""
    return {kind: share(right(model, items)).above(CHANCE).value for kind, items in asked.items()}


def average(kinds: Mapping[str, float]) -> float:
    """The mean over the kinds."""
    return sum(kinds.values()) / len(kinds)
