"""Several steps of cut and recovery in place of one: their budgets and their shares of the training
tokens. No torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from minipuzzle.errors import UserError
from minipuzzle.settings.budget import Budget, Limits, parse_budget
from minipuzzle.settings.counts import parse_count

MOST_STEPS = 100
STEPPED = ("parameters", "active")
"""The limits that may go down step by step; all others hold at the last step alone."""
FORMS = (
    "budgets of parameters, or of active ones, each smaller than the one before (90%, 80%, 70%), or"
    " their number"
)


def parse_steps(texts: Sequence[str]) -> int | tuple[Budget, ...]:
    """How many steps, where one number stands alone ("3"), or the budget of each.

    Raises: UserError for what is no budget, or one of anything but parameters.
    """
    if len(texts) == 1 and texts[0].strip().isdigit():
        number = parse_count(texts[0])
        if not 2 <= number <= MOST_STEPS:
            raise _malformed(texts[0], f"2 to {MOST_STEPS} steps; leave job.steps out for one")
        return number
    if len(texts) == 1:
        raise _malformed(texts[0], "two budgets or more; for one, search.budget alone")
    budgets = tuple(parse_budget((text,)) for text in texts)
    for budget in budgets:
        if not steps_down(budget):
            raise _malformed(budget.text[0], FORMS)
    return budgets


def steps_down(budget: Budget) -> bool:
    """Whether a budget of one text is of what goes down step by step."""
    given = (budget.parameters, budget.share, budget.active, budget.active_share)
    return any(value is not None for value in given)


def spaced(whole: int, target: int, steps: int) -> tuple[int, ...]:
    """Each the same share of the one before, the first of ``whole``; the last is ``target``."""
    between = (round(whole * (target / whole) ** (k / steps)) for k in range(1, steps))
    return (*between, target)


def shared(total: int, weights: Sequence[float], unit: int = 1) -> tuple[int, ...]:
    """``total`` in parts as large as ``weights``, all but the last whole multiples of ``unit``;
    their sum is ``total``.

    Raises: UserError where a part would be nothing.
    """
    edges, passed = [0], 0.0
    for weight in weights[:-1]:
        passed += weight
        edges.append(round(total * passed / sum(weights) / unit) * unit)
    edges.append(total)
    parts = tuple(after - before for before, after in pairwise(edges))
    if min(parts) < 1:
        raise UserError(
            "There are too few tokens for so many steps.",
            got=f"{total:,} tokens in {len(weights)} steps",
            allowed=f"at least {unit:,} tokens for each step",
            next="Give more tokens, fewer steps, or other shares with job.step_shares.",
        )
    return parts


def check_smaller(limits: Sequence[Limits], texts: Sequence[str]) -> None:
    """Raises: UserError where a step's limit is not below that of the step before."""
    for before, after, text in zip(limits, limits[1:], texts[1:], strict=False):
        for name in STEPPED:
            high, low = getattr(before, name), getattr(after, name)
            if (high is None) != (low is None) or (high is not None and low >= high):
                raise _malformed(text, FORMS)


def check_shares(shares: Sequence[float], steps: int) -> None:
    """Raises: UserError where there is not one share a step."""
    if shares and len(shares) != steps:
        raise UserError(
            "job.step_shares does not go with job.steps.",
            got=f"{len(shares)} shares for {steps} steps",
            allowed="one share for each step, or none: equal ones",
            next="Change job.step_shares.",
        )


def _malformed(text: str, allowed: str) -> UserError:
    return UserError(f"{text!r} is no step.", got=text, allowed=allowed, next="Change job.steps.")
