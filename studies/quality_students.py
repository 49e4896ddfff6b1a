"""The students of studies/quality_embedded.py, found and cut, and their texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from minipuzzle import embedded
from minipuzzle.arch import Architecture, Selection
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.data import TokenBlocks, Tokenizer, load_blocks
from minipuzzle.metrics import Answers
from minipuzzle.model import HybridLM
from minipuzzle.nas.plan import make_plan
from minipuzzle.nas.rank import Quality, evaluate
from minipuzzle.runs.parent import masked_qualities
from minipuzzle.scores import Scores
from minipuzzle.settings import SearchSettings
from minipuzzle.space import Shape
from minipuzzle.surgery import cut

LENGTH = 512


CHOICE_BLOCKS = 64


SPACES = {
    "ours": ("width=50%",),
    "depth only": ("width=100%", "attention=0%", "others=25%"),
    "width only": ("attention=100%", "others=100%", "width=12%"),
}


def search(
    model: HybridLM,
    scores: Scores,
    budget: str,
    least: tuple[str, ...],
    choice: TokenBlocks,
    said: Answers,
) -> tuple[Shape, Selection]:
    """The winner before training: enumerate, evaluate 24 candidates, mean rank of accuracy and
    agreement.
    """
    plan = make_plan(
        model.architecture, SearchSettings(budget=(budget,), min_keep=least, mamba_heads=True)
    )

    def each(named: Sequence[tuple[str, Selection]]) -> list[Quality]:
        return masked_qualities(model, [kept for _, kept in named], choice, said, batch=32)

    winner = evaluate(plan.candidates(scores, 24), each, "agreement")[0].candidate
    return shape_of(winner.selection.student(model.architecture)), winner.selection


def shape_of(student: Architecture) -> Shape:
    """The grid point of a student whose blocks of a kind are alike."""
    sizes = {
        width.axis: block.sizes[width.axis]
        for block in student.blocks
        for width in block.searched
        if width.in_grid
    }
    counts = {kind: student.count(kind) for kind in ("attention", "mlp", "mamba")}
    return Shape.of(counts, sizes, student.hidden)


def keep(parent: Checkpoint, selection: Selection, path: Path) -> str:
    """Cut and return the path."""
    cut(parent, selection, path)
    return str(path)


def texts(folder: Path, cache: Path, which: str) -> TokenBlocks:
    """The training or validation text, tokenised once."""
    tokenizer = Tokenizer.load(embedded.teacher_path())
    return load_blocks(
        folder if which == "train" else folder / "val", tokenizer, block_length=LENGTH, cache=cache
    )
