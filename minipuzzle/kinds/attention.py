"""Grouped-query attention (arXiv:2305.13245)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

from minipuzzle.kinds.axes import Rows, Weight, weight
from minipuzzle.kinds.base import NORM, Block
from minipuzzle.kinds.cost import Cache, Flops
from minipuzzle.kinds.rope import Rope
from minipuzzle.kinds.width import Width


@dataclass(frozen=True, kw_only=True)
class Attention(Block):
    """Query head h reads KV head h // (q_heads / kv_heads).

    ``rope`` None is attention without position embedding; ``qk_norm`` an RMS norm of queries and
    of keys before it, over each "head" or, by ``qk_norm_over``, over "all" heads at once; ``scale``
    what scores are multiplied with, None for attn_head_dim^-1/2; ``bias`` that of q, k and v.
    ``output_gate``: q_proj has a second half for each head, whose sigmoid multiplies what o_proj
    reads of the head. ``sliding_window``: a token sees the last so many, itself among them.
    ``packed``: q, k and v lie in one matrix.
    """

    kind: ClassVar[str] = "attention"
    letter: ClassVar[str] = "*"
    label: ClassVar[str] = "attention"
    output: ClassVar[str] = "o_proj"
    estimator: ClassVar[str] = "contribution"
    fused: ClassVar[dict[str, tuple[str, ...]]] = {"qkv": ("q_proj", "k_proj", "v_proj")}
    min_keep: ClassVar[tuple[float, float, float]] = (0.5, 0.5, 0.0)
    widths: ClassVar[tuple[Width, ...]] = (
        Width(
            axis="kv_heads",
            score="q_heads",
            of=("q_heads",),
            label="KV heads",
            follows="q_heads",
            coupled=("query heads", "kept KV head"),
            shares=(0.5,),
            candidates="divisors",
            switch="kv_heads",
            in_grid=False,
        ),
    )

    q_heads: int
    kv_heads: int
    attn_head_dim: int
    bias: bool = False
    out_bias: bool = False
    rope: Rope | None = None
    qk_norm: bool = False
    qk_norm_over: str = "head"
    scale: float | None = None
    output_gate: bool = False
    sliding_window: int | None = None
    packed: bool = False

    @property
    def sizes(self) -> dict[str, int]:
        """The size of each axis."""
        return {
            "hidden": self.hidden,
            "q_heads": self.q_heads,
            "kv_heads": self.kv_heads,
            "attn_head_dim": self.attn_head_dim,
            **({"query_and_gate": 2} if self.output_gate else {}),
        }

    @property
    def inputs(self) -> dict[str, str]:
        """The projections that read the stream, by name, and their rows."""
        q, kv = "q_heads*attn_head_dim", "kv_heads*attn_head_dim"
        rows = "q_heads*query_and_gate*attn_head_dim" if self.output_gate else q
        if self.packed:
            return {"qkv_proj": f"{rows} + {kv} + {kv}"}
        return {"q_proj": rows, "k_proj": kv, "v_proj": kv}

    @property
    def weights(self) -> tuple[Weight, ...]:
        """The block's tensors and their axes."""
        q, kv = "q_heads*attn_head_dim", "kv_heads*attn_head_dim"
        inputs = self.inputs.items()
        tensors = [NORM, *(weight(f"{name}.weight", rows, "hidden") for name, rows in inputs)]
        tensors.append(weight("o_proj.weight", "hidden", q))
        if self.bias:
            tensors += [weight(f"{name}.bias", rows) for name, rows in inputs]
        if self.out_bias:
            tensors.append(weight("o_proj.bias", "hidden"))
        if self.qk_norm:
            whole = self.qk_norm_over == "all"
            tensors.append(weight("q_norm.weight", q if whole else "attn_head_dim"))
            tensors.append(weight("k_norm.weight", kv if whole else "attn_head_dim"))
        return tuple(tensors)

    @property
    def makers(self) -> tuple[Rows, ...]:
        """A query head: its rows of q_proj, those of its gate among them."""
        return (Rows("qkv_proj" if self.packed else "q_proj"),)

    @property
    def points(self) -> dict[str, Rows]:
        """None: queries say little of what a head adds."""
        return {}

    def depends_on_length(self, length: int) -> bool:
        """Where a RoPE turns slower the longer the sequence, beyond its original context."""
        rope = self.rope
        return rope is not None and rope.kind == "dynamic" and length > rope.original

    def form(self) -> Self:
        """Blocks may differ in their position embedding and window and still count as alike."""
        return replace(super().form(), rope=None, sliding_window=None)

    def seen(self, context: int) -> int:
        """How many of so many tokens the last one sees."""
        return context if self.sliding_window is None else min(context, self.sliding_window)

    def cache(self, context: int) -> Cache:
        """A key and a value of every KV head for each token, or each of the window."""
        return Cache(kv=2 * self.kv_heads * self.attn_head_dim * self.seen(context))

    def flops(self, context: int) -> Flops:
        """2 x head_dim for each query head and token seen, for the scores and again for the
        values.
        """
        seen = self.seen(context)
        return Flops(
            matmul=self.product_flops(), attention=4 * self.q_heads * self.attn_head_dim * seen
        )

    def text_flops(self, length: int) -> Flops:
        """Tokens 1..n see (n + 1) / 2 on average; beyond a window w each sees w."""
        w = self.seen(length)
        return self.flops((w * (w + 1) // 2 + (length - w) * w) // length)

    def saved_values(self) -> int:
        """The stream, the normed input (or what is normed after), q, k, v, the output and its FP32
        logsumexp (flash attention); where they have norms, q and k before them too; of a gate its
        sigmoid and the product.
        """
        heads = 2 * (self.q_heads + self.kv_heads) * self.attn_head_dim
        if self.qk_norm:
            heads += (self.q_heads + self.kv_heads) * self.attn_head_dim
        if self.output_gate:
            heads += 2 * self.q_heads * self.attn_head_dim
        return 2 * self.hidden + heads + 2 * self.q_heads

    def backward_values(self) -> float:
        """Gradients of the output, of q, k and v, and q's sums in FP32 (flash attention)."""
        return (4 * self.q_heads + 2 * self.kv_heads) * self.attn_head_dim
