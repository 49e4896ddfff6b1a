"""Short runs for the candidates and the long run for the winner. No torch."""

from __future__ import annotations

import typing
from dataclasses import dataclass, field, replace
from typing import Literal

from minipuzzle.identity import Plain, changed
from minipuzzle.settings.adapter import AdapterSettings
from minipuzzle.settings.bounds import FASTEST, TOKENS, check, require, within
from minipuzzle.settings.losses import DEFAULT_LOSS, loss_terms
from minipuzzle.settings.training import Precision, Training, require_precision

Winner = Literal["loss", "tasks"]

RATES, ADAPTER_RATES = (5e-5, 1.5e-4, 5e-4, 1.5e-3), (4e-3, 1.6e-2, 6.4e-2)
"""What ``distill`` tries where no learning rate is named, for all weights and for an adapter. A
student that begins close to its teacher wants a low one (docs/results/headline.md), LoRA and VeRA a
hundred times more (docs/results/tied_lora.md).
"""


@dataclass(frozen=True, kw_only=True)
class DistillSettings:
    """Short runs for the top candidates, then the long run for the winner. ``loss``: see
    ``loss_terms``.

    The winner has the lowest validation ``loss`` after its short run, or the best average of
    ``tasks`` (``cloze``). Of several ``rates`` the training takes the best after short runs of the
    first candidate. Where neither rates nor the training's own rate are named, RATES are tried,
    ADAPTER_RATES for an adapter. With a folder ``teacher_logits`` the teacher is asked once, before
    training; ``teacher_keep`` of its words at each token ("top-64", "sampled-50") are stored there.
    """

    short_tokens: int = 200_000
    winner: Winner = "loss"
    loss: str = DEFAULT_LOSS
    teacher_precision: Precision = "bf16"
    teacher_logits: str = ""
    teacher_keep: str = "top-64"
    rates: tuple[float, ...] = ()
    adapter: AdapterSettings = field(default_factory=AdapterSettings)
    training: Training = field(default_factory=Training)

    def __post_init__(self) -> None:
        loss_terms(self.loss)
        require_precision(self.teacher_precision)
        require(self.winner in typing.get_args(Winner), f"winner {self.winner!r}", "loss or tasks")
        within(self, short_tokens=TOKENS)
        for rate in self.rates:
            check("rates", rate, 1e-30, FASTEST)
        require(
            not self.teacher_logits or self.loss == DEFAULT_LOSS,
            f"teacher_logits with loss {self.loss}",
            f"{DEFAULT_LOSS}, which is what stored words are enough for",
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

    def fixed(self) -> dict[str, Plain]:
        """As ``Training.fixed``, the training's own included. Of stored teacher logits it matters
        what was kept of them, not where they lie.
        """
        keep = {"teacher_keep": self.teacher_keep} if self.teacher_logits else {}
        others = changed(self, without=("teacher_logits", "teacher_keep", "rates", "training"))
        return {**others, **keep, "training": self.training.fixed()}

    def decisive(self) -> dict[str, Plain]:
        """As ``Training.decisive``."""
        return {**changed(self, without=("training",)), "training": self.training.decisive()}
