"""Stage distill: short runs for the top candidates (``race``), the long run for the best of them,
run/student/.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from minipuzzle.adapters import merge
from minipuzzle.adapters.saved import NAME as ADAPTER
from minipuzzle.arch import Architecture
from minipuzzle.checkpoint import Checkpoint, write_checkpoint
from minipuzzle.checkpoint.mix import with_chosen
from minipuzzle.checkpoint.writer import Encoder
from minipuzzle.identity import fingerprint
from minipuzzle.interrupt import legs
from minipuzzle.memory.optimizers import state_bytes_each
from minipuzzle.model import HybridLM
from minipuzzle.model.masks import meanwhile
from minipuzzle.ranks import ranks
from minipuzzle.records import Distilled, SearchResult
from minipuzzle.report.card import write_card
from minipuzzle.rundir import RunDir
from minipuzzle.runs.adapters import keep_adapter, plan_for
from minipuzzle.runs.checks import DistillInputs, open_caches, open_distill
from minipuzzle.runs.disk import Need, check_disk, distill_needs
from minipuzzle.runs.job import Job
from minipuzzle.runs.legs import LONG, USUAL, Legs
from minipuzzle.runs.prune import run_prune
from minipuzzle.runs.training_folder import TrainingFolder
from minipuzzle.settings import DistillSettings
from minipuzzle.training.expert_load import last_load
from minipuzzle.training.log import LOG
from minipuzzle.training.parallel import write_gathered
from minipuzzle.training.trained import trained_count

log = logging.getLogger(__name__)


def run_distill(job: Job, settings: DistillSettings, teacher_path: Path | None) -> Checkpoint:
    """Prune what search chose if that is not done, distil, and write the winner to run/student.

    Under torchrun student and teacher are sharded over all processes; the first one prunes and
    writes.
    """
    settings, data = settings.resolved().at_first_length(job.data)
    if settings.adapter.kind:  # decay would pull Delta W to 0, not the weights
        settings = replace(settings, training=replace(settings.training, weight_decay=0.0))
    target = job.run / "student"
    at_first_length = meanwhile([(job, "data", data)])
    processes = ranks(job.device, settings.training.offload)
    with at_first_length, job.run.locked(), processes as group, legs(group) as stop:
        inputs = open_distill(job, settings, teacher_path, students(job), group)
        needs = disk_needs(job, settings, inputs)
        if not target.exists():  # else perhaps nothing is to be done
            group.by_first(lambda: check_disk("distill", needs, job.device))
        cuts = group.first_then_all(lambda: _cuts(job))
        made = [cuts[name].fingerprint for name in sorted(cuts)]
        known = [job.run.key("prune"), made, inputs.teacher.fingerprint, inputs.blocks.fingerprint]
        known += [] if inputs.prompts is None else [inputs.prompts.fingerprint]
        key, identity = (
            fingerprint(*known, settings.decisive()),
            fingerprint(*known, settings.fixed()),
        )
        folder = TrainingFolder(job.run, "distill", identity, key)
        if job.run.is_done("distill", key) and target.exists():
            log.info(f"distill: nothing changed, kept {target}")
            group.by_first(lambda: _finish(job, folder))
            return Checkpoint.open(target)
        if target.exists():
            group.by_first(lambda: check_disk("distill", needs, job.device))
        group.by_first(folder.claim)
        run = Legs(job, settings, group, inputs, folder, stop)
        tried = run.try_rates(cuts)
        found = run.short_runs(cuts)
        winner = found.winner
        log.info(f"distill: {winner} goes on to the long run")
        model, final, validation = run.long_run(cuts[winner], winner, found.short.get(winner))
        if settings.adapter.kind:
            group.by_first(lambda: folder.replace(target, job.run / "adapter" / ADAPTER))
            group.first_then_all(lambda: _merge(job, model, cuts[winner], target))
        else:
            group.by_first(lambda: folder.replace(target))
            write_gathered(model, group, lambda tensor: write_student(cuts[winner], tensor, target))
        job.run.mark(
            Distilled(
                key=key,
                search=job.run.key("search"),
                winner=winner,
                short_validation_loss=found.short,
                screening_validation_loss=found.screening,
                final_kl=final,
                long_validation_loss=validation,
                validation_domains=run.domains,
                curve=run.curve,
                tokens=settings.training.tokens,
                learning_rate=run.training.learning_rate,
                rate_validation_loss=tried,
                short_tasks=run.tasks,
                short_tokens=settings.short_tokens if found.short else 0,
                expert_load=group.by_first(lambda: last_load(folder.path / LONG / LOG)),
            )
        )
        group.by_first(lambda: _finish(job, folder))
    return Checkpoint.open(target)


def students(job: Job) -> list[Architecture]:
    """The candidates as search.json has them, before they are cut."""
    search = SearchResult.load(job.run / "search.json")
    return [search.selections[name].student(job.parent.architecture) for name in search.top]


def disk_needs(job: Job, settings: DistillSettings, inputs: DistillInputs) -> list[Need]:
    """What a distillation of the candidates of search.json writes."""
    models, kind = students(job), settings.adapter
    trained = [
        plan_for(model, kind).trainable
        if kind.kind
        else trained_count(model, settings.training.trains(USUAL))
        for model in models
    ]
    sizes, averaged = [m.parameters for m in models], settings.training.average > 0
    each = max(state_bytes_each(model, settings.training.optimizer) for model in models)
    needs = distill_needs(job.run.path, job.parent, sizes, trained, averaged=averaged, each=each)
    if settings.teacher_logits:
        for cache in open_caches(settings, inputs):
            needs.append(Need("teacher logits", cache.disk_bytes(), cache.folder))
    return needs


def _finish(job: Job, folder: TrainingFolder) -> None:
    """What follows from a distillation that is marked as done; done again where a kill came
    between.
    """
    if not (job.run / "student" / "README.md").exists():
        write_card(job.run.path)
    folder.finish()


def write_student(
    like: Checkpoint,
    tensor: Callable[[str], torch.Tensor],
    target: Path,
    encoder: Encoder | None = None,
) -> None:
    """Write trained tensors, by name, as a checkpoint with the dtypes, config and tokenizer of
    ``like``, its matrices as an ``encoder`` codes them.
    """
    extra = like.family.extra_files(like.architecture)
    write_checkpoint(
        target,
        like.architecture,
        lambda name: tensor(name).to(like.held_dtype(name)).contiguous(),
        source=like,
        config=like.config if encoder is None else with_chosen(like.config, None),
        extra=extra,
        encoder=encoder,
    )


def _cuts(job: Job) -> dict[str, Checkpoint]:
    job.run = RunDir(job.run.path)  # with what the first process has written meanwhile
    return run_prune(job)


def _merge(job: Job, model: HybridLM, base: Checkpoint, target: Path) -> None:
    """Keep the adapter and write the student with it in its weights; only the process that writes
    has something to do.
    """
    if job.run.writes:
        lost = merge(base, keep_adapter(job, model, base), target)
        log.info(
            f"distill: adapter merged; {lost:.2%} of Delta W was lost to rounding to {base.dtype}"
        )
