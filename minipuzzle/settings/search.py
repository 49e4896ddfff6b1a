"""What must fit, and how the search looks for it. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from minipuzzle.errors import UserError
from minipuzzle.identity import Plain, changed
from minipuzzle.settings import job
from minipuzzle.settings.bits import parse_bits
from minipuzzle.settings.bounds import settle
from minipuzzle.settings.budget import parse_budget
from minipuzzle.settings.counts import token_count
from minipuzzle.settings.data import Data
from minipuzzle.settings.declare import group, setting
from minipuzzle.settings.steps import MOST_STEPS
from minipuzzle.settings.vary import Varied, parse_vary
from minipuzzle.settings.workload import Generation

Method = Literal["minipuzzle", "solver"]
Ranking = Literal["agreement", "kl"]
Domains = Literal["mean", "worst"]
MEMORY, TIME, SPACE, SOLVER = (
    "Memory budgets: the workload",
    "Time budgets: the workload and its times",
    "Space of candidates",
    "Solver",
)


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """What must fit, at which workload, and how many candidates are evaluated.

    ``min_keep`` bounds the space: "attention=50%", "others=83%" (Mamba and FFN blocks), "mamba=90%"
    or any one kind, "width=75%" (FFN width and heads), "hidden=75%", each the least share of the
    parent to keep; what is not given is chosen to reach the budget. ``vary`` names axes that stay
    whole by default ("experts", "top_k", "latent", "head_dim"), or the sizes to try of any
    axis: "experts=96..128/8", "hidden=2304,2560". Times come from ``latency``, a
    table of minipuzzle profile (default: the run's), or a ``roofline`` estimate; ``target_device``
    and ``target_dtype`` refuse a table of another one. They are times of ``batch`` requests of
    ``prompt`` tokens read and ``output`` generated, by default the workload that profile times,
    unless a budget names its own: "1.2x@b8,p8k,o1k".

    ``bits`` makes the format of each block's matrices a choice too (``settings.bits``): the grid
    gives all blocks one, the solver each its own. Their damage is measured by score.

    ``method`` "minipuzzle" is the paper's grid of global widths, ranked by accuracy and agreement;
    "solver" adds the best choices block by block, ranks by KL and goes on from the best by
    ``refine`` measured moves. There FFN widths differ from block to block unless ``uniform``, Mamba
    heads (where ``mamba_heads`` prunes them) only with ``per_block_heads``, and KV heads may go
    with ``kv_heads``.

    ``by_tasks`` of the best ranked are ranked again by the mean over the kinds of shipped questions
    (``questions``), as the paper does with 130 by its benchmarks; 0 leaves that out.

    ``top`` candidates go on to the short runs of distill; 0 is the paper's three, and nine with
    "solver", whose models lie so close by KL that only training tells them apart
    (docs/results/search.md).
    """

    SECTION: ClassVar[str] = "search"
    PANEL: ClassVar[str] = "Budget and candidates"

    budget: tuple[str, ...] = setting(
        (),
        "What must fit: parameters (47B, 83%), those of a token (active=3B, active=80%), memory"
        " (31.7GiB) or time (1.2x, decode=1.3x). Repeat it for more.",
        unit="budget",
        short="b",
        common=True,
    )
    context: int = token_count(
        8192, "Tokens in the cache of a sequence.", panel=MEMORY, common=True
    )
    prompt: int = token_count(Generation().prompt, "Tokens read.", panel=TIME)
    output: int = token_count(Generation().output, "Tokens generated after them.", panel=TIME)
    latency: str = setting(
        "", "Table of minipuzzle profile.", unit="file", shown="the run's", panel=TIME
    )
    roofline: str = setting(
        "",
        "Estimate times for this GPU in place of a table: h100, h200, a100 or rtx5090.",
        unit="gpu",
        panel=TIME,
    )
    target_device: str = setting("", "Refuse a table of another device.", unit="device", panel=TIME)
    target_dtype: str = setting("", "Refuse a table of another dtype.", unit="dtype", panel=TIME)
    batch: int = setting(
        1,
        "Sequences at once, for memory and for time.",
        unit="sequences",
        within=(1, 10**6),
        panel=MEMORY,
        common=True,
    )
    weights: str = setting("bf16", "Dtype of the weights.", unit="dtype", panel=MEMORY)
    bits: str = setting(
        "",
        "Choose the format of each block's matrices too, and count weights as quantize will write"
        " them: 4..8, 4,8,16, or nvfp4,fp8,bf16.",
        unit="formats",
        panel=SPACE,
        common=True,
    )
    kv: str = setting("bf16", "Dtype of keys and values.", unit="dtype", panel=MEMORY)
    state: str = setting("bf16", "Dtype of the SSM states.", unit="dtype", panel=MEMORY)
    candidates: int = setting(
        400,
        "Candidates of the least predicted damage, which are evaluated with masks.",
        within=(1, 10**6),
        common=True,
    )
    validation_blocks: int = setting(
        128, "Blocks of validation text for each candidate.", unit="blocks", within=(1, 10**9)
    )
    domains: Domains = setting(
        "mean",
        "Rank by the mean over the validation text, or by the domain (a file, a blend's source)"
        " that a candidate is worst in.",
        flag="by-domain",
    )
    by_tasks: int = setting(
        0, "Rank this many of the best again by the shipped questions.", within=(0, 10**6)
    )
    top: int = setting(
        0,
        "Candidates that go on to distill.",
        shown="3, and 9 with the solver",
        within=(0, 10**4),
        common=True,
    )
    multiple: int = setting(64, "FFN widths are multiples of this.", within=(1, 10**6), panel=SPACE)
    mamba_heads: bool = setting(False, "Also prune Mamba heads.", panel=SPACE, common=True)
    hidden_size: bool = setting(False, "Also prune the hidden size.", panel=SPACE, common=True)
    vary: tuple[str, ...] = setting(
        (),
        "Also try other sizes of an axis: experts, top_k, latent, head_dim, hidden or any other"
        " that is searched; with =96,104,128 or =96..128/8 these. Repeat it for more.",
        unit="axis",
        panel=SPACE,
        common=True,
    )
    min_keep: tuple[str, ...] = setting(
        (),
        "Least share of the parent to keep: attention=50%, others=83% (Mamba and FFN blocks),"
        " mamba=90% (or any one kind), width=75%, hidden=75%. Repeat it for more.",
        unit="share",
        panel=SPACE,
    )
    method: Method = setting(
        "minipuzzle",
        "The paper's grid of global widths, or that and a solver that chooses block by block.",
        panel=SOLVER,
        common=True,
    )
    uniform: bool = setting(False, "Give all blocks the same FFN width.", panel=SOLVER)
    per_block_heads: bool = setting(
        False, "Prune Mamba heads block by block (with search.mamba_heads).", panel=SOLVER
    )
    kv_heads: bool = setting(False, "Also drop KV heads with their queries.", panel=SOLVER)
    refine: int = setting(
        100, "Moves that local search evaluates.", within=(0, 10**6), panel=SOLVER
    )

    def __post_init__(self) -> None:
        settle(self)
        if self.budget:  # none is told by ``check_budget``, when one is needed
            parse_budget(self.budget, self.work)
        parse_vary(self.vary)
        if self.formats:
            self._check_bits()

    def identity(self) -> dict[str, Plain]:
        """What a finished search is compared by."""
        return changed(self)

    @property
    def work(self) -> Generation:
        """What a budget of time is about where it does not say so itself."""
        return Generation(batch=self.batch, prompt=self.prompt, output=self.output)

    def check_budget(self) -> None:
        """Raises: UserError where there is none."""
        parse_budget(self.budget, self.work)

    @property
    def formats(self) -> Mapping[int, str]:
        """The formats that ``bits`` lets a block have, by their numbers, ascending."""
        return parse_bits(self.bits)

    def _check_bits(self) -> None:
        budget = parse_budget(self.budget, self.work) if self.budget else None
        bounded = budget is None or budget.bytes is not None or budget.memory_share is not None
        if budget is not None and (budget.times or not bounded):
            raise UserError(
                "Bits of blocks are chosen under a budget of memory; no times are known of them.",
                got=f"search.bits {self.bits} with search.budget {' and '.join(self.budget)}",
                allowed="memory (31.7GiB, memory=40%), with parameters beside it or not",
                next="Add a budget of memory, take times out, or leave search.bits out.",
            )
        if self.weights != "bf16":
            raise UserError(
                "search.bits and search.weights both say what weights take.",
                got=f"search.bits {self.bits}, search.weights {self.weights}",
                allowed="one of them",
                next="Leave search.weights out.",
            )

    @property
    def varied(self) -> dict[str, Varied]:
        """What ``vary`` asks for, by axis."""
        return parse_vary(self.vary)

    @property
    def tries_hidden(self) -> bool:
        """Whether other hidden sizes are tried."""
        return self.hidden_size or "hidden" in self.varied

    @property
    def finalists(self) -> int:
        """How many candidates go on to the short runs."""
        return self.top or (9 if self.method == "solver" else 3)


@dataclass(frozen=True, kw_only=True)
class SearchCommand:
    """Find the architectures that fit the budget, evaluate them with masks and keep the best."""

    checkpoint: Path | None = job.checkpoint(
        "Checkpoint, or a folder with only a config.json (default: the run's checkpoint)."
    )
    settings: SearchSettings = group(SearchSettings())
    steps: int = setting(
        1,
        "Go to the budget in this many steps of cut and recovery: search the first, and say what"
        " follows.",
        within=(1, MOST_STEPS),
        panel=SearchSettings.PANEL,
        name="job.steps",
    )
    data: Data = group(
        Data(),
        only=("validation", "calibration", "length", "loss_on", "seed"),
        flags={"validation": "data", "seed": "data-seed"},
    )
    run: Path = job.run_directory()
    device: str = job.device()
    as_json: bool = job.as_json()

    def __post_init__(self) -> None:
        settle(self)
