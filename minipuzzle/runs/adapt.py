"""Stage adapt: a checkpoint's weights stay, an adapter learns a text or its answers,
run/adapter/.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from minipuzzle.adapters.saved import NAME
from minipuzzle.identity import fingerprint
from minipuzzle.interrupt import legs
from minipuzzle.model import HybridLM
from minipuzzle.ranks import Ranks, ranks
from minipuzzle.records import Adapted
from minipuzzle.runs.adapters import adapted, keep_adapter, plan_for
from minipuzzle.runs.checks import check_adapter, check_training
from minipuzzle.runs.disk import check_disk, training_needs
from minipuzzle.runs.job import Job, open_checkpoint
from minipuzzle.runs.training_folder import TrainingFolder, train_in
from minipuzzle.settings import ADAPT_RATE, AdaptSettings
from minipuzzle.training import answers_only, check_vocabularies, distillation, next_token
from minipuzzle.training.expert_load import last_load
from minipuzzle.training.log import LOG
from minipuzzle.training.objectives import Objective

log = logging.getLogger(__name__)


def run_adapt(job: Job, settings: AdaptSettings, teacher_path: Path | None) -> tuple[Path, Adapted]:
    """Train an adapter on job.data.train; (the file of the adapter, what was recorded).

    Conversations are learned by what ``data.loss_on`` says, other texts by every next token; with a
    teacher by KL(teacher || model) in place of cross-entropy. Under torchrun the
    weights of both are sharded over all processes. Raises: UserError where nothing would be
    trained.
    """
    settings = replace(settings, training=settings.training.at(ADAPT_RATE))
    with job.run.locked(), ranks(job.device) as group, legs(group):
        return _adapt(job, settings, teacher_path, group)


def _adapt(
    job: Job, settings: AdaptSettings, teacher_path: Path | None, group: Ranks
) -> tuple[Path, Adapted]:
    blocks = group.first_then_all(lambda: job.text("train"))
    check_training(settings.training, job.data.length, [job.parent.architecture], job.device, group)
    check_adapter(settings.training, settings.adapter, [job.parent.architecture])
    teacher_file = None if teacher_path is None else open_checkpoint(teacher_path)
    if teacher_file is not None:
        check_vocabularies(job.parent.architecture.vocab_size, teacher_file.architecture.vocab_size)
    inputs = (
        job.parent.fingerprint,
        blocks.fingerprint,
        "" if teacher_file is None else teacher_file.fingerprint,
    )
    key, identity = (
        fingerprint(*inputs, settings.decisive()),
        fingerprint(*inputs, settings.fixed()),
    )
    target, folder = (job.run / "adapter" / NAME, TrainingFolder(job.run, "adapt", identity, key))
    if job.run.is_done("adapt", key) and target.exists():
        log.info(f"adapt: nothing changed, kept {target}")
        group.by_first(folder.finish)
        return target, job.run.stage(Adapted)
    trained = plan_for(job.parent.architecture, settings.adapter).trainable
    needs = training_needs(
        folder.path, trained, target, 4 * trained, averaged=settings.training.average > 0
    )
    group.by_first(lambda: check_disk("adapt", needs, job.device))
    model = adapted(job, job.parent, settings.adapter, settings.training, group)
    group.by_first(folder.claim)
    teacher = (
        None if teacher_file is None else job.load_frozen(teacher_file, group, settings.training)
    )
    training = replace(settings.training, weight_decay=0.0)
    final = train_in(
        job,
        model,
        _objective(blocks.spans, teacher),
        blocks,
        training,
        folder.path,
        identity,
        "adapt",
        group=group,
        teacher=teacher,
    )
    group.by_first(lambda: folder.replace(target))
    plan = group.first_then_all(lambda: keep_adapter(job, model, job.parent)).plan
    job.run.mark(
        Adapted(
            key=key,
            final_loss=final,
            tokens=training.tokens,
            trained=plan.trainable,
            lora=plan.lora,
            expert_load=group.by_first(lambda: last_load(folder.path / LOG)),
        )
    )
    group.by_first(folder.finish)
    return target, job.run.stage(Adapted)


def _objective(spans: bool, teacher: HybridLM | None) -> Objective:
    if teacher is not None:
        return distillation(teacher, spans=spans)
    return answers_only() if spans else next_token
