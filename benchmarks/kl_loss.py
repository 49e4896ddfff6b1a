"""Time, memory and gradient error of the forward KL from hidden states and heads.
docs/results/kl_loss.md.

    # 8,192 tokens x 131,072 words, widths 2048, 4096 and 8192: 4 minutes
    python benchmarks/kl_loss.py --out kl_loss.json

Each row is one process: forward and backward on BF16 states and heads. Memory is the peak beyond
inputs, weights and the gradients that are asked for. Errors are relative to float64, of states and
head on the first 512 tokens, where student and teacher nearly agree (about 0.03 nats) and where
they do not. ``plain`` is BF16 logits, ``.float()``, log_softmax; ``plain FP32`` makes the logits in
FP32; Liger is LigerFusedLinearJSDLoss(beta=0), TRL is ChunkedDivergenceFunction(beta=0).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import torch
from _rows import in_process, tell
from torch import Tensor
from torch.nn.functional import kl_div

from minipuzzle.artifacts import write_json
from minipuzzle.training import head_loss
from minipuzzle.training.head_loss import linear_loss

REPEATS, ERROR_TOKENS = 5, 512
NEAR, FAR = 0.25, 2.4
"""Standard deviations of the difference of logits: about 0.03 and 2.8 nats."""
Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def main() -> None:
    """Run each row in its own process, print a table, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=ROWS)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--vocab", type=int, default=131072)
    parser.add_argument("--widths", type=int, nargs="+", default=[2048, 4096, 8192])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--row", choices=ROWS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        tell(measure(options.row, options))
        return
    results: list[dict[str, Any]] = []
    for width, row in product(options.widths, options.rows):
        results.append(measured(row, width, options))
        if options.out:  # after each: a call that runs out of time has told something
            write_json(
                options.out, {"rows": results, "tokens": options.tokens, "vocab": options.vocab}
            )
    print(
        f"\n{'row':<18}{'width':>6}{'ms':>9}{'GiB beyond':>12}{'dHidden near':>14}"
        f"{'dHead near':>12}{'dHidden far':>13}"
    )
    for r in results:
        if "error" in r:
            print(f"{r['row']:<18}{r['width']:>6}  {r['error'][:100]}")
        else:
            print(
                f"{r['row']:<18}{r['width']:>6}{r['ms']:>9.1f}{r['extra_gib']:>12.2f}{r['near'][0]:>14.2e}{r['near'][1]:>12.2e}"
                f"{r['far'][0]:>13.2e}"
            )


def measured(row: str, width: int, options: argparse.Namespace) -> dict[str, Any]:
    """A row from a process of its own."""
    result, _ = in_process(
        __file__,
        row,
        "--device",
        options.device,
        "--tokens",
        options.tokens,
        "--vocab",
        options.vocab,
        "--widths",
        width,
    )
    print(
        f"{row}, width {width}: {result.get('error') or format(result['ms'], '.1f') + ' ms'}",
        flush=True,
    )
    return {"width": width, **result}


