"""How a mixture of experts runs: a router, stacks of experts, a shared expert beside them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from minipuzzle.kernels import Kernels, low_rank
from minipuzzle.kernels.experts import Call
from minipuzzle.kernels.fp32_linear import fp32_linear
from minipuzzle.kernels.low_rank import Pair
from minipuzzle.kernels.pointwise import channels_of
from minipuzzle.kernels.routing import Routing, route
from minipuzzle.kinds import Block, Experts, Kept
from minipuzzle.model.base import Context, ResidualBlock
from minipuzzle.model.cache import Room
from minipuzzle.model.expert_parallel import ExpertParallel
from minipuzzle.model.masks import index_mask
from minipuzzle.shapes import Float

ROUTER_STD = 0.02
CHANNELS = "experts*expert_width"


class Router(nn.Module):
    """``weight`` [experts, hidden]; ``correction`` [experts] FP32, a buffer, or None."""

    correction: Tensor | None

    def __init__(self, block: Experts) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(block.experts, block.hidden))
        correction = torch.zeros(block.experts, dtype=torch.float32) if block.buffers else None
        self.register_buffer("correction", correction)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Router:
        """The correction is FP32 whatever the model becomes: close choices hang on its digits."""
        held = self.correction
        super()._apply(fn, recurse)
        moved = self.correction
        if held is not None and moved is not None and moved.dtype != held.dtype:
            self.correction = held.to(moved.device)
        return self

    def logits(self, x: Float[Tensor, "t d"], fp32: bool) -> Float[Tensor, "t e"]:
        """Of tokens: in FP32, or in the dtype of the model."""
        if fp32:
            return fp32_linear(x, self.weight)
        return F.linear(x, self.weight.to(x.dtype))


class Stacks(nn.Module):
    """The experts' matrices, by their names in ``block.stacks``: [experts, rows, columns]."""

    down_proj: Tensor

    def __init__(self, block: Experts) -> None:
        super().__init__()
        for name, shape in block.stacks.items():
            self.register_parameter(name.removeprefix("experts."), nn.Parameter(torch.zeros(shape)))


