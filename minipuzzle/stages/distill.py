"""Stage distill: short runs for the top candidates, the long run for the best of them, run/student/."""

from __future__ import annotations

import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from minipuzzle.artifacts import fingerprint
from minipuzzle.checkpoint import Checkpoint, write_checkpoint
from minipuzzle.data import TokenBlocks
from minipuzzle.distill import check_vocabularies, distillation, load_parameters, train
from minipuzzle.distill.loop import STATES
from minipuzzle.distill.objectives import Objective
from minipuzzle.evaluate import measure
from minipuzzle.model import HybridLM, frozen, set_precision
from minipuzzle.progress import progress_bar
from minipuzzle.recipe import DistillSettings, Training
from minipuzzle.report.card import write_card
from minipuzzle.stages.job import Job, say
from minipuzzle.stages.meter import Meter
from minipuzzle.stages.prune import run_prune


def run_distill(job: Job, settings: DistillSettings, teacher_path: Path | None) -> Checkpoint:
    """Prune what search chose if that is not done, distil, and write the winner to run/student."""
    teacher_file = job.parent if teacher_path is None else Checkpoint.open(teacher_path)
    check_vocabularies(job.parent.architecture.vocab_size, teacher_file.architecture.vocab_size)
    cuts = run_prune(job)
    blocks = job.text("train")
    inputs = (job.run.key("prune"), teacher_file.fingerprint, blocks.fingerprint)
    key, identity = fingerprint(*inputs, asdict(settings)), fingerprint(*inputs, settings.fixed())
    target = job.run / "student"
    if job.run.is_done("distill", key) and target.exists():
        say(f"distill: nothing changed, kept {target}")
        return Checkpoint.open(target)
    same = teacher_file.fingerprint == job.parent.fingerprint
    teacher = frozen(job.take_parent() if same else job.load(teacher_file))
    set_precision(teacher, settings.teacher_precision, settings.training.bf16_ends)
    objective = distillation(teacher, settings.loss)
    winner, losses = _short_runs(job, cuts, objective, blocks, settings, identity, teacher)
    say(f"distill: {winner} goes on to the long run")
    model = job.load(cuts[winner])
    if winner in losses:
        load_parameters(job.run / "distill" / f"{winner}-short" / STATES, model)
    folder = job.run / "distill" / "long"
    final = _train(model, objective, blocks, settings.training, folder, f"{identity} {winner}", "distill: long run", teacher)
    write_student(cuts[winner], model, target)
    job.run.mark("distill", key, winner=winner, short_validation_loss=losses, final_kl=final,
                 tokens=settings.training.tokens, short_tokens=settings.short_tokens if losses else 0)  # fmt: skip
    write_card(job.run.path)
    for states in (job.run / "distill").glob(f"*/{STATES}"):
        shutil.rmtree(states)  # finished: the student is written, and the logs stay
    return Checkpoint.open(target)


def write_student(like: Checkpoint, model: HybridLM, target: Path) -> None:
    """Write a trained model as a checkpoint with the dtypes, config and tokenizer of ``like``."""
    values = model.state_dict()

    def tensor(name: str) -> torch.Tensor:
        return values[name].detach().cpu().to(like.tensor(name).dtype).contiguous()

    extra = like.family.extra_files(like.architecture)
    write_checkpoint(target, like.architecture, tensor, source=like, config=like.config, extra=extra)


def _short_runs(
    job: Job, cuts: dict[str, Checkpoint], objective: Objective, blocks: TokenBlocks, settings: DistillSettings,
    identity: str, teacher: HybridLM,
) -> tuple[str, dict[str, float]]:  # fmt: skip
    """(the candidate with the lowest validation loss after its short run, all their losses)."""
    if len(cuts) == 1:
        return next(iter(cuts)), {}
    short = replace(settings.training, tokens=settings.short_tokens)
    validation = job.validation("search")
    losses = {}
    for name, checkpoint in cuts.items():
        model = job.load(checkpoint)
        folder = job.run / "distill" / f"{name}-short"
        _train(model, objective, blocks, short, folder, f"{identity} {name} short", f"distill: {name}, short", teacher)
        losses[name] = measure(model, validation).loss
        say(f"distill: {name} after {settings.short_tokens:,} tokens: validation loss {losses[name]:.4f} nats/token")
    return min(losses, key=losses.__getitem__), losses


def _train(
    model: HybridLM, objective: Objective, blocks: TokenBlocks, settings: Training, folder: Path, identity: str,
    label: str, teacher: HybridLM,
) -> float:  # fmt: skip
    if (folder / STATES).exists() and not _belongs(folder, identity):
        shutil.rmtree(folder)  # an earlier run with other inputs in this run directory; its log goes with it
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "identity").write_text(identity)
    meter = Meter("loss", model.architecture, blocks.block_length, next(model.parameters()).device,
                  teacher=teacher.architecture)  # fmt: skip
    with progress_bar(label, settings.tokens, "tokens") as bar:

        def advance(tokens: int, loss: float) -> None:
            bar.update(min(tokens, settings.tokens), meter.note(tokens, loss))

        return train(model, objective, blocks, settings, folder, identity=identity, advance=advance, say=say)


def _belongs(folder: Path, identity: str) -> bool:
    file = folder / "identity"
    return file.exists() and file.read_text() == identity


def summary(job: Job) -> dict[str, Any]:
    """What the stage recorded: winner, validation losses, final KL, tokens."""
    return job.run.facts("distill")
