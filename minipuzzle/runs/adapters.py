"""What stages do with adapters: put them on a frozen model, say what they cost, keep them."""

from __future__ import annotations

import logging

from rich.table import Table

from minipuzzle.adapters import AdapterPlan, Adapters, SavedAdapter, attach, make_plan
from minipuzzle.adapters.peft import refused
from minipuzzle.adapters.saved import NAME
from minipuzzle.arch import Architecture
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.model import HybridLM
from minipuzzle.ranks import Ranks
from minipuzzle.report.text import as_text
from minipuzzle.runs.job import Job
from minipuzzle.settings import AdapterSettings, Training

log = logging.getLogger(__name__)


def adapted(
    job: Job, checkpoint: Checkpoint, settings: AdapterSettings, training: Training, group: Ranks
) -> HybridLM:
    """A checkpoint's model with frozen weights and fresh adapters; tells what is trained, against
    ordinary LoRA.

    Over several processes the weights are in shards, and each process has all of the adapters.
    Raises: UserError for an unknown adapter or a target that matches nothing or next to nothing.
    """
    plan = plan_for(checkpoint.architecture, settings)
    log.info(as_text(plan_table(plan)))
    if plan.lonely:
        log.info(f"alone in their group, so tied to nothing: {', '.join(plan.lonely)}")
    projection = refused(plan, checkpoint)
    if projection:
        log.info(
            f"{projection} is adapted: merge and vLLM take it, PEFT does not (leave it out for"
            f" PEFT: adapter.target {_without(checkpoint.architecture, projection)})"
        )
    model = job.load_frozen(checkpoint, group, training)
    attach(model, plan, seed=training.seed)
    return model


def _without(architecture: Architecture, projection: str) -> str:
    """A target that names all projections but one: kinds of blocks where it can."""
    words = set()
    for block in architecture.blocks:
        others = {name.removesuffix("_proj") for name in block.projections if name != projection}
        words |= others if projection in block.projections else {block.kind}
    return ",".join(sorted(words))


def plan_for(architecture: Architecture, settings: AdapterSettings) -> AdapterPlan:
    """Which projections of a model get which factors. Raises: as ``adapted``."""
    return make_plan(
        architecture,
        settings.kind,
        rank=settings.rank,
        alpha=settings.alpha or None,
        target=settings.target,
        few=settings.few,
    )


def keep_adapter(job: Job, model: HybridLM, base: Checkpoint) -> SavedAdapter:
    """Write the trained factors to run/adapter/adapter.safetensors, and return them."""
    adapters = model.get_submodule("adapters")
    assert isinstance(adapters, Adapters)
    saved = SavedAdapter(plan=adapters.plan, tensors=adapters.tensors(), base=base.fingerprint)
    if job.run.writes:
        saved.write(job.run / "adapter" / NAME)
    return saved


def plan_table(plan: AdapterPlan) -> Table:
    """Groups, what each trains and what LoRA of the same rank would, and the sums."""
    table = Table(title=f"{plan.mask}, rank {plan.groups[0].rank}", title_justify="left")
    for column in ("group", "layers", "trained", "LoRA", "of LoRA"):
        table.add_column(column, justify="left" if column == "group" else "right")
    for group in plan.groups:
        trained = group.trainable(plan.mask)
        table.add_row(
            group.name,
            str(group.layers),
            f"{trained:,}",
            f"{group.lora:,}",
            f"{trained / group.lora:.2%}",
        )
    table.add_section()
    layers = sum(group.layers for group in plan.groups)
    table.add_row(
        "all",
        str(layers),
        f"{plan.trainable:,}",
        f"{plan.lora:,}",
        f"{plan.trainable / plan.lora:.2%}",
    )
    return table