class ExpertsBlock(ResidualBlock):
    """What the chosen experts add, each times its gate, and what the shared one adds.

    Activations are watched at points of its own too: "expert_inputs" [t, latent or hidden], what
    the experts read, and then "routed", all that scoring asks of them (``kernels.experts.Routed``);
    "chosen" [t, top_k] int64, the experts of each token; "shared_channels" [b, s, shared_width] and
    "latent_channels" [b, s, latent], what the shared down and the way out of the latent size read.
    """

    kind = Experts.kind
    block: Experts

    def __init__(self, block: Experts, eps: float, kernels: Kernels) -> None:
        super().__init__(block, eps, kernels)
        self.kernels = kernels
        self.router = Router(block)
        self.experts = Stacks(block)
        if block.latent:
            self.latent_in_proj = nn.Linear(block.hidden, block.latent, bias=block.bias)
            self.latent_out_proj = nn.Linear(block.latent, block.hidden, bias=block.bias)
        if block.shared_width:
            width = block.shared_width
            if block.gated:
                self.shared_gate_up_proj = nn.Linear(block.hidden, 2 * width, bias=block.bias)
            else:
                self.shared_up_proj = nn.Linear(block.hidden, width, bias=block.bias)
            self.shared_down_proj = nn.Linear(width, block.hidden, bias=block.bias)
            if block.shared_gate:
                self.shared_gate = nn.Linear(block.hidden, 1, bias=False)
        # masks: of experts [experts], of their channels [experts, expert_width], of the shared
        # expert's [shared_width] and of the latent ones [latent]; how many are chosen
        self.kept_experts: Tensor | None = None
        self.kept_channels: Tensor | None = None
        self.kept_shared: Tensor | None = None
        self.kept_latent: Tensor | None = None
        self.top_k = block.top_k
        self.parallel: ExpertParallel | None = None
        # a plain dict has no weak references, which its handles hold
        self._readers: OrderedDict[int, Callable[[Any], None]] = OrderedDict()
        self._counting: OrderedDict[int, Callable[[Any], None]] = OrderedDict()
        self._entering: OrderedDict[int, Callable[[Any], None]] = OrderedDict()
        self._low_rank: OrderedDict[int, tuple[str, int, Callable[[], Pair]]] = OrderedDict()

    @property
    def capturable(self) -> bool:
        """Not where experts run one after another or are divided: the device is asked for sizes."""
        if self.parallel is not None:
            return False
        b, device = self.block, self.norm.weight.device
        sizes = [b.sizes[b.inner], b.expert_width, (1 + b.gated) * b.expert_width]
        sizes += [rank for _, rank, _ in self._low_rank.values()]
        return self.kernels.captures_experts(device, torch.bfloat16, *sizes)

    @classmethod
    def new_slot(cls, block: Block, room: Room) -> None:
        """Nothing: a token does not see the others."""
        return None

    def reset(self, generator: torch.Generator) -> None:
        """The router normal of std 0.02, as the other matrices; no correction."""
        self.router.weight.normal_(0.0, ROUTER_STD, generator=generator)
        if self.block.shared_width and self.block.shared_gate:
            self.shared_gate.weight.normal_(0.0, ROUTER_STD, generator=generator)

    def mixer(self, x: Float[Tensor, "b s d"], context: Context) -> Float[Tensor, "b s d"]:
        """The chosen experts of each token, and the shared one."""
        b = self.block
        # first: the router's many small kernels are launched while it runs
        shared = self._shared(x) if b.shared_width else None
        tokens = x.flatten(0, 1)  # [t, hidden]
        gates, chosen = self.route(tokens)  # [t, k] each
        for read in list(self._counting.values()):
            read(chosen)
        u = tokens
        if b.latent:
            u = self.latent_in_proj(tokens)  # [t, latent]
            u = u if self.kept_latent is None else u * self.kept_latent
        r = self._routed(u, gates, chosen)  # [t, latent or hidden]
        if b.latent:
            r = r if self.kept_latent is None else r * self.kept_latent
            r = self.latent_out_proj(r.unflatten(0, x.shape[:2]))  # [b, s, hidden]
        added = r.view_as(x)
        return added if shared is None else added + shared

    def route(self, tokens: Float[Tensor, "t d"]) -> tuple[Tensor, Tensor]:
        """(gates [t, k] FP32, the chosen experts [t, k] int64) of normed tokens."""
        b = self.block
        routing = Routing(
            router=cast(Any, b.router),
            top_k=self.top_k,
            normalised=b.normalised,
            scaling=b.scaling,
            groups=b.router_groups,
            groups_kept=b.router_groups_kept,
        )
        logits = self.router.logits(tokens, fp32=b.router == "sigmoid")
        return route(logits, routing, self.router.correction, self.kept_experts)

    def _routed(self, u: Tensor, gates: Tensor, chosen: Tensor) -> Tensor:
        b = self.block
        for read in list(self._entering.values()):
            read(u)
        up: Tensor = getattr(self.experts, "gate_up_proj" if b.gated else "up_proj")
        down: Tensor = self.experts.down_proj
        run = self.kernels.run_experts
        if self._low_rank:
            pairs = {
                "down" if name.endswith("down_proj") else "up": pair()
                for name, _, pair in self._low_rank.values()
            }
            run = partial(low_rank.run_experts, pairs=pairs, loop=self.kernels.experts_wait)
        call = Call(
            x=u,
            up=up,
            down=down,
            weights=gates,
            chosen=chosen,
            activation=b.activation,
            gated=b.gated,
            kept=self.kept_channels,
            watch=self._watching if self._readers else None,
        )
        return run(call) if self.parallel is None else self.parallel.run(call, run)

    def divide(self, parallel: ExpertParallel) -> set[nn.Parameter]:
        """As ``ResidualBlock.divide``: experts, and not the shared one."""
        self.parallel = parallel
        for name, stack in list(self.experts.named_parameters()):
            self.experts.register_parameter(name, parallel.divide(stack))
        return set(self.experts.parameters())

    def add_low_rank(self, stack: str, rank: int, pair: Callable[[], Pair]) -> RemovableHandle:
        """As ``ResidualBlock.add_low_rank``, beside the products with the frozen stack."""
        handle = RemovableHandle(self._low_rank)
        self._low_rank[handle.id] = (stack, rank, pair)
        return handle

    @property
    def stacks_adapted(self) -> bool:
        """Whether a product of low rank is beside a stack."""
        return bool(self._low_rank)

    def _shared(self, x: Tensor) -> Tensor:
        b = self.block
        up = self.shared_gate_up_proj if b.gated else self.shared_up_proj
        y = channels_of(b.activation, b.gated)(up(x))
        if self.kept_shared is not None:
            y = y * self.kept_shared
        out: Tensor = self.shared_down_proj(y)
        return torch.sigmoid(self.shared_gate(x)) * out if b.shared_gate else out

    def _watching(self, routed: Any) -> None:
        for read in list(self._readers.values()):
            read(routed)

    def watch(self, point: str, read: Callable[[Any], None]) -> RemovableHandle:
        """As ``ResidualBlock.watch``, with the points of its own."""
        own = {"routed": self._readers, "chosen": self._counting, "expert_inputs": self._entering}
        if point in own:
            handle = RemovableHandle(own[point])
            own[point][handle.id] = read
            return handle
        inputs = {"shared_channels": "shared_down_proj", "latent_channels": "latent_out_proj"}
        if point in inputs:
            module = self.get_submodule(inputs[point])
            return module.register_forward_pre_hook(lambda m, given: read(given[0]))
        return super().watch(point, read)

    def masks(self, kept: Kept) -> list[tuple[Any, str, Any]]:
        """As ``ResidualBlock.masks``: experts that are cut are never chosen, channels that are cut
        are 0 before they are read, and fewer experts are chosen.
        """
        b, device = self.block, self.norm.weight.device

        def mask(name: str, size: int) -> Tensor | None:
            return index_mask(size, kept.get(name), device)

        channels = mask(CHANNELS, b.experts * b.expert_width)
        return [
            (self.norm, "kept", mask("hidden", b.hidden)),
            (self, "kept_experts", mask("experts", b.experts)),
            (self, "kept_channels", None if channels is None else channels.view(b.experts, -1)),
            (self, "kept_shared", mask("shared_width", b.shared_width)),
            (self, "kept_latent", mask("latent", b.latent)),
            (self, "top_k", len(cast(Any, kept.get("top_k", range(b.top_k))))),
        ]
