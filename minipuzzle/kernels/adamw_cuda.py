"""``plain_adamw`` as one Triton kernel over all tensors of a kind. Imported only where it runs.

A program steps CHUNK numbers of one tensor. What it reads first is a row of a table: where the
tensor lies and how long it is. Each number is read and written once: of 4 bytes the weight and both
moments, the gradient read and the copy written as they are.
"""

# mypy: disable-error-code="untyped-decorator,no-untyped-def"
from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from minipuzzle.kernels.adamw import Betas, Stepped
from minipuzzle.machine import sent

BLOCK, WARPS = 1024, 8
"""Numbers at a time, and what reads them: 4 a thread are 16 bytes of FP32, and with the 32
registers that this takes a multiprocessor is full of threads.
"""
CHUNK = 8 * BLOCK
ALIGNED = 16
"""Bytes, of which each tensor's address is a multiple: for reads of so many at once."""


@triton.jit
def _kernel(
    tensors,  # [programs] int32: of each program its tensor
    firsts,  # [tensors] int32: of each tensor its first program
    sizes,  # [tensors] int64
    places,  # [4, tensors] int64: addresses of weights, both moments, copies
    gradients,  # [tensors] int64: addresses
    numbers,  # [3, tensors] FP32: what decay leaves, rate, 1 / root
    count,
    scale,
    beta1,
    beta2,
    eps,
    HALF: tl.constexpr,
    COPIES: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
):
    tensor = tl.load(tensors + tl.program_id(0))
    start = (tl.program_id(0) - tl.load(firsts + tensor)).to(tl.int64) * CHUNK
    left = tl.load(sizes + tensor) - start
    w = tl.load(places + tensor).to(tl.pointer_type(tl.float32)) + start
    m = tl.load(places + count + tensor).to(tl.pointer_type(tl.float32)) + start
    v = tl.load(places + 2 * count + tensor).to(tl.pointer_type(tl.float32)) + start
    c = tl.load(places + 3 * count + tensor).to(tl.pointer_type(tl.bfloat16)) + start
    address = tl.load(gradients + tensor)
    if HALF:
        g = address.to(tl.pointer_type(tl.bfloat16)) + start
    else:
        g = address.to(tl.pointer_type(tl.float32)) + start
    keep = tl.load(numbers + tensor)
    rate = tl.load(numbers + count + tensor)
    unroot = tl.load(numbers + 2 * count + tensor)
    if left >= CHUNK:  # a mask of any length would split reads of 16 bytes
        for done in range(0, CHUNK, BLOCK):
            at = done + tl.arange(0, BLOCK)
            _block(w, m, v, c, g, at, None, keep, rate, unroot, scale, beta1, beta2, eps, COPIES)
    else:
        for done in range(0, CHUNK, BLOCK):
            at = done + tl.arange(0, BLOCK)
            mask = at < left
            _block(w, m, v, c, g, at, mask, keep, rate, unroot, scale, beta1, beta2, eps, COPIES)


@triton.jit
def _block(
    w, m, v, c, g, at, mask, keep, rate, unroot, scale, beta1, beta2, eps, COPIES: tl.constexpr
):
    gradient = tl.load(tl.multiple_of(g + at, 16), mask).to(tl.float32) * scale
    first = tl.load(tl.multiple_of(m + at, 16), mask)
    second = tl.load(tl.multiple_of(v + at, 16), mask)
    weight = tl.load(tl.multiple_of(w + at, 16), mask) * keep
    first += (1 - beta1) * (gradient - first)
    second = beta2 * second + (1 - beta2) * gradient * gradient
    weight -= rate * first / (tl.sqrt(second) * unroot + eps)
    tl.store(tl.multiple_of(m + at, 16), first, mask)
    tl.store(tl.multiple_of(v + at, 16), second, mask)
    tl.store(tl.multiple_of(w + at, 16), weight, mask)
    if COPIES:
        tl.store(tl.multiple_of(c + at, 16), weight.to(tl.bfloat16), mask)


