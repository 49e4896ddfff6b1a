"""A run as data: frozen dataclasses that the command line fills from options and ``minipuzzle run``
from one flat YAML (``recipe_file``). Nothing inherits from anything. No torch.
"""

from __future__ import annotations

import typing
from dataclasses import asdict, dataclass, field, replace
from math import ceil
from typing import Any, Literal

from minipuzzle.adapter_settings import AdapterSettings
from minipuzzle.bounds import BATCHES, FASTEST, SEEDS, TOKENS, check, within
from minipuzzle.budget import Generation, parse_budget, parse_count
from minipuzzle.errors import UserError

Method = Literal["minipuzzle", "solver"]
Ranking = Literal["agreement", "kl"]
Precision = Literal["bf16", "fp8", "fp8-emulated"]
Winner = Literal["loss", "tasks"]
Checkpointing = Literal["auto", "on", "off"]
Metric = Literal["mse", "logit-mse", "kl", "loss"]
EMBEDDED = "embedded"
DEFAULT_LOSS = "forward-kl"
LOSSES = ("forward-kl", "reverse-kl", "jsd", "top-k", "cosine", "cross-entropy")
"""The first four compare distributions, and one of them at most can be in a sum
(``training.divergences``).
"""


@dataclass(frozen=True, kw_only=True)
class Data:
    """Texts (files or folders) and the length of their blocks.

    "embedded" names the demo's text, for models with the demo's tokenizer. What is not named ("")
    is that text for the embedded teacher; for any other model it is asked for, since nobody else's
    text can be guessed.
    """

    train: str = ""
    calibration: str = ""
    validation: str = ""
    length: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        within(self, length=(2, 2**24), seed=SEEDS)


@dataclass(frozen=True, kw_only=True)
class ScoreSettings:
    """What scores see and measure: the papers use 1024 samples for widths and 128 for blocks
    (arXiv:2504.03624).

    ``estimator`` scores channels and heads (``minipuzzle.importance.estimators``); ``metric``
    measures what removing or narrowing a block does to the model's end. ``curves`` also narrows
    each block; ``iterative`` removes that many blocks one after the other, scoring again after each
    (0: all scores from the whole model).
    """

    samples: int = 1024
    block_samples: int = 128
    batch: int = 8
    estimator: str = "mixed"
    metric: Metric = "mse"
    curves: bool = True
    iterative: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        within(
            self,
            samples=(1, 10**9),
            block_samples=(1, 10**9),
            batch=BATCHES,
            iterative=(0, 10**6),
            seed=SEEDS,
        )
        metrics = typing.get_args(Metric)
        _require(self.metric in metrics, f"metric {self.metric!r}", " or ".join(map(repr, metrics)))


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """What must fit, at which workload, and how many candidates are realised.

    ``least`` bounds the space: "attention=50%", "others=83%" (Mamba and FFN blocks), "width=75%"
    (FFN width and heads), "hidden=75%", each the least share of the parent to keep; what is not
    given is chosen to reach the budget. Times come from ``latency``, a table of minipuzzle profile
    (default: the run's), or a ``roofline`` estimate; ``target_device`` and ``target_dtype`` refuse
    a table of another one. They are times of ``batch`` requests of ``prompt`` tokens read and
    ``output`` said, by default the workload that profile times, unless a budget names its own:
    "1.2x@b8,p8k,o1k".

    ``method`` "minipuzzle" is the paper's grid of global widths, ranked by accuracy and agreement;
    "solver" adds the best choices block by block, ranks by KL and goes on from the best by
    ``refine`` measured moves. There FFN widths differ from block to block unless ``uniform``, Mamba
    heads (where ``mamba_heads`` narrows them) only with ``own_heads``, and KV heads may go with
    ``kv_heads``.

    ``by_tasks`` of the best ranked are ranked again by the average of tasks made of the calibration
    text (``cloze``), as the paper does with 130 by its benchmarks; 0 leaves that out.

    ``top`` candidates go on to the short runs of distill; 0 is the paper's three, and nine with
    "solver", whose models lie so close by KL that only training tells them apart
    (docs/results/search.md).
    """

    budget: tuple[str, ...] = ()
    context: str = "8192"
    prompt: str = str(Generation().prompt)
    output: str = str(Generation().output)
    latency: str = ""
    roofline: str = ""
    target_device: str = ""
    target_dtype: str = ""
    batch: int = 1
    weights: str = "bf16"
    kv: str = "bf16"
    state: str = "bf16"
    candidates: int = 400
    validation_blocks: int = 128
    by_tasks: int = 0
    top: int = 0
    multiple: int = 64
    mamba_heads: bool = False
    hidden_size: bool = False
    least: tuple[str, ...] = ()
    method: Method = "minipuzzle"
    uniform: bool = False
    own_heads: bool = False
    kv_heads: bool = False
    refine: int = 100

    def __post_init__(self) -> None:
        within(
            self,
            batch=(1, 10**6),
            candidates=(1, 10**6),
            validation_blocks=(1, 10**9),
            top=(0, 10**4),
            by_tasks=(0, 10**6),
            multiple=(1, 10**6),
            refine=(0, 10**6),
        )
        parse_count(self.context)
        if self.budget:  # none is told by ``check_budget``, when one is needed
            parse_budget(self.budget, self.work)

    @property
    def work(self) -> Generation:
        """What a budget of time is about where it does not say so itself."""
        return Generation(
            batch=self.batch, prompt=parse_count(self.prompt), output=parse_count(self.output)
        )

    def check_budget(self) -> None:
        """Raises: UserError where there is none."""
        parse_budget(self.budget, self.work)

    @property
    def finalists(self) -> int:
        """How many candidates go on to the short runs."""
        return self.top or (9 if self.method == "solver" else 3)


