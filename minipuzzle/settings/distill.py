"""Short runs for the candidates and the long run for the winner. No torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

from minipuzzle.errors import UserError
from minipuzzle.identity import Plain, changed
from minipuzzle.registry import DIVERGENCES, LOSSES
from minipuzzle.settings import job
from minipuzzle.settings.adapter import AdapterSettings
from minipuzzle.settings.bounds import FASTEST, TOKENS, settle
from minipuzzle.settings.counts import share, token_count
from minipuzzle.settings.data import Data
from minipuzzle.settings.declare import group, setting
from minipuzzle.settings.lengths import Lengths, check_lengths, parse_lengths
from minipuzzle.settings.losses import DEFAULT_LOSS, loss_terms
from minipuzzle.settings.training import Precision, Training

Winner = Literal["loss", "tasks"]
StudentPrecision = Literal["bf16", "auto", "fp8", "nvfp4", "mxfp4", "int4", "int4-64", "int4-32"]

RATES, ADAPTER_RATES = (5e-5, 1.5e-4, 5e-4, 1.5e-3), (4e-3, 1.6e-2, 6.4e-2)
"""What ``distill`` tries where no learning rate is named, for all weights and for an adapter. A
student that begins close to its teacher wants a low one (docs/results/headline.md), LoRA and VeRA a
hundred times more (docs/results/tied_lora.md).
"""
TEACHER, ON_POLICY = "Teacher", "On-policy"


def parse_rates(text: str) -> tuple[float, ...]:
    """The rates of "5e-5,5e-4": none for "auto". Raises: UserError for what is no rate."""
    if text == "auto":
        return ()
    try:
        rates = tuple(float(part) for part in text.split(","))
    except ValueError:
        rates = ()
    if not rates or not all(0 < rate <= FASTEST for rate in rates):
        raise UserError(
            "distill.rates is not a learning rate.",
            got=text,
            allowed="auto, a rate, or several: 5e-5,1.5e-4,5e-4",
            next="Leave it out to try several.",
        )
    return rates


def parse_links(text: str) -> tuple[float, ...]:
    """The numbers of "450,50". Raises: UserError for anything but one or two of them."""
    try:
        links = tuple(float(part) for part in text.split(","))
    except ValueError:
        links = ()
    if len(links) not in (1, 2):
        raise UserError(
            "distill.links names no links.",
            got=text,
            allowed="GB a second within a machine, and beyond: 450,50; or one number for both",
            next="Change distill.links.",
        )
    return links


@dataclass(frozen=True, kw_only=True)
class DistillSettings:
    """Short runs for the top candidates, then the long run for the winner. ``loss``: see
    ``loss_terms``.

    The winner has the lowest validation ``loss`` after its short run, or the best average of
    ``tasks`` (``questions``). Of several ``rates`` the training takes the best after short runs of
    the first candidate. Where neither rates nor the training's own rate are named, RATES are tried,
    ADAPTER_RATES for an adapter. With a folder ``teacher_logits`` the teacher is asked once, before
    training; ``teacher_keep`` of its tokens at each position ("top-64", "sampled-50") are stored
    there.

    With a ``student_precision`` but BF16 what is trained is the student of a finished distillation,
    with quantised weights; int4 shares a scale between 128 columns, or between 64 or 32.

    The long run has blocks of each ``length`` in turn, in the same number of tokens a step, and
    ``training.batch`` counts those of the first; all else (short runs, validation) has the first
    alone. Without one it is that of the ``Data``.

    In the share ``on_policy`` of the steps the student continues ``prompts`` by up to
    ``completion`` tokens, and ``on_policy_loss`` compares both models at those tokens only
    (``training.on_policy``).
    """

    SECTION: ClassVar[str] = "distill"
    PANEL: ClassVar[str] = "Distillation"

    short_tokens: int = token_count(
        200_000, "Tokens of the short run of each candidate.", within=TOKENS, common=True
    )
    winner: Winner = setting(
        "loss",
        "What chooses the long run's candidate: its validation loss, or the shipped questions.",
    )
    loss: str = setting(
        DEFAULT_LOSS,
        "A divergence, a loss, or a sum with weights: forward-kl+0.1*cosine.",
        names=(DIVERGENCES, LOSSES),
        common=True,
    )
    student_precision: StudentPrecision = setting(
        "bf16",
        "Format of the matrices of the recovered student, which goes on learning with them and is"
        " written so, beside it; auto: as search.bits chose for each block.",
        common=True,
    )
    teacher_precision: Precision = setting("bf16", "GEMM precision of the teacher.", panel=TEACHER)
    teacher_logits: str = setting(
        "",
        "Folder for logits: ask the teacher once, and train from what is stored.",
        unit="folder",
        shown="ask at each step",
        panel=TEACHER,
    )
    teacher_keep: str = setting(
        "top-64",
        "What is stored of each position: the K likeliest tokens (top-K), or K drawn ones"
        " (sampled-K).",
        panel=TEACHER,
    )
    on_policy: float = share(
        0.0,
        "Share of the steps in which the student continues prompts and learns from the teacher's"
        " view of what it wrote.",
        panel=ON_POLICY,
        common=True,
    )
    prompts: str = setting(
        "",
        'Prompts that the student continues: JSON lines with "prompt", or any text, whose'
        " documents they are.",
        unit="file",
        shown="none",
        panel=ON_POLICY,
        common=True,
    )
    completion: int = token_count(
        128, "Most tokens of a completion.", within=(1, 2**24), panel=ON_POLICY
    )
    on_policy_loss: str = setting(
        "reverse-kl",
        "The divergence at the tokens of completions.",
        names=(DIVERGENCES,),
        panel=ON_POLICY,
    )
    rates: tuple[float, ...] = setting(
        (),
        "Peak learning rate, or several to try in short runs of the first candidate: 5e-5,5e-4.",
        unit="rate",
        flag="learning-rate",
        shown="auto: several",
        parse=parse_rates,
        within=(1e-30, FASTEST),
        panel="Training",
        common=True,
    )
    length: Lengths = setting(
        (),
        "Tokens in a block of text, or lengths in turn with shares of the tokens: 8k:80%,32k:20%.",
        unit="tokens",
        shown="data.length",
        parse=parse_lengths,
        panel="Texts",
        common=True,
    )
    training: Training = group(Training(), omit=("learning_rate",))
    adapter: AdapterSettings = group(AdapterSettings())

    def __post_init__(self) -> None:
        if isinstance(self.length, int):
            object.__setattr__(self, "length", ((self.length, 1.0),))
        settle(self)
        check_lengths(self.length)
        loss_terms(self.loss)
        if self.teacher_logits and self.loss != DEFAULT_LOSS:
            raise UserError(
                "Stored logits serve one loss.",
                got=f"distill.teacher_logits with distill.loss {self.loss}",
                allowed=f"{DEFAULT_LOSS}, for which the stored tokens are enough",
                next="Leave one of both out.",
            )
        DIVERGENCES.check(self.on_policy_loss)
        if self.on_policy and self.training.offload:
            raise UserError(
                "A student with offloaded weights does not write.",
                got="distill.on_policy with training.offload",
                allowed="one of them: a token would take all weights over PCIe",
                next="Leave one of both out.",
            )
        if self.on_policy and self.teacher_logits:
            raise UserError(
                "Stored logits do not cover what a student writes.",
                got="distill.teacher_logits with distill.on_policy",
                allowed="one of them",
                next="Leave one of both out.",
            )

    def resolved(self) -> DistillSettings:
        """The same with its rates spelt out: ``rates`` to try (two or more, or none) and the
        training's first or only one.
        """
        named = (self.training.learning_rate,) if self.training.learning_rate else ()
        tried = self.rates or named or (ADAPTER_RATES if self.adapter.kind else RATES)
        return replace(
            self,
            rates=tried if len(tried) > 1 else (),
            training=replace(self.training, learning_rate=tried[0]),
        )

    @property
    def student_format(self) -> tuple[str, int]:
        """Of ``student_precision`` the name in ``memory.formats``, and columns that share a scale
        in int4.
        """
        name, _, group = self.student_precision.partition("-")
        return name, int(group or 128)

    def at_first_length(self, data: Data) -> tuple[DistillSettings, Data]:
        """(the same where there are several lengths, else without one, the data at the first)."""
        if not self.length:
            return self, data
        several = self if len(self.length) > 1 else replace(self, length=())
        return several, replace(data, length=self.length[0][0])

    def fixed(self) -> dict[str, Plain]:
        """As ``Training.fixed``, the training's own included. Of stored teacher logits it matters
        what was kept of them, of prompts what they say, not where they lie.
        """
        keep = {"teacher_keep": self.teacher_keep} if self.teacher_logits else {}
        others = changed(
            self, without=("teacher_logits", "teacher_keep", "prompts", "rates", "training")
        )
        return {**others, **keep, "training": self.training.fixed()}

    def decisive(self) -> dict[str, Plain]:
        """As ``Training.decisive``."""
        return {
            **changed(self, without=("prompts", "training")),
            "training": self.training.decisive(),
        }


@dataclass(frozen=True, kw_only=True)
class DistillCommand:
    """Prune if needed, distil the candidates briefly, then the winner for long."""

    SECTION: ClassVar[str] = "distill"
    PANEL: ClassVar[str] = "Plan without weights"

    teacher: Path | None = setting(
        None, "Teacher.", unit="checkpoint", shown="the parent", panel=TEACHER, common=True
    )
    data: Data = group(
        Data(),
        only=("train", "validation", "loss_on", "seed"),
        flags={"train": "data", "seed": "data-seed"},
    )
    settings: DistillSettings = group(DistillSettings())
    plan: bool = setting(False, "Only print what it takes. Configs are enough.", common=True)
    student: Path | None = setting(
        None, "Folder with the config.json of the student.", unit="folder"
    )
    links: tuple[float, ...] = setting(
        (),
        "GB a second that a GPU sends in an all-gather, measured: within a machine, and beyond"
        " (450,50).",
        unit="GB/s",
        shown="exchange is not counted",
        parse=parse_links,
        within=(1e-3, 1e6),
    )
    mfu: float = setting(0.35, "Share of the peak of the GPUs that is reached.", unit="share")
    gpu: str = setting("h100", "GPU: h100, h200 or a100.")
    run: Path = job.run_directory()
    device: str = job.device()
    as_json: bool = job.as_json()

    def __post_init__(self) -> None:
        settle(self)
