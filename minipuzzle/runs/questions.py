"""Stage eval with tasks "embedded": the shipped questions on teacher, pruned and student, by kind;
run/questions.json.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from minipuzzle.bars import progress_bar
from minipuzzle.questions import CHANCE, item, questions
from minipuzzle.questions.answers import right
from minipuzzle.questions.intervals import Interval, difference, mean, share
from minipuzzle.records import Answered, QuestionsResult, QuestionsRow
from minipuzzle.runs.device import device_name
from minipuzzle.runs.evaluate import named_checkpoints
from minipuzzle.runs.job import Job
from minipuzzle.training import check_vocabularies

log = logging.getLogger(__name__)

FILE = "questions.json"
Given = dict[str, dict[str, NDArray[np.bool_]]]
"""By kind and task: which were right [n]."""


def run_questions(job: Job, others: list[Path], limit: int | None, longest: int) -> QuestionsResult:
    """Ask the run's checkpoints (or the teacher and ``others``) the half of the questions that
    nothing was chosen by, ``limit`` of a kind at most, texts of ``longest`` tokens at most and of
    no more than every model's context.
    """
    with job.run.locked():
        named = named_checkpoints(job, others)
        for checkpoint in named.values():
            check_vocabularies(
                checkpoint.architecture.vocab_size, job.original.architecture.vocab_size
            )
        longest = min([longest, *(c.architecture.max_positions for c in named.values())])
        asked = questions(job.tokenizer, "eval", longest=longest, limit=limit)
        items = {kind: [item(q, job.tokenizer) for q in found] for kind, found in asked.items()}
        given: dict[str, Given] = {}
        total = sum(map(len, items.values())) * len(named)
        with progress_bar("eval: questions", total, "questions") as bar:
            for name, checkpoint in named.items():
                own = checkpoint is job.parent
                model = job.parent_model if own else job.load_frozen(checkpoint)
                given[name] = {
                    kind: _by_task([q.task for q in asked[kind]], right(model, each, bar))
                    for kind, each in items.items()
                }
        first = next(iter(given.values()))
        result = QuestionsResult(
            device=device_name(job.device),
            limit=limit,
            longest=longest,
            rows=tuple(
                row(name, str(named[name].path), found, None if found is first else first)
                for name, found in given.items()
            ),
        ).checked()
        if job.run.writes:
            result.save(job.run / FILE)
    return result


def row(name: str, path: str, given: Given, first: Given | None) -> QuestionsRow:
    """The numbers of a model beside those of the ``first``."""
    kinds = {kind: _joined(tasks) for kind, tasks in given.items()}
    firsts = None if first is None else {kind: _joined(tasks) for kind, tasks in first.items()}
    return QuestionsRow(
        name=name,
        path=path,
        mean=_mean(list(kinds.values()), None if firsts is None else list(firsts.values())),
        kinds={
            kind: _answered(found, None if firsts is None else firsts[kind])
            for kind, found in kinds.items()
        },
        tasks={
            kind: {
                task: _answered(found, None if first is None else first[kind][task])
                for task, found in tasks.items()
            }
            for kind, tasks in given.items()
        },
    )


def _by_task(tasks: list[str], found: NDArray[np.bool_]) -> dict[str, NDArray[np.bool_]]:
    names = np.array(tasks)
    return {task: found[names == task] for task in dict.fromkeys(tasks)}


def _joined(tasks: dict[str, NDArray[np.bool_]]) -> NDArray[np.bool_]:
    return np.concatenate(list(tasks.values()))


def _answered(found: NDArray[np.bool_], first: NDArray[np.bool_] | None) -> Answered:
    return Answered(
        count=len(found),
        right=float(found.mean()),
        above=share(found).above(CHANCE),
        change=None if first is None else _change(found, first),
    )


def _mean(kinds: list[NDArray[np.bool_]], firsts: list[NDArray[np.bool_]] | None) -> Answered:
    change = None
    if firsts is not None:
        change = mean([_change(*pair) for pair in zip(kinds, firsts, strict=True)])
    return Answered(
        count=sum(map(len, kinds)),
        right=float(np.mean([found.mean() for found in kinds])),
        above=mean([share(found).above(CHANCE) for found in kinds]),
        change=change,
    )


def _change(found: NDArray[np.bool_], first: NDArray[np.bool_]) -> Interval:
    return difference(found, first).over(1 - CHANCE)
