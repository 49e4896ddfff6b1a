"""What an engine is: a file of this folder that holds ``ENGINE``, one of these. No torch.

A rule says whether the engine loads a checkpoint, from its shapes alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from shlex import quote

from minipuzzle.arch import Architecture
from minipuzzle.kinds import Block

HYBRIDS = ("nemotron_h", "nemotron_h_puzzle")
EVERYWHERE = ("llama", "mistral", "qwen2", "qwen3")
"""Families that every engine here has had for years."""
WITH_EXPERTS = ("qwen3_moe", "olmoe", "granitemoehybrid")
"""Families whose configs have one size of experts for all blocks."""
DELTA_NETS = ("qwen3_next", "qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text")
"""Families of gated DeltaNet with attention behind a gate; their configs have one size for all."""
FP8_STEP = 16
"""Grouped products in FP8 take columns in steps of 16 bytes."""
AS_IT_IS = "as it is: an ordinary checkpoint of its family"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A checkpoint, of which only config.json and the tokenizer need be there."""

    path: Path
    family: str
    architecture: Architecture


@dataclass(frozen=True, kw_only=True)
class Answer:
    """ "yes", "no" or "unproven"; how the engine is started, or why it does not load. ``flags`` are
    words after its command; ``merge`` is a file of the checkpoint to be merged into a copy's
    config.json.
    """

    loads: str
    how: str
    flags: str = ""
    merge: str = ""


def yes(how: str, *, flags: str = "", merge: str = "") -> Answer:
    """It loads."""
    return Answer(loads="yes", how=how, flags=flags, merge=merge)


def no(why: str) -> Answer:
    """It does not."""
    return Answer(loads="no", how=why)


def unproven(why: str) -> Answer:
    """Nobody knows."""
    return Answer(loads="unproven", how=why)


def ordinary(asked: Asked) -> Answer:
    """The answer of an engine that was not looked at for this family."""
    if asked.family in EVERYWHERE:
        return yes(AS_IT_IS)
    return unproven("whether it has this family was not looked up")


@dataclass(frozen=True, kw_only=True)
class Engine:
    """A program that runs checkpoints.

    ``label`` is its name for people, ``place`` its place in the table. ``read`` says in which
    source the ``rule`` was read, ``families`` for which model_types; ``others`` answers for the
    rest. ``serve`` starts it, with {path} for the checkpoint and {gguf} for a file named after it.
    ``formats``: what it makes of quantised weights, by ``checkpoint.quantised.form_of``.
    ``cache``: what it does by a file's scales of keys and values.
    ``gguf``: it reads the file that we write, not the checkpoint. ``splits``: it puts experts on
    several GPUs and multiplies them in FP8, for which not every size is good.
    """

    label: str
    place: int
    serve: str
    read: str
    families: tuple[str, ...]
    rule: Callable[[Asked], Answer]
    others: Callable[[Asked], Answer] = ordinary
    formats: Mapping[str, Answer] = field(default_factory=dict)
    cache: str = "scales of keys and values: not tried"
    gguf: bool = False
    splits: bool = False

    def answer(self, asked: Asked) -> Answer:
        """Whether it loads a checkpoint."""
        found = (self.rule if asked.family in self.families else self.others)(asked)
        notes = awkward(asked.architecture) if self.splits and found.loads == "yes" else []
        return replace(found, how="; ".join([found.how, *notes]))

    def command(self, path: Path, answer: Answer) -> str:
        """What starts it on a POSIX shell; "" where it does not load."""
        if answer.loads == "no":
            return ""
        folder, before = path, ""
        if answer.merge:
            folder = path.with_name(f"{path.resolve().name}-{Path(answer.merge).suffixes[0][1:]}")
            own, copy = quote(str(path)), quote(str(folder))
            before = (
                f'mkdir {copy} && ln -s "$(realpath {own})"/* {copy} && rm {copy}/config.json'
                f" && jq -s add {own}/config.json {own}/{answer.merge} > {copy}/config.json && "
            )
        words = {"path": quote(str(folder)), "gguf": quote(f"{folder.resolve().name}.gguf")}
        return before + " ".join([self.serve.format(**words), *filter(None, [answer.flags])])


def varying(architecture: Architecture) -> set[str]:
    """The axes that have more than one size among the blocks of a kind, such as {"intermediate",
    "heads"}; an axis that only some of them have is one.
    """
    found: set[str] = set()
    for kind in {block.kind for block in architecture.blocks}:
        sizes = [block.sizes for block in architecture.blocks if block.kind == kind]
        axes = {axis for of_one in sizes for axis in of_one}
        found |= {axis for axis in axes if len({of_one.get(axis, 0) for of_one in sizes}) > 1}
    return found


def split(architecture: Architecture) -> tuple[str, str, bool]:
    """Which axes vary, in words: (of the recurrence, of attention), and whether FFN widths do."""
    axes = varying(architecture)
    ssm = axes & {"heads", "head_dim", "groups", "state", "kernel"}
    attention = axes & {"q_heads", "kv_heads", "attn_head_dim"}
    return ", ".join(sorted(ssm)), ", ".join(sorted(attention)), "intermediate" in axes


def with_experts(architecture: Architecture) -> list[Block]:
    """The blocks with a mixture of experts."""
    return [block for block in architecture.blocks if "experts" in block.sizes]


def apart(architecture: Architecture) -> set[str] | None:
    """The axes in which these blocks differ; None where there are none."""
    experts = with_experts(architecture)
    return varying(replace(architecture, blocks=tuple(experts))) if experts else None


def renormalised(architecture: Architecture) -> bool:
    """Whether the gates of a token's experts are made to sum to 1."""
    return any(getattr(block, "normalised", False) for block in with_experts(architecture))


def awkward(architecture: Architecture) -> list[str]:
    """What is to be known before experts are split over GPUs or multiplied in FP8."""
    sizes = [block.sizes for block in with_experts(architecture)]
    odd = sorted({s["experts"] for s in sizes if s["experts"] % 2})
    widths = sorted({s["expert_width"] for s in sizes if s["expert_width"] % FP8_STEP})
    notes = []
    if odd:
        notes.append(f"numbers of experts {odd} are odd: 2 or more GPUs cannot share them equally")
    if widths:
        notes.append(f"expert widths {widths} are no multiples of {FP8_STEP}, as FP8 wants")
    return notes
