"""Stage search: run/search.json."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable

from minipuzzle.arch import Selection
from minipuzzle.bars import progress_bar
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.cost.files import files_of
from minipuzzle.data import TokenBlocks
from minipuzzle.errors import UserError
from minipuzzle.identity import fingerprint
from minipuzzle.nas.choices import State
from minipuzzle.nas.fit import misfit
from minipuzzle.nas.plan import Plan, make_plan
from minipuzzle.nas.propose import Proposals, candidate, front, propose_each
from minipuzzle.nas.rank import Evaluated, Quality, by_tasks, evaluate, reranked, worst_kl
from minipuzzle.nas.refine import Refined, refine
from minipuzzle.nas.result import search_result
from minipuzzle.nas.timing import load_timing
from minipuzzle.ranks import ranks
from minipuzzle.records import Front, Searched, SearchResult, SolverFacts, Step
from minipuzzle.runs.evaluations import Evaluations
from minipuzzle.runs.job import Job
from minipuzzle.runs.parent import MaskedParent
from minipuzzle.runs.search_memory import choose_rows
from minipuzzle.scores import Scores
from minipuzzle.settings import Ranking, SearchSettings
from minipuzzle.settings.bits import WHOLE, parse_bits

log = logging.getLogger(__name__)

FILE = "search.json"
LATENCY = "latency.json"
LARGEST = 10


def run_search(job: Job, settings: SearchSettings) -> SearchResult:
    """Enumerate what fits (and solve, block by block), evaluate and rank the candidates, keep the
    top ones.

    Under torchrun the parent is in shards over all processes; the first one searches, the others
    compute with it.
    """
    with job.run.locked(), ranks(job.device) as group:
        blocks = group.first_then_all(lambda: job.validation("search"))
        blocks = blocks.take(min(settings.validation_blocks, len(blocks)), seed=0)
        rows = None
        if group.world == 1:
            rows = choose_rows(job, blocks, settings)
        elif settings.formats:
            raise UserError(
                "Bits of blocks are searched in one process.",
                got=f"search.bits {settings.bits} in {group.world} processes",
                allowed="1, since weights in shards are not rounded",
                next="Start without torchrun, or leave search.bits out.",
            )
        parent = MaskedParent(job, blocks, group, rows)

        def work() -> SearchResult | None:
            if group.rank > 0:
                parent.serve()
                return None
            try:
                return _search(job, settings, blocks, parent)
            finally:
                parent.stop()

        found = group.together(work)[0]
        assert found is not None  # the first process's
        return found


def _search(
    job: Job, settings: SearchSettings, blocks: TokenBlocks, parent: MaskedParent
) -> SearchResult:
    file = job.run / "scores.safetensors"
    scores = Scores.load(file)
    check_scores(scores, job.parent)
    check_formats(scores, settings)
    timing = load_timing(settings, job.run / LATENCY)
    known_by = hashlib.sha256(file.read_bytes()).hexdigest()  # what is in it, not what made it
    times = None if timing is None else timing.identity()
    key = fingerprint(
        job.run.key("score"), known_by, settings.identity(), blocks.fingerprint, len(blocks), times
    )
    evaluations = Evaluations(job, key, parent)
    if job.run.is_done("search", key) and (job.run / FILE).exists():
        log.info(f"search: nothing changed, kept {job.run / FILE}")
        evaluations.forget()
        return SearchResult.load(job.run / FILE)
    files = files_of(job.parent, settings.formats)
    plan = make_plan(job.parent.architecture, settings, timing, files)
    for sentence in plan.parent.rules.sentences():
        log.info(f"search: {job.parent.config['model_type']}: {sentence}")
    for sentence in plan.sentences():
        log.info(f"search: {sentence}")
    search = Search(plan, scores, settings, evaluations, parent.tasks)
    result = search_result(job.parent, plan, settings, *search.run()).checked()
    job.run.unmark("search")
    result.save(job.run / FILE)
    job.run.mark(Searched(key=key, file=FILE))
    evaluations.forget()
    return result


class Search:
    """The funnel: what fits, what is evaluated, what local search makes of the best, what is kept.

    ``evaluations`` measure a candidate's quality, ``tasks`` its answers by kind.
    """

    def __init__(
        self,
        plan: Plan,
        scores: Scores,
        settings: SearchSettings,
        evaluations: Evaluations,
        tasks: Callable[[Selection], dict[str, float]],
    ) -> None:
        self.plan, self.scores, self.settings = plan, scores, settings
        self.evaluations, self.tasks = evaluations, tasks
        self.steps: list[Step] = []

    def run(self) -> tuple[list[Evaluated], list[Step], tuple[SolverFacts, Front] | None]:
        """(all evaluated candidates, best first; the funnel; what the solver found)."""
        started = time.monotonic()
        solver = self.settings.method == "solver"
        found = self.plan.candidates(self.scores, self.settings.candidates)
        self._step("points of the grid that fit", self.plan.points, self.plan.feasible.count, 0.0)
        self._step(
            "least predicted damage",
            self.plan.feasible.count,
            len(found),
            time.monotonic() - started,
        )
        solved: tuple[SolverFacts, Front] | None = None
        each: list[Proposals] = []
        if solver:
            each = propose_each(
                self.plan.parent,
                self.scores,
                self.plan.widest(self.settings),
                self.settings,
                self.plan.prices,
                self.settings.candidates,
            )
            solved, count = self._solved(each), 0
            for proposals in each:
                found += proposals.candidates(self.plan.bytes, count + 1)
                count += len(proposals.states)
            largest = self.plan.largest(self.scores, LARGEST)
            found += largest
            self._step("with the most parameters", self.plan.feasible.count, len(largest), 0.0)
            self._step("proposed by the solver", count, count, solved[0].seconds)
        started = time.monotonic()
        ranking: Ranking = "kl" if solver else "agreement"
        with progress_bar("search: candidates", len(found), "candidates") as bar:
            ranked = evaluate(found, self.evaluations, ranking, bar, self.settings.domains)
        self._step(
            "evaluated on validation text", len(found), len(ranked), time.monotonic() - started
        )
        if each and self.settings.refine:
            ranked = self._refined(ranked, each)
        if self.settings.by_tasks:
            ranked = self._by_tasks(ranked)
        self._step(
            "kept for distillation", len(ranked), min(self.settings.finalists, len(ranked)), 0.0
        )
        return ranked, self.steps, solved

    def _by_tasks(self, ranked: list[Evaluated]) -> list[Evaluated]:
        started, count = time.monotonic(), min(self.settings.by_tasks, len(ranked))
        found = []
        with progress_bar("search: tasks", count, "candidates") as bar:
            for evaluated in ranked[:count]:
                found.append(self.tasks(evaluated.candidate.selection))
                bar.advance()
        self._step("ranked again by tasks", len(ranked), count, time.monotonic() - started)
        return by_tasks(ranked, found)

    def _refined(self, ranked: list[Evaluated], each: list[Proposals]) -> list[Evaluated]:
        started, best = time.monotonic(), ranked[0].candidate.selection
        choices = next(
            (p.choices for p in each if p.choices.hidden == best.hidden), each[-1].choices
        )
        start = choices.state(best)
        if start is None or not choices.fits(start):
            log.info(
                "search: the best candidate has sizes that the solver's space has not; no local"
                " search"
            )
            return ranked
        start_kl = worst_kl(ranked[0].quality, self.settings.domains)
        with progress_bar("search: local search on KL", self.settings.refine, "moves") as bar:

            def quality(state: State) -> Quality:
                return self.evaluations([(f"move {state}", choices.selection(state))])[0]

            end = refine(
                choices,
                start,
                start_kl,
                lambda state: worst_kl(quality(state), self.settings.domains),
                self.settings.refine,
                bar,
            )
        self._say(end, start_kl)
        self._step("moves tried from the best", end.tried, end.accepted, time.monotonic() - started)
        if end.state == start:
            return ranked
        better = candidate(choices, end.state, "r001", "local search", self.plan.bytes)
        more = Evaluated(candidate=better, quality=quality(end.state))
        return reranked([*ranked, more], "kl", self.settings.domains)

    def _solved(self, each: list[Proposals]) -> tuple[SolverFacts, Front]:
        facts = SolverFacts(
            proposals=sum(len(p.states) for p in each),
            seconds=sum(p.seconds for p in each),
            gap=max(p.gap for p in each),
        )
        return facts, Front(names=tuple(self.plan.prices.names), points=front(each))

    def _step(self, stage: str, entered: int, left: int, seconds: float) -> None:
        self.steps.append(Step(stage=stage, entered=entered, left=left, seconds=seconds))

    @staticmethod
    def _say(end: Refined, start: float) -> None:
        state = "no further move helps" if end.settled else "the moves given are used up"
        log.info(
            f"search: local search tried {end.tried} models, took {end.accepted} moves, KL"
            f" {start:.4f} -> {end.value:.4f} nats/token; {state}"
        )


def check_formats(scores: Scores, settings: SearchSettings) -> None:
    """Raises: UserError where the scores do not say what the formats of ``search.bits`` do."""
    said = str(scores.meta.get("bits", ""))
    known = {WHOLE, *parse_bits(said).values()}
    if not known.issuperset(settings.formats.values()):
        raise UserError(
            "The scores do not say what blocks lose in these formats.",
            got=f"search.bits {settings.bits}, scores with {said or 'none'}",
            allowed="formats that score.bits named",
            next=f"Run minipuzzle score with score.bits {settings.bits} in this run directory.",
        )


def check_scores(scores: Scores, parent: Checkpoint) -> None:
    """Raises: UserError where the scores were measured on another checkpoint."""
    if scores.meta.get("parent") != parent.fingerprint:
        raise UserError(
            "The scores are of another checkpoint.",
            got=scores.meta.get("parent"),
            allowed=parent.fingerprint,
            next="Run minipuzzle score on this checkpoint, in its own run directory.",
        )
    if wrong := misfit(scores, parent.architecture):
        raise UserError(
            "The scores do not fit the checkpoint.",
            got=wrong,
            allowed=f"those of {parent.architecture.pattern}, each block's size",
            next="Run minipuzzle score again; delete scores.safetensors first.",
        )
