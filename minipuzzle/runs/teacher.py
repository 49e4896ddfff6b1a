"""The teacher of a distillation: whole on each GPU where the student's step leaves room for it."""

from __future__ import annotations

from minipuzzle.adapters import attach
from minipuzzle.memory.training import MASTER
from minipuzzle.model import HybridLM, keep_codes, set_precision
from minipuzzle.ranks import Ranks
from minipuzzle.runs.adapters import plan_for
from minipuzzle.runs.checks import DistillInputs
from minipuzzle.runs.job import Job
from minipuzzle.settings import DistillSettings
from minipuzzle.training.prepare import holds_teacher
from minipuzzle.training.stages import stages


def load_teacher(
    job: Job, settings: DistillSettings, inputs: DistillInputs, group: Ranks
) -> HybridLM:
    """Frozen, in its precision; over several processes whole in each or in shards."""
    job.forget_parent()
    training = settings.training
    whole = group.world > 1 and _is_whole(settings, inputs, group)
    teacher = job.load_frozen(inputs.teacher, None if whole else group, training)
    set_precision(teacher, settings.teacher_precision, training.bf16_ends)
    return keep_codes(teacher)


def _is_whole(settings: DistillSettings, inputs: DistillInputs, group: Ranks) -> bool:
    """As the largest step of the largest student leaves room, and where it writes completions, a
    whole copy of it.
    """
    turns = stages(inputs.blocks, settings.training, settings.length)
    most = max(turns, key=lambda stage: stage.at_once(group.world))
    models = [HybridLM(student, device="meta") for student in inputs.students]
    for model in models if settings.adapter.kind else ():
        attach(model, plan_for(model.architecture, settings.adapter))
    largest = max(model.architecture.parameters for model in models)
    return holds_teacher(
        models,
        inputs.teacher.architecture,
        most.settings,
        most.at_once(group.world),
        group,
        None if settings.teacher_precision == "bf16" else settings.training.bf16_ends,
        MASTER * largest if settings.on_policy else 0,
    )
