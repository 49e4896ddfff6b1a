"""A checkpoint's blocks one after the other: while one is used, a thread reads the next."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from minipuzzle.checkpoint import Checkpoint
from minipuzzle.kernels import choose
from minipuzzle.kinds.axes import Weight
from minipuzzle.model.base import ResidualBlock, make_block
from minipuzzle.model.norm import RMSNorm, final_norm
from minipuzzle.shapes import Float


class BlockReader:
    """Reads blocks' modules in ``dtype`` onto ``device``; never more than two of them hold memory
    at once.

    Vectors (norms, A, D, dt) stay in FP32: they are small, and the forward computes with them in
    FP32; where ``narrow`` names the tensors of ``dtype``, so does all else. ``exact`` takes the
    reference kernels: Triton multiplies FP32 in TF32, which blurs a comparison.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        device: torch.device,
        dtype: torch.dtype,
        exact: bool = False,
        narrow: Collection[str] | None = None,
    ) -> None:
        self.checkpoint = checkpoint
        self.device = device
        self.dtype, self.narrow = dtype, narrow
        self.kernels = choose(device, "reference" if exact else "auto")
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def blocks(self, indices: Sequence[int]) -> Iterator[tuple[int, ResidualBlock]]:
        """(index, module) in order. A module's memory goes back when the next is asked for.

        Raises: UserError for NaN or infinite weights.
        """
        with ThreadPoolExecutor(1) as pool:
            waiting = [self._start(pool, index) for index in indices[:1]]
            for place, index in enumerate(indices):
                module = waiting.pop().result()
                waiting += [
                    self._start(pool, following) for following in indices[place + 1 : place + 2]
                ]
                yield index, module
                # Not left to reference counts: the caller's loop variable holds on to it while the
                # next is begun.
                for parameter in module.parameters():
                    parameter.data = torch.empty(0)

    def tensor(self, name: str, dtype: torch.dtype) -> Tensor:
        """A tensor outside of the blocks (the final norm, the head) on the device."""
        shape = next(t.shape for t in self.checkpoint.architecture.tensors() if t.name == name)
        result = torch.empty(shape, dtype=dtype, device=self.device)
        self.checkpoint.read_into(name, result)
        return result

    def final_norm(self) -> RMSNorm:
        """The norm before the head."""
        with torch.device("meta"):
            norm = final_norm(self.checkpoint.architecture)
        norm.load_state_dict(
            {"weight": self.tensor("final_norm.weight", torch.float32)}, assign=True
        )
        return norm

    def _start(self, pool: ThreadPoolExecutor, index: int) -> Future[ResidualBlock]:
        # Allocated here, in the stream that will use and free them; filled there.
        block = self.checkpoint.architecture.blocks[index]
        tensors = {
            w.name: torch.empty(
                w.shape(block.sizes), dtype=self._held(index, w), device=self.device
            )
            for w in block.weights
        }
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(self.device))
        return pool.submit(self._read, index, tensors)

    def _held(self, index: int, weight: Weight) -> torch.dtype:
        if self.narrow is None:
            return held_dtype(weight.name, len(weight.dims), self.dtype)
        return self.dtype if f"blocks.{index}.{weight.name}" in self.narrow else torch.float32

    def _read(self, index: int, tensors: dict[str, Tensor]) -> ResidualBlock:
        with (
            torch.no_grad(),
            nullcontext() if self._stream is None else torch.cuda.stream(self._stream),
        ):
            for name, tensor in tensors.items():
                self.checkpoint.read_into(f"blocks.{index}.{name}", tensor)
            if self._stream is not None:
                self._stream.synchronize()
        architecture = self.checkpoint.architecture
        with torch.device("meta"):
            module = make_block(architecture.blocks[index], architecture.norm_eps, self.kernels)
        module.load_state_dict(tensors, assign=True)
        return module.eval()


@torch.no_grad()
def embed_into(
    target: Float[Tensor, "b s d"], checkpoint: Checkpoint, tokens: NDArray[np.integer]
) -> None:
    """Make ``target``, on any device, the input of the first block for tokens [b,
    s].

    The table is read once, in pieces. Raises: UserError for NaN or infinite weights.
    """
    # tokens in the table's order, so that each piece of the table is used once
    ordered, where = torch.from_numpy(tokens.astype(np.int64).ravel()).sort(stable=True)
    flat = target.flatten(0, 1)  # [b * s, hidden]
    multiplier = checkpoint.architecture.embedding_multiplier
    for first, rows in checkpoint.pieces("embeddings.weight"):
        low, high = (
            int(n) for n in torch.searchsorted(ordered, torch.tensor([first, first + len(rows)]))
        )
        if high > low:
            chosen = rows[ordered[low:high] - first].to(flat.dtype) * multiplier
            flat[where[low:high].to(flat.device)] = chosen.to(flat.device)


def held_dtype(name: str, dims: int, dtype: torch.dtype) -> torch.dtype:
    """The dtype a block's tensor is held in when it computes in ``dtype``."""
    return dtype if dims > 1 or name.endswith(".bias") else torch.float32
