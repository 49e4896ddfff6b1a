"""What a run directory holds, as the facts that the page and the model card show."""

from __future__ import annotations

import importlib.metadata
import platform
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from minipuzzle.arch import Selection
from minipuzzle.checked import is_plain_name
from minipuzzle.errors import UserError
from minipuzzle.kinds import KINDS, Kept
from minipuzzle.records import (
    CandidateRow,
    CommandLog,
    CommandRow,
    Distilled,
    EvalResult,
    RunRecord,
    SearchResult,
    StepRow,
    load_log,
)
from minipuzzle.report.pattern import UNKNOWN
from minipuzzle.report.removed import Removal, hidden_change, misfit, removals
from minipuzzle.scores import Scores
from minipuzzle.version import VERSION

SOURCES = (
    ("2504.03624", "Nemotron-H and MiniPuzzle: block scores, search under a budget, distillation"),
    ("2407.14679", "Minitron: channel scores, logit distillation"),
    ("2411.19146", "Puzzle: block scores, solver"),
    ("2504.11409", "Minitron-SSM: group-aware Mamba pruning"),
    ("2405.21060", "Mamba-2"),
)


@dataclass(frozen=True)
class Facts:
    """A run directory, read lazily; what a later stage has not written yet is None or empty."""

    run: Path

    @cached_property
    def record(self) -> RunRecord:
        """run.json. Raises: UserError where the folder is no run directory."""
        return RunRecord.load(self.run / "run.json")

    @cached_property
    def parent(self) -> Path:
        """The parent checkpoint's folder. Raises: UserError where no command has named one yet."""
        if self.record.parent is None:
            raise UserError(
                "This run directory is about no model yet.",
                got=self.run,
                allowed="a run of minipuzzle score",
                next="Run minipuzzle score first, in the same run directory.",
            )
        return self.run / self.record.parent.path

    @property
    def original(self) -> Path:
        """The folder of the checkpoint that the parent was made from in earlier steps, or the
        parent's.
        """
        first = self.record.original
        return self.parent if first is None else Path(first.path)

    @property
    def steps(self) -> tuple[StepRow, ...]:
        """The steps that ended with this run's student; empty where there was one."""
        rows, done = self.record.steps or (), self.distilled
        return rows if rows and done and rows[-1].distill == done.key else ()

    @cached_property
    def search(self) -> SearchResult | None:
        """search.json."""
        return SearchResult.load(path) if (path := self.run / "search.json").exists() else None

    @cached_property
    def measured(self) -> EvalResult | None:
        """eval.json. None where it measured the student of another distillation."""
        found = EvalResult.load(path) if (path := self.run / "eval.json").exists() else None
        done = self.distilled
        if found and found.distill and found.distill != (done and done.key):
            return None
        return found

    @cached_property
    def commands(self) -> tuple[CommandRow, ...]:
        """The commands that were run, with seconds and date."""
        return CommandLog.load(self.run / "commands.json").commands

    @cached_property
    def scores(self) -> Scores | None:
        """scores.safetensors."""
        path = self.run / "scores.safetensors"
        scores = Scores.load(path) if path.exists() else None
        kept = self.selection
        if scores and kept and (wrong := misfit(self.pattern, scores, kept)):
            raise UserError(
                "The scores and the search are of different models.",
                got=wrong,
                allowed="scores.safetensors and search.json of one run",
                next="Run minipuzzle search again.",
            )
        return scores

    @cached_property
    def distilled(self) -> Distilled | None:
        """What the stage distill recorded: winner, losses, tokens. None where it was of another
        search.
        """
        found, search = self.record.stages.distill, self.record.stages.search
        return found if found and search and found.search == search.key else None

    @cached_property
    def winner(self) -> CandidateRow | None:
        """The candidate that was distilled, or is first so far, as search.json has it."""
        if self.search is None:
            return None
        name = self.distilled.winner if self.distilled else self.search.top[0]
        return self.search.candidate(name)

    @cached_property
    def selection(self) -> Selection | None:
        """What the winner keeps of the parent."""
        if self.search is None or self.winner is None:
            return None
        return self.search.selections[self.winner.name]

    @property
    def blocks(self) -> tuple[Kept | None, ...]:
        """What the winner keeps of each block; empty before a search."""
        return () if self.selection is None else self.selection.blocks

    @cached_property
    def hidden(self) -> tuple[int, int] | None:
        """The hidden sizes of parent and winner; None where it stayed."""
        kept = None if self.selection is None else self.selection.hidden
        if self.search is None or kept is None:
            return None
        return self.search.hidden_sizes[-1], len(kept)

    @property
    def hidden_change(self) -> str:
        """Both in words; empty where it stayed."""
        return "" if self.hidden is None else hidden_change(*self.hidden)

    @cached_property
    def pattern(self) -> str:
        """The parent's blocks, one letter each; before a search, UNKNOWN for a block without scores
        of channels or heads.
        """
        if self.search is not None:
            return self.search.parent.pattern
        scores = self.scores
        if scores is None:
            return ""
        letters = {width.score: kind.letter for kind in KINDS.values() for width in kind.widths}
        return "".join(
            next((letters[name] for name in scores.of(i)), UNKNOWN)
            for i in range(len(scores.blocks))
        )

    @cached_property
    def removed(self) -> list[Removal]:
        """What the winner lost, by kind of block and by axis."""
        if self.scores is None or self.selection is None:
            return []
        return removals(self.pattern, self.scores, self.selection)

    @cached_property
    def logs(self) -> dict[str, list[dict[str, float]]]:
        """The rows of each training log by the run's name; the short runs first."""
        paths = sorted((self.run / "distill").glob("*/log.csv"))
        found = {name: load_log(path) for path in paths if is_plain_name(name := path.parent.name)}
        return {name: rows for name, rows in found.items() if rows}


def versions() -> str:
    """What this page was made with."""
    names = ("torch", "numpy", "safetensors", "tokenizers")
    others = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    return f"minipuzzle {VERSION}, Python {platform.python_version()}, {others}"
