"""A problem of the search whose prices fit in the head: what several test files search over."""

from conftest import level_of, tiny

from minipuzzle.cost.pricing import pricing
from minipuzzle.importance import random_scores
from minipuzzle.memory import Workload, resident
from minipuzzle.settings import Limits, SearchSettings
from minipuzzle.space import bounds

LEVEL = level_of(attention=0, others=0, width=0.5, hidden=0.5)
WORK = Workload(context=100)


def problem(pattern="M-*-", share=0.8, seed=0, hidden=False, parent=None, **settings):
    parent = parent or tiny(pattern, vocab=64)
    options = SearchSettings(
        budget=("80%",), multiple=16, mamba_heads=True, hidden_size=hidden, **settings
    )
    space = bounds(parent, LEVEL, options, grid=False)
    limits = Limits(
        parameters=int(share * parent.parameters), bytes=int(resident(parent, WORK).total)
    )
    return parent, random_scores(parent, seed), space, options, pricing(parent, limits, WORK)
