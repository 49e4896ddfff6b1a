"""One optimiser step over all processes: gradients of summed losses, one division by the global
count of tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from minipuzzle.data import TokenBlocks
from minipuzzle.data.ahead import Ahead
from minipuzzle.errors import UserError
from minipuzzle.machine import sent
from minipuzzle.model import HybridLM
from minipuzzle.ranks import Ranks
from minipuzzle.settings import Training
from minipuzzle.training.adamw import local_part
from minipuzzle.training.guard import Guard
from minipuzzle.training.objectives import BatchLoss
from minipuzzle.training.optimizers import ready_step
from minipuzzle.training.prepare import Served


@dataclass(frozen=True, kw_only=True)
class Update:
    """What a step did: mean loss and teacher's entropy over the tokens of all processes (nats),
    gradient norm before clipping, why it was skipped (empty: it was not), and the sums over all
    processes of their ``votes``, asked for after the gradients.
    """

    loss: float
    entropy: float
    norm: float
    skipped: str
    votes: tuple[float, ...]


def update(
    model: HybridLM,
    backward: Callable[[Tensor, Tensor | None], BatchLoss],
    optimizer: torch.optim.Optimizer,
    parts: Iterator[tuple[Tensor, Tensor | None]],
    *,
    clip: float,
    guard: Guard,
    ranks: Ranks,
    served: Served,
    votes: Callable[[], tuple[float, ...]],
) -> Update:
    """Take a step on ``parts`` (tokens [b, s], documents), this process's micro-batches, whose
    gradients ``backward`` makes within ``served``.

    Losses are summed and divided once by the number of tokens of all processes, so that neither
    micro-batches nor processes of unequal counts are weighed wrongly. Raises: UserError where the
    guard gives up, and where nothing would be trained.
    """
    sums, count = torch.zeros(2, dtype=torch.float64), 0
    with served():
        for tokens, documents in parts:
            batch = backward(tokens, documents)
            both = torch.stack((batch.total.double(), batch.entropy.double()))
            sums, count = sums.to(tokens.device) + both, count + batch.tokens
    # a GPU has work until here: what follows is put behind it, before it is waited for
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    ranks.average(
        [g for g in gradients if not hasattr(g, "to_local")]
    )  # an adapter's; FSDP has averaged those of shards
    whole, step = total_norm(gradients), ready_step(optimizer, gradients)
    total, entropy, everyone, *voted = ranks.sum(
        np.array([*sums.tolist(), count, *votes()])
    ).tolist()
    scale = ranks.world / everyone
    norm = whole.item() * scale
    if norm == 0 and total != 0:
        raise no_gradient(
            f"{len(gradients)} gradients, all of them 0, at a loss of {total / everyone:.4g}"
        )
    skipped = guard.accept(total / everyone, norm)
    if not skipped:
        step(scale * min(1.0, clip / (norm + 1e-6)))
    optimizer.zero_grad(set_to_none=True)
    return Update(
        loss=total / everyone,
        entropy=entropy / everyone,
        norm=norm,
        skipped=skipped,
        votes=tuple(voted),
    )


def micro_batches(
    blocks: TokenBlocks | Ahead, settings: Training, first: int, ranks: Ranks, device: torch.device
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """This process's share of the batch that begins at block ``first`` of the stream,
    ``micro_batch`` blocks at a time; the processes of one context have the same.

    Tokens [b, s] int64 and documents [b, s] or None, on ``device``.
    """
    for rows in own_rows(settings, ranks):
        tokens, documents = blocks.stream(
            range(first + rows.start, first + rows.stop), settings.seed
        )
        given = settings.isolate_documents or blocks.spans
        yield (
            sent(torch.from_numpy(tokens), device),
            torch.from_numpy(documents).to(device) if given else None,
        )


def own_rows(settings: Training, ranks: Ranks) -> list[range]:
    """Which rows of a batch this process takes, by micro-batch; the processes of one context take
    the same.
    """
    share = settings.batch * settings.context_parallel // ranks.world
    first = ranks.rank // settings.context_parallel * share
    mine, size = range(first, first + share), settings.micro_batch or share
    return [mine[start : start + size] for start in range(0, share, size)]


def check_batch(training: Training, length: int, ranks: Ranks) -> None:
    """Raises: UserError where batches of blocks of ``length`` tokens cannot be shared equally among
    the processes, or among groups of them that share each sequence.
    """
    together = training.context_parallel
    if ranks.world % together:
        raise UserError(
            "The processes cannot be divided into groups that share a sequence.",
            got=f"{ranks.world} processes, training.context_parallel {together}",
            allowed=f"a divisor of {ranks.world}",
            next="Change training.context_parallel, or start another number of processes.",
        )
    shares = ranks.world // together
    if training.batch % shares:
        groups = f" in groups of {together}" if together > 1 else ""
        raise UserError(
            "The batch cannot be shared equally among the processes.",
            got=f"{training.batch} blocks, {ranks.world} processes{groups}",
            allowed=f"a multiple of {shares}",
            next="Change training.batch, or start another number of processes.",
        )
    if length % together:
        raise UserError(
            "A sequence cannot be divided equally among the processes.",
            got=f"{length:,} tokens, training.context_parallel {together}",
            allowed=f"a multiple of {together}",
            next="Change data.length.",
        )


def no_gradient(got: str) -> UserError:
    """The error of a step that trains nothing."""
    return UserError(
        "This step would train nothing.",
        got=got,
        allowed="a gradient of some trained parameter",
        next=(
            "Check which parameters are trained: an adapter must be on projections that the model"
            " runs."
        ),
    )


@torch.no_grad()
def total_norm(gradients: list[Tensor]) -> Tensor:
    """Of all gradients together, [] on their device, 0 without any; squares of BF16 ones are summed
    in FP32.
    """
    alike: dict[Any, list[Tensor]] = {}  # shards of one mesh are summed over its processes
    for gradient in gradients:
        mesh = getattr(gradient, "device_mesh", None)
        alike.setdefault((mesh, getattr(gradient, "placements", ())), []).append(gradient)
    norms = [_norm(those, mesh, places) for (mesh, places), those in alike.items()]
    return torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros(())


def _norm(gradients: list[Tensor], mesh: Any, places: tuple[Any, ...]) -> Tensor:
    """Of gradients that are whole, or shards that lie in ``places`` of one ``mesh``.

    Those are summed by hand: what DTensor does for each of hundreds is done while the GPU waits.
    """
    own = [local_part(gradient) for gradient in gradients]
    if all(g.dtype == torch.float32 for g in own):
        norm = torch.nn.utils.get_total_norm(own)
    else:
        each = [
            one
            for dtype in dict.fromkeys(g.dtype for g in own)
            for one in torch._foreach_norm(
                [g for g in own if g.dtype == dtype], 2, dtype=torch.float32
            )
        ]
        norm = torch.linalg.vector_norm(torch.stack(each))
    if any(place.is_shard() for place in places):
        squares = norm.square()
        for dimension, place in enumerate(places):
            if place.is_shard():
                dist.all_reduce(squares, group=mesh.get_group(dimension))
        norm = squares.sqrt()
    return norm