def measure(row: str, options: argparse.Namespace) -> dict[str, Any]:
    """Time and memory at full size, then errors on the first tokens."""
    loss, width, cuda = ROWS[row](), options.widths[0], options.device == "cuda"
    hidden, head, other, other_head = problem(options, width, NEAR)
    gradients = (hidden.numel() + head.numel()) * hidden.element_size()
    times, peak = [], 0
    for _ in range(REPEATS + 2):
        leaves = [t.detach().requires_grad_() for t in (hidden, head)]
        before = memory(cuda)
        started = time.perf_counter()
        loss(*leaves, other, other_head).backward()
        peak = max(peak, (torch.cuda.max_memory_allocated() if cuda else 0) - before - gradients)
        memory(cuda)
        times.append(time.perf_counter() - started)
    del leaves
    near = errors(loss, hidden[:ERROR_TOKENS], head, other[:ERROR_TOKENS], other_head)
    hidden, head, other, other_head = problem(options, width, FAR)
    far = errors(loss, hidden[:ERROR_TOKENS], head, other[:ERROR_TOKENS], other_head)
    return {
        "row": row,
        "width": width,
        "ms": 1e3 * sorted(times[2:])[REPEATS // 2],
        "extra_gib": peak / 2**30,
        "near": near,
        "far": far,
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "torch": torch.__version__,
    }


def problem(
    options: argparse.Namespace, width: int, apart: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """States and heads of student and teacher, logits of std 8, the student's states ``apart`` of
    the teacher's.
    """
    g = torch.Generator(device=options.device).manual_seed(0)
    make = lambda *s: torch.randn(*s, generator=g, device=options.device, dtype=torch.bfloat16)  # noqa: E731
    head, other = make(options.vocab, width).mul_(8 / width**0.5), make(options.tokens, width)
    return other + apart / 8 * make(options.tokens, width), head, other, head.clone()


def memory(cuda: bool) -> int:
    """Bytes allocated now; the peak is counted from here."""
    if not cuda:
        return 0
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def errors(
    loss: Loss, hidden: Tensor, head: Tensor, other: Tensor, other_head: Tensor
) -> list[float]:
    """[dHidden, dHead, loss]: relative errors against float64, 128 tokens at a time."""
    leaves = [t.detach().clone().requires_grad_() for t in (hidden, head)]
    got = loss(*leaves, other, other_head)
    got.backward()
    w, wt = head.double(), other_head.double()
    d_head, d_hidden, total = torch.zeros_like(w), [], 0.0
    for h, ht in zip(hidden.split(128), other.split(128), strict=True):
        s, t = (
            torch.log_softmax(h.double() @ w.t(), -1),
            torch.log_softmax(ht.double() @ wt.t(), -1),
        )
        total += float((t.exp() * (t - s)).sum())
        g = s.exp_().sub_(t.exp_())
        d_hidden.append(g @ w)
        d_head.addmm_(g.t(), h.double())
    want = (torch.cat(d_hidden), d_head)
    result = [
        ((x.grad.double() - e).norm() / e.norm()).item() for x, e in zip(leaves, want, strict=True)
    ]
    return [*result, abs(float(got.detach()) / total - 1)]


def ours() -> Loss:
    """``training.head_loss`` of a head in BF16, as FSDP gathers it."""
    return lambda h, w, ht, wt: linear_loss(h, w, (ht, wt)).total


def ours_master() -> Loss:
    """The same with a head in FP32, as one GPU trains it (its casts count here)."""
    return lambda h, w, ht, wt: linear_loss(h, w.float(), (ht, wt)).total


def in_tiles(row: Callable[[], Loss]) -> Callable[[], Loss]:
    """A row whose logits are made twice, whatever memory allows."""

    def made() -> Loss:
        head_loss.makes_logits_once = lambda *of: False
        return row()

    return made


def plain() -> Loss:
    """Logits in BF16, then FP32."""

    def loss(h: Tensor, w: Tensor, ht: Tensor, wt: Tensor) -> Tensor:
        s, t = (torch.log_softmax((x @ y.t()).float(), -1) for x, y in ((h, w), (ht, wt)))
        return kl_div(s, t, log_target=True, reduction="sum")

    return loss


def plain_fp32() -> Loss:
    """States and heads in FP32."""
    inner = plain()
    return lambda h, w, ht, wt: inner(h.float(), w.float(), ht.float(), wt.float())


def liger() -> Loss:
    """Liger's chunked distillation loss, which averages over tokens."""
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    function = LigerFusedLinearJSDLoss(weight_hard_loss=0.0, weight_soft_loss=1.0, beta=0.0)
    return lambda h, w, ht, wt: (
        function(h, w, ht, wt, torch.zeros(len(h), dtype=torch.long, device=h.device)) * len(h)
    )


def trl() -> Loss:
    """TRL's tiled divergence."""
    from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

    return lambda h, w, ht, wt: ChunkedDivergenceFunction.apply(h, w, None, ht, wt, None, 0.0)[
        0
    ].sum()


ROWS: dict[str, Callable[[], Loss]] = {
    "ours": ours,
    "ours-master": ours_master,
    "ours-tiles": in_tiles(ours),
    "ours-master-tiles": in_tiles(ours_master),
    "plain": plain,
    "plain-fp32": plain_fp32,
    "liger": liger,
    "trl": trl,
}


if __name__ == "__main__":
    main()
