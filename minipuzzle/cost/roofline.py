"""Times without a device: the larger of arithmetic at its peak and bytes at theirs. An estimate,
and named one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from minipuzzle.arch import Architecture
from minipuzzle.cost.flops import flops_per_token, text_flops
from minipuzzle.errors import UserError
from minipuzzle.identity import Plain
from minipuzzle.kinds import Block
from minipuzzle.memory import CARDS
from minipuzzle.memory.footprint import values
from minipuzzle.settings import Generation, Phase

VALUE_BYTES = 2


@dataclass(frozen=True, kw_only=True)
class Roofline:
    """The estimate for a named device, BF16 weights and caches."""

    device: str

    def __post_init__(self) -> None:
        if self.device.lower() not in CARDS:
            raise UserError(
                "There is no roofline for this device.",
                got=self.device,
                allowed=", ".join(CARDS),
                next="Choose one of them, or measure with minipuzzle profile.",
            )

    def identity(self) -> dict[str, Plain]:
        """What a search that went by these times is compared by."""
        return {"roofline": self.device.lower()}

    @property
    def source(self) -> str:
        """Where the times come from, for people."""
        return f"roofline estimate for {self.device}, not measured"

    @property
    def margin(self) -> float:
        """None is known."""
        return 0.0

    def ms(
        self, block: Block | None, phase: Phase, work: Generation, parent: Architecture
    ) -> float:
        """As ``Timing.ms``: prefill works on all tokens at once, decode reads every weight and the
        cache for one token.
        """
        if phase == "total":
            return self.ms(block, "prefill", work, parent) + work.output * self.ms(
                block, "decode", work, parent
            )
        flops, moved = self.needs(block, phase, work, parent)
        card = CARDS[self.device.lower()]
        return 1e3 * max(flops / card.bf16, moved / card.bandwidth)

    def needs(
        self, block: Block | None, phase: Phase, work: Generation, parent: Architecture
    ) -> tuple[float, float]:
        """(operations, bytes moved) of one prefill or decoding step: each weight and cached value
        once, the stream twice. A decoding step reads of each block what its tokens need together
        (``kinds.Block.read_parameters``).
        """
        bare = replace(parent, blocks=())
        one = bare if block is None else replace(parent, blocks=(block,))
        reading = phase == "prefill"
        context, count = (work.prompt, text_flops) if reading else (work.context, flops_per_token)
        flops = float(count(one, context).total)
        parameters, kv, ssm, conv = (float(v) for v in values(one, context))
        if block is not None:
            flops -= count(bare, context).total
            parameters = block.parameters if reading else block.read_parameters(work.batch)
        tokens = work.batch * (work.prompt if reading else 1)
        if block is None:
            tokens = work.batch  # the head works on the last position only
            if not parent.tied_head:
                parameters -= (
                    parent.vocab_size * parent.hidden
                )  # the embeddings: a row a token, in the stream's bytes
        cached = work.batch * (kv + 2 * (ssm + conv))
        moved = VALUE_BYTES * (parameters + cached + 2 * tokens * parent.hidden)
        return flops * tokens, moved
