"""What a scoring will compute: checked, and counted, before it begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from minipuzzle.arch import Architecture
from minipuzzle.errors import UserError
from minipuzzle.importance.curves import variants
from minipuzzle.importance.estimators import check_streamed
from minipuzzle.settings import ScoreSettings


def check_settings(settings: ScoreSettings, architecture: Architecture) -> None:
    """Raises: UserError for an unknown estimator or more removals than blocks or layers that go one
    by one.
    """
    check_streamed(settings.estimator)
    count = len(architecture.layer_groups)
    if settings.iterative >= count:
        raise UserError(
            "Iterative scoring must leave a block.",
            got=f"{settings.iterative} removals of {count} blocks or layers",
            allowed=f"at most {count - 1}",
            next="Lower score.iterative.",
        )


def work(
    settings: ScoreSettings,
    architecture: Architecture,
    available: int,
    formats: Sequence[Sequence[tuple[str, int]]] = (),
) -> int:
    """Samples x blocks that ``score`` computes over a text of ``available`` blocks, on all
    processes together. ``formats[i]`` are those that block i is measured in (``importance.bits``).
    """
    samples, shared = min(settings.samples, available), min(settings.block_samples, available)
    count = len(architecture.blocks)
    started = [
        variants(architecture, i, settings.curves, settings.experts, formats[i] if formats else ())
        for i in range(count)
    ]
    step = len(architecture.layer_groups[0])
    begun = sum(count - i - (v.axis is None) for i, each in enumerate(started) for v in each)
    total = max(samples, shared) * count + shared * begun
    for left in range(count - step, count - step * max(1, settings.iterative), -step):
        layers = sum(range(0, left, step)) if step > 1 else 0
        total += shared * (left * (left + 1) // 2 + layers)
    return total


def one_by_one_sentence(settings: ScoreSettings, architecture: Architecture, available: int) -> str:
    """What removing experts one by one adds to ``work``, in words; "" where none are."""
    usual = replace(settings, experts=ScoreSettings().experts)
    total, without = (work(s, architecture, available) for s in (settings, usual))
    if total == without:
        return ""
    return (
        f"experts removed one by one: {total / without:.1f} times the work of score.experts"
        f" {usual.experts}, {total:,} samples x blocks"
    )
