"""What a training needs, opened and checked before anything is computed or cut for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from minipuzzle.arch import Architecture
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.data import TokenBlocks
from minipuzzle.errors import UserError
from minipuzzle.kernels import choose
from minipuzzle.model import HybridLM, set_precision
from minipuzzle.model.precision import require_engine
from minipuzzle.ranks import Ranks
from minipuzzle.runs.adapters import plan_for
from minipuzzle.runs.job import Job, open_checkpoint
from minipuzzle.runs.prompts import Prompts, load_prompts
from minipuzzle.settings import AdapterSettings, DistillSettings, Training
from minipuzzle.settings.lengths import Lengths, at_length
from minipuzzle.settings.training import ALL_OR_NONE, named_kinds
from minipuzzle.training import check_vocabularies
from minipuzzle.training.board import require_boards
from minipuzzle.training.keep import Keep
from minipuzzle.training.offline import TeacherCache
from minipuzzle.training.optimizers import require_optimizer
from minipuzzle.training.parallel import check_groups
from minipuzzle.training.stages import stages
from minipuzzle.training.update import check_batch


@dataclass(frozen=True, kw_only=True)
class DistillInputs:
    """The teacher, students as they may be, the training text, the half of the validation text that
    chooses, and prompts where the student continues some.
    """

    teacher: Checkpoint
    students: Sequence[Architecture]
    blocks: TokenBlocks
    validation: TokenBlocks
    prompts: Prompts | None = None


def open_distill(
    job: Job,
    settings: DistillSettings,
    teacher: Path | None,
    students: Sequence[Architecture],
    group: Ranks,
) -> DistillInputs:
    """Open what a distillation of ``students`` reads.

    Raises: UserError for a text, a teacher or a setting that it would stumble over later, after
    hours perhaps.
    """
    file = job.original if teacher is None else open_checkpoint(teacher)
    check_vocabularies(job.parent.architecture.vocab_size, file.architecture.vocab_size)
    first = job.data.length
    for length, _ in settings.length or ((first, 1.0),):
        stage = at_length(settings.training, first, length)
        check_training(stage, length, students, job.device, group)
    check_adapter(settings.training, settings.adapter, students)
    _check_precision(
        settings.teacher_precision, settings.training.bf16_ends, [file.architecture], job.device
    )
    longest = settings.length[-1][0] if settings.length else first
    inputs = DistillInputs(
        teacher=file,
        students=students,
        blocks=group.first_then_all(lambda: _training_text(job, settings.length, longest)),
        validation=group.first_then_all(lambda: job.validation("search")),
        prompts=_open_prompts(job, settings),
    )
    if settings.teacher_logits:
        open_caches(settings, inputs)
    return inputs


def _training_text(job: Job, lengths: Lengths, longest: int) -> TokenBlocks:
    """In blocks of the ``longest`` length; where there are conversations, packed anew for each of
    the other ``lengths``.
    """
    blocks = job.text("train", longest)
    if not blocks.spans:
        return blocks
    return replace(blocks, shorter=tuple(job.text("train", n) for n, _ in lengths[:-1]))


def _open_prompts(job: Job, settings: DistillSettings) -> Prompts | None:
    if not settings.on_policy and not settings.prompts:
        return None
    if not settings.on_policy or not settings.prompts:
        raise UserError(
            "Steps on the student's own completions need prompts and a share.",
            got=f"distill.on_policy {settings.on_policy:g}, distill.prompts"
            f" {settings.prompts or 'none'}",
            allowed="both, or none of them",
            next="Name both: on_policy 50%, and prompts as a file.",
        )
    if settings.training.precision != "bf16":
        raise UserError(
            "A student writes in BF16 or FP32.",
            got=f"distill.on_policy with training.precision {settings.training.precision}",
            allowed="training.precision bf16; the teacher's may be fp8",
            next="Change training.precision: decoding has too few rows for a product in FP8.",
        )
    if settings.completion >= job.data.length:
        raise UserError(
            "A completion leaves no room for its prompt.",
            got=f"distill.completion {settings.completion:,}, data.length {job.data.length:,}",
            allowed=f"at most {job.data.length - 1:,}",
            next="Lower distill.completion, or raise data.length.",
        )
    room = job.data.length - settings.completion
    return load_prompts(Path(settings.prompts), job.tokenizer, room)


def open_caches(settings: DistillSettings, inputs: DistillInputs) -> list[TeacherCache]:
    """The teacher's answers to the blocks of each length, in folders of their own where there are
    several. Raises: UserError where they are another teacher's or text's.
    """
    training, teacher = settings.training, inputs.teacher
    turns, folder = stages(inputs.blocks, training, settings.length), Path(settings.teacher_logits)
    return [
        TeacherCache(
            folder / str(turn.blocks.block_length) if settings.length else folder,
            turn.blocks,
            Keep.parse(settings.teacher_keep),
            # short runs have the first length
            positions=turn.positions(settings.short_tokens if turn is turns[0] else 0),
            seed=training.seed,
            teacher=f"{teacher.fingerprint} {settings.teacher_precision}",
            isolate=training.isolate_documents,
            vocabulary=teacher.architecture.vocab_size,
        )
        for turn in turns
    ]


def check_training(
    training: Training,
    length: int,
    models: Sequence[Architecture],
    device: torch.device,
    group: Ranks,
) -> None:
    """Raises: UserError for settings that these processes, blocks of this ``length`` or models
    cannot be trained with.
    """
    check_batch(training, length, group)
    check_groups(group, training, models)
    require_optimizer(training, group.world)
    require_boards(training.log_to)
    _check_kinds(training.activation_checkpointing, models)
    _check_precision(training.precision, training.bf16_ends, models, device)


def _check_kinds(checkpointing: str, models: Sequence[Architecture]) -> None:
    """Raises: UserError where activation checkpointing names a kind that no model has."""
    there = sorted({kind for model in models for kind in model.kinds})
    if wrong := sorted(named_kinds(checkpointing) - {*there}):
        raise UserError(
            "Activation checkpointing names blocks that this model does not have.",
            got=f"training.activation_checkpointing {checkpointing}: {', '.join(wrong)}",
            allowed=f"{', '.join(ALL_OR_NONE)}, or of {', '.join(there)}, with commas between",
            next="Change training.activation_checkpointing.",
        )


def check_adapter(
    training: Training, adapter: AdapterSettings, models: Sequence[Architecture]
) -> None:
    """Raises: UserError for an adapter that these models cannot have, and for weights that are to
    be trained beside it, since its file has none.
    """
    if not adapter.kind:
        return
    for model in models:
        plan_for(model, adapter)
    if training.optimizer != "adamw":
        raise UserError(
            "An adapter is trained with plain AdamW.",
            got=f"training.optimizer {training.optimizer}, adapter {adapter.kind}",
            allowed="training.optimizer adamw: what it holds of an adapter is small",
            next="Leave that setting out, or distil without an adapter.",
        )
    if training.offload:
        raise UserError(
            "An adapter has little to offload.",
            got=f"training.offload, adapter {adapter.kind}",
            allowed="one of them: the frozen weights stay on the GPU in any case",
            next="Leave training.offload out.",
        )
    if training.expert_parallel > 1:
        raise UserError(
            "An adapter is trained where all experts are.",
            got=f"training.expert_parallel {training.expert_parallel}, adapter {adapter.kind}",
            allowed="training.expert_parallel 1: FSDP shards the frozen weights",
            next="Leave that setting out, or distil without an adapter.",
        )
    others = training.train not in ("auto", "all-but-routers")
    if others or training.balance:
        asked = f"train {training.train}" if others else f"balance {training.balance:g}"
        raise UserError(
            "An adapter leaves all weights as they are.",
            got=f"training.{asked}, adapter {adapter.kind}",
            allowed="train auto, balance 0",
            next="Leave that setting out, or distil without an adapter.",
        )


def _check_precision(
    precision: str, ends: int, models: Sequence[Architecture], device: torch.device
) -> None:
    if precision == "fp8":
        require_engine(device)
    if precision != "bf16":
        for architecture in models:
            set_precision(
                HybridLM(architecture, device="meta", kernels=choose(device)), "fp8-emulated", ends
            )
