"""The ways of searching that studies/search_quality.py compares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from minipuzzle.arch import Selection
from minipuzzle.data import TokenBlocks
from minipuzzle.errors import UserError
from minipuzzle.importance import random_scores
from minipuzzle.metrics import answers
from minipuzzle.model import HybridLM
from minipuzzle.nas.choices import make_choices, whole
from minipuzzle.nas.plan import Plan, make_plan
from minipuzzle.nas.propose import candidate, instance, propose_each, state_of
from minipuzzle.nas.rank import Evaluated, Quality, evaluate, reranked, shortlist
from minipuzzle.nas.refine import refine, repair
from minipuzzle.nas.solve import solve
from minipuzzle.nas.timing import load_timing
from minipuzzle.runs.parent import masked_qualities
from minipuzzle.runs.race import FINALISTS
from minipuzzle.runs.search import LARGEST
from minipuzzle.scores import Scores
from minipuzzle.settings import SearchSettings

SPACE = ("attention=0%", "others=25%", "width=25%")


@dataclass(frozen=True, kw_only=True)
class Task:
    """One search with its distillations, one for each seed."""

    teacher: str
    scores: str
    budget: str
    method: str
    latency: str
    options: tuple[tuple[str, Any], ...]


def search(
    task: Task, model: HybridLM, choice: TokenBlocks, moves: int
) -> tuple[list[Selection], int]:
    """The selections that a method proposes, best first, and how many models it evaluated for
    them.
    """
    settings, scores, plan = set_up(task, model)
    one = evaluator(model, choice)
    if task.method == "grid":
        ranked = evaluate(
            plan.candidates(scores, 48), lambda named: [one(kept) for _, kept in named], "agreement"
        )
        return [r.candidate.selection for r in ranked[:FINALISTS]], len(ranked)
    if task.method == "minitron":
        selections = [c.selection for c in plan.largest(scores, LARGEST)]
        return [min(selections, key=lambda selection: one(selection).loss)], len(selections)
    if task.method == "solver + reality":
        ranked, tried = evaluated(plan, scores, settings, one, moves)
        return [r.candidate.selection for r in shortlist(ranked, settings.finalists, "kl")], tried
    prices = plan.prices
    choices = make_choices(
        plan.parent,
        scores,
        plan.widest(settings),
        settings,
        prices.of,
        prices.limits - prices.base,
        prices.names,
    )
    if task.method in ("greedy", "random"):
        state = repair(choices, whole(choices), frozenset(), drops=True)
        if state is None:
            raise UserError(
                "The walk gets stuck above the budget.",
                got=task.budget,
                allowed="a larger one",
                next="-",
            )
        return [choices.selection(state)], 0
    return [choices.selection(state_of(choices, solve(instance(choices))))], 0


def set_up(task: Task, model: HybridLM) -> tuple[SearchSettings, Scores, Plan]:
    """What a search of a budget begins with; time budgets read the task's latency table."""
    settings = SearchSettings(
        budget=(task.budget,),
        min_keep=SPACE,
        mamba_heads=True,
        multiple=32,
        method="solver",
        candidates=24,
    )
    if task.method == "solver + reality" and dict(task.options).get("hidden_size"):
        settings = replace(settings, hidden_size=True, min_keep=(*SPACE, "hidden=75%"))
    scores = (
        random_scores(model.architecture, 0)
        if task.method == "random"
        else Scores.load(Path(task.scores))
    )
    timed = replace(settings, latency=task.latency)
    return (
        settings,
        scores,
        make_plan(model.architecture, timed, load_timing(timed, Path("latency.json"))),
    )


def evaluator(model: HybridLM, choice: TokenBlocks) -> Callable[[Selection], Quality]:
    """What a selection does on the text, with the parent's own answers made once."""
    said = answers(model, choice, batch=16)
    return lambda selection: masked_qualities(model, [selection], choice, said, batch=16)[0]


def evaluated(
    plan: Plan,
    scores: Scores,
    settings: SearchSettings,
    one: Callable[[Selection], Quality],
    moves: int,
) -> tuple[list[Evaluated], int]:
    """(what ``minipuzzle search --method solver`` evaluates, best KL first, how many models that
    took).
    """
    each = propose_each(plan.parent, scores, plan.widest(settings), settings, plan.prices, 24)
    found = plan.candidates(scores, 24) + plan.largest(scores, LARGEST)
    for proposals in each:
        found += proposals.candidates(plan.bytes, 1 + sum(r.origin == "solver" for r in found))
    ranked = evaluate(found, lambda named: [one(kept) for _, kept in named], "kl")
    starts = (
        (p.choices, p.choices.state(r.candidate.selection), r)
        for r in ranked
        for p in each
        if p.choices.hidden == r.candidate.selection.hidden
    )
    choices, start, first = next(begin for begin in starts if begin[1] is not None)
    end = refine(
        choices, start, first.quality.kl, lambda state: one(choices.selection(state)).kl, moves
    )
    if end.value < first.quality.kl:
        better = candidate(choices, end.state, "r001", "local search", plan.bytes)
        ranked = reranked(
            [*ranked, Evaluated(candidate=better, quality=one(better.selection))], "kl"
        )
    return ranked, len(ranked) + end.tried