@dataclass(frozen=True, kw_only=True)
class Training:
    """How to train. ``tokens`` is the whole budget; a batch counts blocks of the data's block
    length.

    Anchors: arXiv:2504.11409 (Minitron-SSM: cosine, 60 warm-up steps), NVIDIA Model Optimizer's
    pruning examples (distilling wants about a fifth of the pre-training peak); beta2 0.95 and
    clipping at 1.0 as Megatron-LM. A ``learning_rate`` of 0 is the command's own: distill tries
    several, adapt takes ADAPT_RATE, pretrain RATE.

    ``micro_batch`` blocks go through a process's model at once (0: its whole share of the batch).
    Under torchrun the model is sharded over all processes, or over each of ``replicas`` groups of
    them (HSDP). ``precision`` is that of the blocks' products: FP8 for all but ``bf16_ends`` blocks
    at either end. The state is saved ``save_every`` seconds after the last save was on disk, or
    later where saves would take more than a tenth of the time (``training.pace``), and at the end.
    ``activation_checkpointing`` "auto" recomputes blocks in the backward pass where a GPU's memory
    would not hold them.
    """

    tokens: int = 2_000_000
    learning_rate: float = 0.0
    batch: int = 8
    warmup: float = 0.05
    final_ratio: float = 0.1
    weight_decay: float = 0.1
    clip: float = 1.0
    seed: int = 0
    save_every: float = 30.0
    isolate_documents: bool = False
    micro_batch: int = 0
    replicas: int = 1
    tensorboard: bool = False
    precision: Precision = "bf16"
    bf16_ends: int = 4
    activation_checkpointing: Checkpointing = "auto"

    def __post_init__(self) -> None:
        within(
            self,
            tokens=TOKENS,
            batch=BATCHES,
            micro_batch=(0, BATCHES[1]),
            learning_rate=(0.0, FASTEST),
            seed=SEEDS,
            warmup=(0.0, 0.999),
            final_ratio=(0.0, 1.0),
            weight_decay=(0.0, 10.0),
            clip=(1e-9, 1e9),
            save_every=(0.0, 1e9),
            replicas=(1, 65_536),
            bf16_ends=(0, 10_000),
        )
        _require_precision(self.precision)
        _require(
            self.activation_checkpointing in typing.get_args(Checkpointing),
            f"activation_checkpointing {self.activation_checkpointing!r}",
            "auto, on or off",
        )

    def steps(self, length: int) -> int:
        """The number of optimiser steps that use up the tokens (rounded up)."""
        return ceil(self.tokens / (self.batch * length))

    def fixed(self) -> dict[str, Any]:
        """The settings that a run keeps from start to end; it may go on with other values of the
        others.
        """
        return {name: value for name, value in asdict(self).items() if name not in CHANGEABLE}

    def decisive(self) -> dict[str, Any]:
        """The settings on which a finished run's result depends: how often it was saved is none of
        them.
        """
        return {
            name: value
            for name, value in asdict(self).items()
            if name not in ("save_every", "tensorboard")
        }

    def at(self, rate: float) -> Training:
        """The same with this learning rate where none is named."""
        return self if self.learning_rate else replace(self, learning_rate=rate)


