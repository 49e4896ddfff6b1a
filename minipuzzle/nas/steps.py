"""What each of several steps of cut and recovery searches and trains, from the original's sizes. No
torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from minipuzzle.arch import Architecture
from minipuzzle.cost.latency import Timing
from minipuzzle.errors import UserError
from minipuzzle.kinds import KINDS
from minipuzzle.nas.plan import make_plan, priced
from minipuzzle.rundir import STEPS
from minipuzzle.settings import DistillSettings, Limits, Recipe, SearchSettings, parse_budget
from minipuzzle.settings.steps import (
    STEPPED,
    check_smaller,
    parse_steps,
    shared,
    spaced,
    steps_down,
)

FIRST = f"{STEPS}/1"
LARGEST_SEED = 2**63


@dataclass(frozen=True, kw_only=True)
class StepPlan:
    """Step ``number`` of ``of``, with the budget that was ``asked``. That of ``search`` is in
    numbers, because shares are of the original and not of the model that the step begins with.
    """

    number: int
    of: int
    asked: str
    search: SearchSettings
    distill: DistillSettings

    @property
    def folder(self) -> str:
        """Where it works, in the run directory: the last step in the run directory itself."""
        return "." if self.number == self.of else f"{STEPS}/{self.number}"

    def sentence(self) -> str:
        """What is about to be done."""
        return (
            f"step {self.number} of {self.of}: {self.asked} of the original"
            f" ({' and '.join(self.search.budget)}), {self.distill.training.tokens:,} tokens"
        )

    @property
    def parent(self) -> str:
        """The student that it begins with, in the run directory; "" for the original."""
        return "" if self.number == 1 else f"{STEPS}/{self.number - 1}/student"


def plan_steps(
    recipe: Recipe, original: Architecture, timing: Timing | None
) -> tuple[StepPlan, ...]:
    """The steps of a recipe.

    Raises: UserError for steps that do not go down, and as ``make_plan`` for a budget that the
    original meets already, or a first one that no cut of it meets.
    """
    searches = step_searches(recipe.search, recipe.steps, original, timing)
    shares = recipe.step_shares or (1.0,) * len(searches)
    training = recipe.distill.training
    tokens = shared(training.tokens, shares, unit=training.batch * recipe.data.length)
    short = shared(recipe.distill.short_tokens, shares)
    found = []
    for k, search in enumerate(searches):
        # Another seed a step: else each would see the same first part of the training text.
        seed = (training.seed + k) % LARGEST_SEED
        logits = recipe.distill.teacher_logits
        distill = replace(
            recipe.distill,
            short_tokens=short[k],
            teacher_logits=logits and str(Path(logits) / f"step-{k + 1}"),
            training=replace(training, tokens=tokens[k], seed=seed),
        )
        asked = recipe.steps[k] if len(recipe.steps) > 1 else _share(search, original)
        found.append(
            StepPlan(number=k + 1, of=len(searches), asked=asked, search=search, distill=distill)
        )
    return tuple(found)


def _share(search: SearchSettings, original: Architecture) -> str:
    limits = parse_budget(search.budget)
    if limits.parameters is not None:
        return f"{100 * limits.parameters / original.parameters:.1f}%"
    assert limits.active is not None
    return f"active={100 * limits.active / original.active_parameters:.1f}%"


def step_searches(
    settings: SearchSettings, steps: Sequence[str], original: Architecture, timing: Timing | None
) -> tuple[SearchSettings, ...]:
    """The search of each step. Limits of memory and time hold at the last one; before it blocks of
    a kind keep one size, as a search wants of the model that it begins with. Only the first is
    tried here: how small the others can become depends on the students.

    Raises: as ``plan_steps``.
    """
    if settings.bits:
        raise UserError(
            "Bits are chosen in the last step alone, and searches of several steps have none.",
            got=f"search.bits {settings.bits} with job.steps",
            allowed="search.bits in one step",
            next="Recover to the size first, then score and search the student with search.bits.",
        )
    asked = parse_steps(steps)
    texts = [text for text in settings.budget if not steps_down(parse_budget((text,)))]
    if isinstance(asked, int):
        last = _limits(settings, settings.budget, original, timing)
        between = _spaced(settings, original, last, asked)
    else:
        if len(texts) < len(settings.budget):
            raise UserError(
                "Both job.steps and search.budget bound the parameters.",
                got=f"job.steps {', '.join(steps)} and search.budget {', '.join(settings.budget)}",
                allowed="the last of job.steps in place of a budget of parameters",
                next="Take the parameters out of search.budget, or name only a number of steps.",
            )
        active = original.active_parameters
        found = [budget.resolve(original.parameters, parent_active=active) for budget in asked]
        check_smaller(found, steps)
        last = _limits(settings, (*steps[-1:], *texts), original, timing)
        between = found[:-1]
    earlier = _alike(settings)
    searches = [replace(earlier, budget=limits.texts()) for limits in between]
    make_plan(original, searches[0])
    return (*searches, replace(settings, budget=last.texts()))


def _limits(
    settings: SearchSettings, texts: Sequence[str], original: Architecture, timing: Timing | None
) -> Limits:
    """What budgets mean for the original. Raises: as ``priced``."""
    return priced(original, replace(settings, budget=tuple(texts)), timing).requested


def _spaced(
    settings: SearchSettings, original: Architecture, last: Limits, steps: int
) -> list[Limits]:
    """The limits before the last one, each the same share of the one before."""
    whole = {"parameters": original.parameters, "active": original.active_parameters}
    wanted = {name: limit for name in STEPPED if (limit := getattr(last, name)) is not None}
    if not wanted:
        raise UserError(
            "A number of steps needs a budget of parameters to go down to.",
            got=" and ".join(settings.budget),
            allowed="search.budget 47B or 83%, beside others",
            next="Add one to search.budget, or name the budget of each step.",
        )
    each = {name: spaced(whole[name], limit, steps) for name, limit in wanted.items()}
    found = []
    for k in range(steps - 1):
        limits: dict[str, Any] = {name: numbers[k] for name, numbers in each.items()}
        found.append(Limits(**limits))
    check_smaller([*found, last], ["search.budget"] * steps)
    return found


def _alike(settings: SearchSettings) -> SearchSettings:
    """The same without what gives blocks of a kind different sizes."""
    each = [width.per_block for kind in KINDS.values() for width in kind.widths]
    changes: dict[str, Any] = {pair[0]: not pair[1] for pair in each if pair is not None}
    return replace(settings, **changes)
