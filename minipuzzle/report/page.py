"""One page about a run: a single file, no network, light and dark. It shows what the run directory
holds.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from minipuzzle.artifacts import write_atomic
from minipuzzle.records import (
    CandidateRow,
    EvalResult,
    EvalRow,
    QuestionsResult,
    SearchResult,
    TasksResult,
)
from minipuzzle.report import plots
from minipuzzle.report.answered import kind_rows, questions_title
from minipuzzle.report.evaluated import (
    by_task,
    change,
    cost_rows,
    domain_rows,
    domains_title,
    eval_rows,
)
from minipuzzle.report.facts import SOURCES, Facts, versions
from minipuzzle.report.forecast import forecast
from minipuzzle.report.pattern import color_key, pattern_html
from minipuzzle.report.selected import block_rows, block_titles, removed_rows, why
from minipuzzle.report.steps import step_rows
from minipuzzle.report.tables import shape_columns
from minipuzzle.units import both, bytes_, count, percent

SHOWN = 12
METRICS = {
    "mse": "mean squared error of the last hidden states",
    "logit-mse": "mean squared error of the logits",
    "kl": "KL to the whole model",
    "loss": "rise of the loss",
}


SECTIONS = (
    "steps", "block_scores", "patterns", "hidden", "removed", "pareto", "front", "more",
    "curves", "forecast", "forecast_picture", "rows", "numbers", "costs", "domains", "tasks",
    "answered",
)  # fmt: skip
"""What the page leaves out where a run has not come so far."""


def build_report(run: Path) -> Path:
    """Write run/report.html from the files of the run that are there, and return its path.

    Raises: UserError where the folder is no run directory.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    facts = Facts(run)
    values: dict[str, Any] = {
        **dict.fromkeys(SECTIONS),
        "title": f"{facts.original.name}, compressed",
        "subtitle": f"Checkpoint {facts.original}",
        "commands": facts.commands,
        "versions": versions(),
        "sources": SOURCES,
        "kinds": color_key(facts.pattern),
    }
    if facts.scores is not None:
        values |= _score_values(facts)
    if facts.search is not None:
        values |= _search_values(facts, facts.search)
    if facts.logs:
        values |= {"curves": plots.loss_curves(facts.logs), "trained": _trained(facts)}
        values["forecast"], values["forecast_picture"] = _forecast(facts)
    if facts.steps:
        values["steps"] = step_rows(facts)
    if facts.measured is not None:
        values |= _eval_values(facts.measured)
    if (run / "tasks.json").exists():
        values["task_names"], values["tasks"] = by_task(TasksResult.load(run / "tasks.json"))
    if (run / "questions.json").exists():
        answered = QuestionsResult.load(run / "questions.json")
        values["answered"] = kind_rows(answered)
        values["answered_title"] = questions_title(answered)
        values["answered_names"] = [row.name for row in answered.rows]
    loader = PackageLoader("minipuzzle", "report")
    environment = Environment(
        loader=loader,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    target = run / "report.html"
    write_atomic(target, environment.get_template("page.html.j2").render(values).encode())
    return target


def _score_values(facts: Facts) -> dict[str, Any]:
    scores = facts.scores
    assert scores is not None
    meta = scores.meta
    seen = f"{meta.get('width_samples', '?')} blocks of {meta.get('block_length', '?')} tokens"
    return {
        "block_scores": plots.block_scores(facts.pattern, scores, facts.blocks),
        "heat_map": plots.heat_map(facts.pattern, scores, facts.blocks),
        "seen": seen,
        "metric": METRICS.get(str(meta.get("metric")), "damage"),
        "estimator": meta.get("estimator", "?"),
        "blocks": block_rows(facts),
    }


def _search_values(facts: Facts, search: SearchResult) -> dict[str, Any]:
    winner = facts.winner
    assert winner is not None
    shares, titles = block_titles(facts)
    shape = shape_columns(search, [c.shape for c in search.candidates])
    front = {"front": plots.front_picture(search, winner.name)} if search.front else {}
    return {
        **front,
        "patterns": pattern_html(facts.pattern, winner.strip, shares, titles, facts.hidden),
        "why": why(facts),
        "removed": removed_rows(facts),
        "funnel": _funnel(search),
        "pareto": plots.pareto(search, winner.name),
        "columns": list(shape),
        "candidates": [
            _candidate(c, winner.name, shape.values()) for c in search.candidates[:SHOWN]
        ],
        "more": max(0, len(search.candidates) - SHOWN),
        "before": search.parent.pattern,
        "after": winner.strip,
        "hidden": facts.hidden_change,
    }


def _funnel(search: SearchResult) -> list[dict[str, Any]]:
    """The steps, with a bar for what is left, on a log scale."""
    largest = np.log1p(max(max(step.entered, step.left) for step in search.funnel))
    return [
        {**vars(step), "bar": round(100 * np.log1p(step.left) / largest)} for step in search.funnel
    ]


def _candidate(c: CandidateRow, winner: str, shape: Iterable[str]) -> dict[str, Any]:
    return {
        "shape": [c.shape[field] for field in shape],
        "best": c.name == winner,
        "rank": c.rank,
        "name": c.name,
        "parameters": ", ".join(both(c.parameters, c.active, " active")),
        "memory": bytes_(c.bytes),
        "damage": f"{c.damage:.3g}",
        "accuracy": percent(c.next_token_accuracy, 1),
        "agreement": percent(c.agreement, 1),
        "loss": f"{c.loss:.4f}",
        "kl": f"{c.kl:.4f}",
    }


def _trained(facts: Facts) -> str:
    done = facts.distilled
    if done is None:
        return "No distillation of this search has finished."
    text = f"{done.tokens:,} tokens for {done.winner}, the winner; at the end KL "
    text += f"{done.final_kl:.4f} nats a token on the training text. "
    if long := done.long_validation_loss:
        text += f"Validation loss before and after them: {long[0]:.4f}, {long[1]:.4f}"
        each = ", ".join(f"{name} {loss:.4f}" for name, loss in done.validation_domains.items())
        text += f" ({each}). " if each else ". "
    if rates := done.rate_validation_loss:
        text += (
            "Validation loss of the first candidate after a short run at each learning rate, the"
            " best of which was taken: "
        )
        text += ", ".join(f"{rate} {loss:.4f}" for rate, loss in rates.items()) + ". "
    if screening := done.screening_validation_loss:
        text += f"{len(screening)} candidates were screened with a third of a short run: "
        text += ", ".join(f"{name} {loss:.4f}" for name, loss in screening.items()) + ". "
    if losses := done.short_validation_loss:
        text += f"Validation loss after {done.short_tokens:,} tokens each: "
        text += ", ".join(f"{name} {loss:.4f}" for name, loss in losses.items()) + "."
    return text


def _forecast(facts: Facts) -> tuple[str, str]:
    """(what more tokens would bring, its picture); empty before a distillation, and the picture
    where there is no forecast.
    """
    done = facts.distilled
    if done is None:
        return "", ""
    found = forecast(done.curve)
    if isinstance(found, str):
        return f"No forecast of what more tokens would bring: {found}.", ""
    ahead = ", ".join(
        f"{factor} x the tokens {loss:.4f} (95 % interval {low:.4f} to {high:.4f})"
        for factor, (loss, low, high) in found.losses.items()
    )
    text = (
        f"Forecast of the validation loss, by a power law through {len(done.curve)} points of the"
        f" long run on a sample of the text, {done.curve[-1][1]:.4f} at its end: with {ahead}. The"
        " interval is that of the fit alone: a longer run would have another learning rate at each"
        " of these points."
    )
    return text, plots.forecast_picture(done.curve, found)


def _active_change(first: EvalRow, last: EvalRow) -> list[tuple[str, str]]:
    """That of the parameters that one token is computed with, where these are not all."""
    if first.active is None:
        return []
    left = last.parameters if last.active is None else last.active
    text = f"active parameters: {count(first.active)} to {count(left)}"
    return [(change(left, first.active), text)]


def _eval_values(measured: EvalResult) -> dict[str, Any]:
    first, last = measured.rows[0], measured.rows[-1]
    numbers = [
        (
            change(last.parameters, first.parameters),
            f"parameters: {count(first.parameters)} to {count(last.parameters)}",
        ),
        *_active_change(first, last),
        (
            change(last.loss, first.loss),
            (
                f"validation loss of the {last.name}: {first.loss:.3f} to {last.loss:.3f}"
                " nats a token"
            ),
        ),
        (
            f"{last.tokens_per_second / first.tokens_per_second:.2f}x",
            (
                f"tokens a second on {measured.device}: {first.tokens_per_second:,.0f} to"
                f" {last.tokens_per_second:,.0f}"
            ),
        ),
    ]
    text = (
        f"{measured.tokens:,} tokens of validation text that the search never saw, on"
        f" {measured.device}."
    )
    return {
        "rows": eval_rows(measured),
        "numbers": numbers,
        "measured": text,
        "costs": cost_rows(measured),
        "domains": domain_rows(measured),
        "domains_title": domains_title(measured),
        "models": [row.name for row in measured.rows],
    }