def prepared(tensors: Sequence[Stepped], betas: Betas) -> Callable[[float], None]:
    """``plain_adamw`` but for the scale, of tensors on one device, whose gradients are left as they
    are: what is read is sent there, and one launch for each kind of tensor is left.

    Raises: ValueError for tensors that the kernel would misread.
    """
    by_kind: dict[tuple[bool, bool], list[Stepped]] = {}
    for t in tensors:
        if t.weight.numel():
            kind = t.gradient.dtype == torch.bfloat16, t.copy is not None
            by_kind.setdefault(kind, []).append(t)
    kernels = [_prepared(some, *kind, betas) for kind, some in by_kind.items()]

    def run(scale: float) -> None:
        for kernel in kernels:
            kernel(scale)

    return run


def _prepared(
    tensors: Sequence[Stepped], half: bool, copies: bool, betas: Betas
) -> Callable[[float], None]:
    device = tensors[0].weight.device
    # held until the launch: what is made here must not be given back before
    gradients = [_aligned(t.gradient.contiguous()) for t in tensors]
    rows, counts = [], []
    for t, gradient in zip(tensors, gradients, strict=True):
        held = [t.weight, t.first, t.second, t.weight if t.copy is None else t.copy]
        _check(t, gradient, held)
        rows.append(tuple(each.data_ptr() for each in held))
        counts.append(t.weight.numel())
    table = _table(device, tuple(rows), tuple(counts))
    numbers = [(t.keep, t.rate, 1 / t.root) for t in tensors]
    places = sent(torch.tensor([g.data_ptr() for g in gradients]), device)
    factors = sent(torch.tensor([*zip(*numbers, strict=True)], dtype=torch.float32), device)

    def kernel(scale: float) -> None:
        with torch.cuda.device_of(tensors[0].weight):  # Triton launches on the current one
            _kernel[(len(table[0]),)](
                *table,
                places,
                factors,
                len(gradients),  # which, where they are copies, are held until here
                scale,
                betas.first,
                betas.second,
                betas.eps,
                HALF=half,
                COPIES=copies,
                CHUNK=CHUNK,
                BLOCK=BLOCK,
                num_warps=WARPS,
            )

    return kernel


def _check(t: Stepped, gradient: Tensor, held: Sequence[Tensor]) -> None:
    same = all(each.shape == t.weight.shape and each.is_contiguous() for each in (gradient, *held))
    wide = all(each.dtype == torch.float32 for each in held[:3])
    narrow = t.copy is None or t.copy.dtype == torch.bfloat16
    known = gradient.dtype in (torch.bfloat16, torch.float32)
    placed = all(each.data_ptr() % ALIGNED == 0 for each in held)
    if not (same and wide and narrow and known and placed):
        raise ValueError(
            f"a weight {t.weight.dtype} {tuple(t.weight.shape)} at a gradient {gradient.dtype}"
            f" {tuple(gradient.shape)} cannot be stepped: contiguous FP32 weights and moments,"
            " gradients of BF16 or FP32 and BF16 copies, all of one shape, are"
        )


def _aligned(gradient: Tensor) -> Tensor:
    """The gradient where it lies, or, where that is no place for wide reads, elsewhere."""
    return gradient if gradient.data_ptr() % ALIGNED == 0 else gradient.clone()


@lru_cache(maxsize=8)
def _table(
    device: torch.device, rows: tuple[tuple[int, ...], ...], counts: tuple[int, ...]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What of the kernel's table stays from step to step."""
    sizes = torch.tensor(counts)
    programs = -(-sizes // CHUNK)
    tensors = torch.repeat_interleave(torch.arange(len(counts)), programs)
    firsts = programs.cumsum(0) - programs
    return (
        tensors.int().to(device),
        firsts.int().to(device),
        sizes.to(device),
        torch.tensor(rows).t().contiguous().to(device),
    )
