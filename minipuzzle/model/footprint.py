"""How many bytes a block's forward holds at its worst moment, found by running it on "meta"
tensors, which have none.

What is counted are PyTorch's tensors, as torch.cuda.max_memory_allocated counts them; what
libraries keep inside an operation (a repacked weight, a workspace) is not seen.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from minipuzzle.kernels import choose
from minipuzzle.kernels.meta import FlashAttentionMeta, mamba_ssm_meta
from minipuzzle.kinds import Block
from minipuzzle.model.base import Context, ResidualBlock, make_block, new_slot
from minipuzzle.model.cache import Room
from minipuzzle.model.prefetch import held_dtype


@lru_cache(256)  # candidates, passes and runs of one process have the same blocks
@torch.no_grad()
def forward_bytes(
    block: Block,
    *,
    batch: int,
    length: int,
    dtype: torch.dtype,
    fast: bool,
    past: int | None = None,
    watch: Callable[[ResidualBlock], None] = lambda module: None,
) -> int:
    """Peak bytes of branch(h) for h [batch, length, hidden], beyond h and the weights, its
    result included.

    ``fast`` counts what a GPU's kernels allocate, else a CPU's. ``watch`` may put hooks
    on the module first; what they allocate counts too. With ``past`` the tokens follow so many in a
    cache, which is not counted.
    """
    kernels = choose(torch.device("cpu"))
    with torch.device("meta"):
        module = make_block(block, 1e-5, mamba_ssm_meta(kernels) if fast else kernels)
    for name, parameter in module.named_parameters():
        parameter.data = parameter.data.to(held_dtype(name, parameter.ndim, dtype))
    watch(module)
    h = torch.empty(batch, length, block.hidden, dtype=dtype, device="meta")
    slot = None
    if past is not None:
        room = Room(batch=batch, capacity=past + length, device=h.device, kv_dtype=dtype)
        slot = new_slot(block, room)
    remembered = [] if slot is None else slot.tensors()
    with FlashAttentionMeta(), _Live([h, *module.parameters(), *remembered]) as live:
        module.branch(h, Context(slot=slot, past=past or 0))
    return live.peak


class _Live(TorchDispatchMode):
    """Sums the storages that operations return, for as long as something refers to them; views of
    ``given`` are free.
    """

    def __init__(self, given: list[Tensor]) -> None:
        super().__init__()
        self.given = {StorageWeakRef(tensor.untyped_storage()).cdata for tensor in given}
        self.held: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else the first operation imports torch._dynamo, which takes a second

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                storage = StorageWeakRef(tensor.untyped_storage())
                if storage.cdata not in self.given:
                    self.held[storage.cdata] = (storage, tensor.untyped_storage().nbytes())
        self.held = {key: entry for key, entry in self.held.items() if not entry[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self.held.values()))
        return result
