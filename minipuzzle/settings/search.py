"""What must fit, and how the search looks for it. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from minipuzzle.identity import Plain, changed
from minipuzzle.settings.bounds import within
from minipuzzle.settings.budget import parse_budget
from minipuzzle.settings.counts import parse_count
from minipuzzle.settings.workload import Generation

Method = Literal["minipuzzle", "solver"]
Ranking = Literal["agreement", "kl"]


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """What must fit, at which workload, and how many candidates are realised.

    ``min_keep`` bounds the space: "attention=50%", "others=83%" (Mamba and FFN blocks), "width=75%"
    (FFN width and heads), "hidden=75%", each the least share of the parent to keep; what is not
    given is chosen to reach the budget. Times come from ``latency``, a table of minipuzzle profile
    (default: the run's), or a ``roofline`` estimate; ``target_device`` and ``target_dtype`` refuse
    a table of another one. They are times of ``batch`` requests of ``prompt`` tokens read and
    ``output`` said, by default the workload that profile times, unless a budget names its own:
    "1.2x@b8,p8k,o1k".

    ``method`` "minipuzzle" is the paper's grid of global widths, ranked by accuracy and agreement;
    "solver" adds the best choices block by block, ranks by KL and goes on from the best by
    ``refine`` measured moves. There FFN widths differ from block to block unless ``uniform``, Mamba
    heads (where ``mamba_heads`` narrows them) only with ``per_block_heads``, and KV heads may go
    with ``kv_heads``.

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
    min_keep: tuple[str, ...] = ()
    method: Method = "minipuzzle"
    uniform: bool = False
    per_block_heads: bool = False
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

    def identity(self) -> dict[str, Plain]:
        """What a finished search is compared by."""
        return changed(self)

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
