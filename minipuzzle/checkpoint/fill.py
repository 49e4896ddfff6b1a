"""A tensor's data from files into memory, at the memory's rate: threads read pieces and see that
they are finite, while who asked copies those before to where they belong.
"""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minipuzzle.checkpoint.stored import Stored
from minipuzzle.errors import UserError
from minipuzzle.families import names_of

PIECE = 1 << 22
"""Bytes that a thread reads at once."""
THREADS = max(2, min(8, os.cpu_count() or 1))
"""With their pieces they hold 32 MiB at most (``memory.scoring.PIECES`` pieces of the reader)."""
CHECKED = 1 << 18
"""Bytes looked at at once: both looks find them in the processor's own cache."""

# dtype -> (integers of its size, the bits of infinity: NaN's are above, finite numbers' below)
BITS: dict[torch.dtype, tuple[type[np.unsignedinteger[Any]], int]] = {
    torch.bfloat16: (np.uint16, 0x7F80),
    torch.float16: (np.uint16, 0x7C00),
    torch.float32: (np.uint32, 0x7F800000),
    torch.float64: (np.uint64, 0x7FF0000000000000),
}


def is_finite(values: Tensor) -> bool:
    """Whether a contiguous tensor on the CPU holds neither NaN nor infinity.

    Its bits are compared as integers: as signed ones the largest is positive, as unsigned ones
    negative; no mask is made, and one thread does it.
    """
    if values.dtype not in BITS:  # FP8: a byte each
        return bool(torch.isfinite(values.float()).all())
    unsigned, infinity = BITS[values.dtype]
    sign = 1 << (8 * values.element_size() - 1)
    bits = values.flatten().view(torch.uint8).numpy().view(unsigned)
    signed = bits.view(f"i{values.element_size()}")
    step = CHECKED // values.element_size()
    for start in range(0, len(bits), step):
        part = slice(start, start + step)
        if signed[part].max() >= infinity or bits[part].max() >= sign + infinity:
            return False
    return True


def check_finite(stored: Stored, start: int, values: Tensor) -> None:
    """Raises: UserError where ``values``, a tensor's data from the byte ``start`` on, are not all
    finite.
    """
    if is_finite(values):
        return
    finite = torch.isfinite(values.float() if values.element_size() == 1 else values)
    first = int((~finite).flatten().nonzero()[0])
    piece = names_of(stored.name)[stored.piece(start + first * stored.entries[0].width)]
    raise UserError(
        f"Tensor {piece} holds NaN or infinity.",
        got=f"{(~finite).sum()} of {values.numel()} values",
        allowed="finite weights",
        next="Take a checkpoint from before training broke.",
    )


def fill(stored: Stored, start: int, target: Tensor, dtype: torch.dtype) -> None:
    """Fill a contiguous ``target`` with the data from the byte ``start`` on, numbers of ``dtype``
    without scales.

    On a CPU and in that dtype it is read to where it belongs; else through a piece a thread, pinned
    where ``target`` is on a GPU. Raises: UserError for NaN or infinity, and where a file is not any
    more what was opened.
    """
    flat = target.detach().view(-1)
    step = PIECE // dtype.itemsize
    parts = [slice(a, min(a + step, len(flat))) for a in range(0, len(flat), step)]
    if not parts:
        return
    count = min(THREADS, len(parts))
    straight = flat.device.type == "cpu" and flat.dtype == dtype
    buffer = torch.empty(0 if straight else count * step, dtype=dtype, pin_memory=flat.is_cuda)
    copied: dict[int, torch.cuda.Event] = {}  # of each thread's piece

    def read(number: int) -> Tensor:
        part, place = parts[number], number % count
        length = part.stop - part.start
        piece = flat[part] if straight else buffer[place * step :][:length]
        if place in copied:
            copied[place].synchronize()
        first = start + part.start * dtype.itemsize
        stored.read(first, piece.view(torch.uint8).numpy().data)
        check_finite(stored, first, piece)
        return piece

    def copy(number: int, piece: Tensor) -> None:
        if straight:
            return
        # a GPU gets it as it is, and casts it there
        flat[parts[number]].copy_(piece.to(flat.device, non_blocking=True))
        if flat.is_cuda:
            copied[number % count] = torch.cuda.Event()
            copied[number % count].record()

    if count == 1:
        copy(0, read(0))
        return
    with ThreadPoolExecutor(count) as pool:
        waiting: deque[Future[Tensor]] = deque(pool.submit(read, n) for n in range(count))
        for number in range(len(parts)):
            copy(number, waiting.popleft().result())
            if number + count < len(parts):
                waiting.append(pool.submit(read, number + count))
