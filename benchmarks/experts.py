"""Time and memory of one block of experts, forward and backward, and of a decode step.

    # Nemotron-3-Nano's block, 8,192 tokens, BF16: 3 minutes
    python benchmarks/experts.py --out experts.json
    # a tiny one, where there is no GPU
    python benchmarks/experts.py --device cpu --tokens 256 --hidden 64 --experts 8 --top-k 2 \
        --width 32 --shared 48 --rounds 3 --out experts.json

All rows have the same weights, inputs and gradient, and take turns round by round; medians are
compared. ``ours`` is our block (its norm left out, as transformers' has none), ``loop`` with one
expert after another; the baselines are transformers' NemotronHMoE with its grouped_mm experts and
with its eager loop. ``dense`` is the ceiling: plain
matrix products of as many operations, forward and backward, without anything between them;
``batched`` the same with a matrix for each expert, which all have as many rows. ``graph`` is the
same as a CUDA graph, as the captured step of training runs it, for ways that can be captured; the
shares of the ceilings are then that one's. Memory is the peak beyond weights and their gradients.
Errors are relative to the loop in FP32 on the first tokens.

A decode step is the experts alone, forward, few tokens: as a CUDA graph on a GPU; ``gathered``
copies the chosen experts' matrices and multiplies those. Its bytes are the distinct experts chosen.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from _clocks import WARM_UPS, Run, allocated, graph_seconds, now, step_seconds
from _options import about, parsed
from experts_ways import SCALING, ours, products, theirs
from torch import Tensor
from transformers import NemotronHConfig
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHMoE

from minipuzzle.artifacts import write_json
from minipuzzle.kernels import choose, experts
from minipuzzle.kernels.experts import Call
from minipuzzle.kernels.grouped import gathered
from minipuzzle.kernels.routing import Routing, route

ROUNDS, ERROR_TOKENS = 12, 256
CAPTURED = ("ours", "transformers grouped_mm")
CEILINGS = ("dense", "batched")
DECODED = (1, 8, 64)
"""Tokens of a decode step."""


def main() -> None:
    """Measure, print two tables, write JSON."""
    options = parsed(
        __doc__,
        tokens=8192,
        hidden=2688,
        experts=128,
        top_k=6,
        width=1856,
        shared=3712,
        rounds=ROUNDS,
    )
    device = torch.device(options.device)
    module, x, gradient = problem(options, device)
    result = {
        **about(options, device),
        "dtype": str(x.dtype),
        "experts": choose(device).experts,
        "flops": flops(options),
        "rows": training(module, x, gradient, options),
    }
    write_json(options.out, result)  # a call that runs out of time has told something
    result["decode"] = decoding(module, x, options)
    write_json(options.out, result)


def problem(options: argparse.Namespace, device: torch.device) -> tuple[Any, Tensor, Tensor]:
    """transformers' block with random weights, inputs [1, tokens, hidden] and the gradient of its
    output.
    """
    config = NemotronHConfig(
        hidden_size=options.hidden,
        n_routed_experts=options.experts,
        num_experts_per_tok=options.top_k,
        moe_intermediate_size=options.width,
        moe_shared_expert_intermediate_size=options.shared,
        routed_scaling_factor=SCALING,
        norm_topk_prob=True,
        n_group=1,
        topk_group=1,
    )
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    with torch.device("meta"):
        module = NemotronHMoE(config)
    module = module.to(dtype).to_empty(device=device)
    g = torch.Generator(device=device).manual_seed(0)
    for parameter in module.parameters():
        with torch.no_grad():
            parameter.normal_(0.0, parameter.shape[-1] ** -0.5, generator=g)
    module.gate.e_score_correction_bias = torch.zeros(options.experts, device=device)
    shape = (1, options.tokens, options.hidden)
    x, gradient = (torch.randn(shape, generator=g, device=device).to(dtype) for _ in range(2))
    return module, x, gradient


def flops(options: argparse.Namespace) -> int:
    """Of the products, forward and backward: three for each matrix."""
    routed = options.top_k * 2 * options.hidden * options.width
    others = 2 * options.hidden * options.shared + options.hidden * options.experts
    return 3 * 2 * options.tokens * (routed + others)


def training(
    module: Any, x: Tensor, gradient: Tensor, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """A row for each way: milliseconds of forward and backward, the share of the ceiling, memory,
    error.
    """
    kernels, reference = choose(x.device), choose(x.device, "reference")
    ways: dict[str, Run] = {
        "ours": ours(module, options, kernels),
        "transformers grouped_mm": partial(theirs, module, "grouped_mm"),
        "transformers eager": partial(theirs, module, "eager"),
        "loop": ours(module, options, reference),
    }
    for name in list(ways):  # one that cannot run does not end the others
        try:
            ways[name](x.detach().requires_grad_()).backward(gradient)
        except RuntimeError as fault:
            print(f"{name} cannot run: {str(fault).splitlines()[0]}", flush=True)
            del ways[name]
    times: dict[str, list[float]] = {name: [] for name in (*ways, *CEILINGS)}
    forward: dict[str, list[float]] = {name: [] for name in ways}
    rows: dict[str, dict[str, Any]] = {}
    ceilings = {name: products(options, x, apart=name == "batched") for name in CEILINGS}
    for turn in range(WARM_UPS + options.rounds):
        for name, run in ways.items():
            leaf = x.detach().requires_grad_()
            before = allocated(x.device, module)
            began = now(x.device)
            y = run(leaf)
            middle = now(x.device)
            y.backward(gradient)
            ended = now(x.device)
            if turn == WARM_UPS:
                peak = torch.cuda.max_memory_allocated() - before if x.is_cuda else 0
                # the gradients of weights and inputs are there whatever runs
                peak -= sum(t.nbytes for t in (*module.parameters(), x)) if x.is_cuda else 0
                rows[name] = {"row": name, "extra_gib": peak / 2**30}
            if turn >= WARM_UPS:
                times[name].append(ended - began)
                forward[name].append(middle - began)
            module.zero_grad(set_to_none=True)
            del leaf, y
        for name, product in ceilings.items():
            began = now(x.device)
            product()
            if turn >= WARM_UPS:
                times[name].append(now(x.device) - began)
    few = x[:, :ERROR_TOKENS]  # last: other sizes would be compiled for all sizes
    with torch.no_grad():
        exact = ours(deepcopy(module).float(), options, reference)(few.float())
        for name, run in ways.items():
            rows[name]["error"] = ((run(few) - exact).norm() / exact.norm()).item()
    dense, batched = (statistics.median(times[name]) for name in CEILINGS)
    print(
        f"{'':<26}{'ms':>9}{'forward':>9}{'graph':>9}{'TFLOP/s':>9}{'of dense':>10}"
        f"{'of batched':>12}{'GiB beyond':>12}{'error':>10}"
    )
    for name in [n for n in CAPTURED if n in rows] if x.is_cuda else ():
        rows[name]["graph_ms"] = 1e3 * graph_seconds(ways[name], module, x, gradient)
    for name, row in (*rows.items(), *((c, {"row": c}) for c in CEILINGS)):
        eager = statistics.median(times[name])
        seconds = row.get("graph_ms", 1e3 * eager) / 1e3
        row |= {
            "ms": 1e3 * eager,
            "all_ms": [1e3 * t for t in times[name]],
            "tflops": flops(options) / seconds / 1e12,
            "of_dense": dense / seconds,
            "of_batched": batched / seconds,
        }
        rows[name] = row
        if name in forward:
            row["forward_ms"] = 1e3 * statistics.median(forward[name])
        print(
            f"{name:<26}{row['ms']:>9.2f}{row.get('forward_ms', 0):>9.2f}"
            f"{row.get('graph_ms', 0):>9.2f}{row['tflops']:>9.1f}{row['of_dense']:>10.1%}"
            f"{row['of_batched']:>12.1%}{row.get('extra_gib', 0):>12.2f}"
            f"{row.get('error', 0):>10.1e}",
            flush=True,
        )
    return list(rows.values())


@torch.no_grad()
def decoding(module: Any, x: Tensor, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Milliseconds of the experts alone for few tokens."""
    up, down = module.experts.up_proj, module.experts.down_proj
    ways: dict[str, Callable[..., Tensor]] = {
        "ours": choose(x.device).run_experts,
        "gathered": partial(experts.run_experts, product=gathered),
    }
    found = []
    print(f"\n{'tokens':>6}{'experts':>9}" + "".join(f"{f'{n} ms':>14}{'GB/s':>8}" for n in ways))
    for tokens in DECODED:
        part = x[0, :tokens].contiguous()
        logits = F.linear(part.float(), module.gate.weight.float())
        routing = Routing(router="sigmoid", top_k=options.top_k, normalised=True, scaling=SCALING)
        weights, chosen = route(logits, routing)
        read = len(chosen.unique())
        row: dict[str, Any] = {"tokens": tokens, "experts": read}
        size = read * 2 * options.hidden * options.width * x.element_size()
        for name, run in ways.items():
            step = partial(run, Call(part, up, down, weights, chosen, "relu2", False))
            seconds = step_seconds(step, x.device)
            row[name] = {"ms": 1e3 * seconds, "gb_s": size / seconds / 1e9}
        found.append(row)
        cells = "".join(f"{row[n]['ms']:>14.3f}{row[n]['gb_s']:>8.0f}" for n in ways)
        print(f"{tokens:>6}{read:>9}{cells}", flush=True)
    return found


if __name__ == "__main__":
    main()