CHANGEABLE = (
    "batch",
    "micro_batch",
    "learning_rate",
    "clip",
    "save_every",
    "activation_checkpointing",
    "replicas",
    "tensorboard",
)
"""A run counts tokens, so that it can go on with another batch, or with a lower rate after a loss
that rose.
"""


RATE, ADAPT_RATE = 5e-4, 4e-3
"""Of a training and of an adapter's where no learning rate is named and none is tried."""
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
        _require_precision(self.teacher_precision)
        _require(self.winner in typing.get_args(Winner), f"winner {self.winner!r}", "loss or tasks")
        within(self, short_tokens=TOKENS)
        for rate in self.rates:
            check("rates", rate, 1e-30, FASTEST)
        _require(
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

    def fixed(self) -> dict[str, Any]:
        """As ``Training.fixed``, the training's own included."""
        keep = self.teacher_keep if self.teacher_logits else ""
        return {
            **asdict(self),
            "teacher_logits": "",
            "teacher_keep": keep,
            "rates": (),
            "training": self.training.fixed(),
        }

    def decisive(self) -> dict[str, Any]:
        """As ``Training.decisive``."""
        return {**asdict(self), "training": self.training.decisive()}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One complete compression run, from a checkpoint (a folder, or "embedded" for the demo's
    teacher) to a report.
    """

    checkpoint: str
    run: str = "minipuzzle-run"
    device: str = "auto"
    data: Data = field(default_factory=Data)
    score: ScoreSettings = field(default_factory=ScoreSettings)
    search: SearchSettings = field(default_factory=SearchSettings)
    distill: DistillSettings = field(default_factory=DistillSettings)


@dataclass(frozen=True, kw_only=True)
class PretrainRecipe:
    """A model trained from nothing: ``model`` holds the fields of its config.json, model_type among
    them. ``tokenizer`` is a folder with a tokenizer.json, or "embedded".
    """

    model: dict[str, Any]
    tokenizer: str
    run: str = "minipuzzle-run"
    device: str = "auto"
    data: Data = field(default_factory=Data)
    training: Training = field(default_factory=Training)


def loss_terms(text: str) -> dict[str, float]:
    """{name: weight} of a sum of LOSSES such as "forward-kl+0.1*cross-entropy". Raises: UserError
    where it is none.
    """
    terms: dict[str, float] = {}
    for part in text.split("+"):
        weight, _, name = part.rpartition("*")
        try:
            terms[name.strip()] = float(weight or 1)
        except ValueError:
            terms[part] = 0.0
    good = all(name in LOSSES and weight > 0 for name, weight in terms.items())
    if not good or sum(name in LOSSES[:4] for name in terms) > 1:
        raise UserError(
            "This loss is not known.",
            got=text,
            allowed=f"{', '.join(LOSSES)}, or a sum of them with "
            "weights and at most one of the first four",
            next='Write, say, "forward-kl+0.1*cosine".',
        )
    return terms


def _require_precision(precision: str) -> None:
    known = typing.get_args(Precision)
    _require(precision in known, f"precision {precision!r}", " or ".join(map(repr, known)))


def _require(holds: bool, got: str, allowed: str) -> None:
    if not holds:
        raise UserError(
            "These settings cannot run.",
            got=got,
            allowed=allowed,
            next="Change the option or recipe.",
        )
