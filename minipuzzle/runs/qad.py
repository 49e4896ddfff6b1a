"""Stage qad: the student goes on learning from its teacher with the weights that a quantised file
will mean, and is written so, as run/quantised/.

Source: quantisation-aware distillation, arXiv:2601.20088.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import torch

from minipuzzle.checkpoint import Checkpoint
from minipuzzle.checkpoint.config import read_config
from minipuzzle.checkpoint.mix import chosen, formats
from minipuzzle.checkpoint.shards import read_entries
from minipuzzle.errors import InternalError, UserError
from minipuzzle.export.compressed import Encoder, coded
from minipuzzle.identity import fingerprint
from minipuzzle.interrupt import legs
from minipuzzle.memory.formats import Pair
from minipuzzle.memory.optimizers import half, state_bytes_each
from minipuzzle.metrics import measure
from minipuzzle.model import HybridLM
from minipuzzle.model.masks import meanwhile
from minipuzzle.ranks import Ranks, ranks
from minipuzzle.records import Quantised
from minipuzzle.runs.checks import open_distill
from minipuzzle.runs.disk import check_disk, training_needs
from minipuzzle.runs.distill import write_student
from minipuzzle.runs.job import Job, open_checkpoint
from minipuzzle.runs.legs import USUAL, Legs
from minipuzzle.runs.training_folder import TrainingFolder
from minipuzzle.settings import DistillSettings
from minipuzzle.training.parallel import gather
from minipuzzle.training.trained import trained_count

log = logging.getLogger(__name__)

STUDENT, TARGET = "student", "quantised"
"""Folders of the run: what it begins with, and what it writes."""


def run_qad(job: Job, settings: DistillSettings, teacher_path: Path | None) -> Path:
    """Train run/student in ``settings.student_precision`` and write it in that format.

    run/student stays as it is. Raises: UserError where there is no student yet, for settings that
    do not go with it, and as ``run_distill`` and ``run_quantize``.
    """
    settings, data = settings.resolved().at_first_length(job.data)
    target, at_first_length = job.run / TARGET, meanwhile([(job, "data", data)])
    with at_first_length, job.run.locked(), ranks(job.device) as group, legs(group) as stop:
        student = _student(job, settings, group)
        encoder = Encoder(student, _formats(student, settings))
        inputs = open_distill(job, settings, teacher_path, [student.architecture], group)
        known = [student.fingerprint, inputs.teacher.fingerprint, inputs.blocks.fingerprint]
        known += [] if inputs.prompts is None else [inputs.prompts.fingerprint]
        key = fingerprint(*known, settings.decisive())
        folder = TrainingFolder(job.run, Quantised.name, fingerprint(*known, settings.fixed()), key)
        if job.run.is_done(Quantised.name, key) and target.exists():
            log.info(f"distill: nothing changed, kept {target}")
            folder.finish()
            return target
        training = settings.training
        trained = trained_count(student.architecture, training.trains(USUAL))
        averaged = training.average > 0
        each = state_bytes_each(student.architecture, training.optimizer)
        needs = training_needs(
            folder.path, trained, target, encoder.nbytes, averaged=averaged, each=each
        )
        check_disk("distill", needs, job.device)
        folder.claim()
        run = Legs(job, settings, group, inputs, folder, stop, encoder)
        whole = measure(job.load_frozen(student), inputs.validation).loss
        tried = run.try_rates({STUDENT: student})
        model, final, (after, loss) = run.long_run(student, STUDENT, None)
        log.info(
            f"distill: validation loss {whole:.4f} nats/token whole, {after:.4f} quantised"
            f" afterwards, {loss:.4f} trained so"
        )
        folder.replace(target)
        written = write_quantised(student, encoder, model, target)
        job.run.mark(
            Quantised(
                key=key,
                format=settings.student_precision,
                bytes=written,
                whole_validation_loss=whole,
                after_validation_loss=after,
                validation_loss=loss,
                final_kl=final,
                curve=run.curve,
                tokens=training.tokens,
                learning_rate=run.training.learning_rate,
                rate_validation_loss=tried,
            )
        )
        folder.finish()
    return target


def write_quantised(like: Checkpoint, encoder: Encoder, model: HybridLM, target: Path) -> int:
    """Write a trained model's weights as ``encoder`` codes them, the rest as ``like``; the bytes of
    all tensors.
    """

    def held(name: str) -> torch.Tensor:
        return gather(model, name).to(like.held_dtype(name))

    encoder.measure(held)
    write_student(like, held, target, encoder)
    config, _ = read_config(target)
    written = sum(entry.nbytes for entry in read_entries(target, config)[0].values())
    if written != encoder.nbytes:
        raise InternalError(f"{written:,} bytes were written where {encoder.nbytes:,} were planned")
    return written


def without(settings: DistillSettings) -> DistillSettings:
    """The distillation that comes before: the same in whole precision."""
    return replace(settings, student_precision="bf16")


def _formats(student: Checkpoint, settings: DistillSettings) -> tuple[Pair, ...]:
    """Those of its blocks. Raises: UserError where they are to be as a search chose, and none did,
    or left all as they are.
    """
    blocks = len(student.architecture.blocks)
    found = formats(student.config, blocks, *settings.student_format)
    auto = settings.student_precision == "auto"
    if auto and (chosen(student.config, blocks) is None or not coded(found)):
        raise UserError(
            "No search chose formats for the blocks of the student.",
            got="distill.student_precision auto",
            allowed="a student of a search with search.bits",
            next="Search with search.bits, or name a format with distill.student_precision.",
        )
    return found


def _student(job: Job, settings: DistillSettings, group: Ranks) -> Checkpoint:
    """What it begins with. Raises: UserError where it cannot begin."""
    asked = f"distill.student_precision {settings.student_precision}"
    if not (job.run / STUDENT / "config.json").is_file():
        raise UserError(
            "There is no recovered student that could be quantised.",
            got=f"{asked}, no {job.run / STUDENT}",
            allowed="a run in which distill has finished in whole precision",
            next="Run the same command without distill.student_precision first.",
        )
    if settings.adapter.kind:
        raise UserError(
            "An adapter cannot be trained beside quantised weights.",
            got=f"{asked}, adapter {settings.adapter.kind}",
            allowed="one of them",
            next="Leave the adapter out.",
        )
    if settings.training.offload:
        raise UserError(
            "Quantised weights are made on the GPU, from masters that lie there.",
            got=f"{asked}, training.offload",
            allowed="one of them",
            next="Leave training.offload out.",
        )
    if half(settings.training.optimizer):
        raise UserError(
            "Quantised weights are cast from FP32 ones.",
            got=f"{asked}, training.optimizer {settings.training.optimizer}",
            allowed="training.optimizer adamw or adamw-8bit",
            next="Take adamw-8bit.",
        )
    if group.world > 1:
        raise UserError(
            "Quantised weights are trained in one process.",
            got=f"{asked}, {group.world} processes",
            allowed="1, since the scale of a matrix is not gathered from its shards",
            next="Start without torchrun.",
        )
    return open_checkpoint(job.run / STUDENT)
