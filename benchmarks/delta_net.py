"""Time and memory of one block of gated DeltaNet, forward and backward, and the account of a decode
step.

    # Qwen3.5-9B's block, 8,192 tokens, BF16: 4 minutes, most of them Triton's tuning
    python benchmarks/delta_net.py --out delta_net.json
    # a tiny one, where there is no GPU
    python benchmarks/delta_net.py --device cpu --tokens 200 --hidden 64 --groups 2 --heads 2 \
        --width 16 --rounds 3 --out delta_net.json

All rows have the same weights, inputs and gradient, and take turns round by round; medians are
compared. ``ours`` is our block's mixer, which gives fla's kernels each key group as a row
(``kernels/delta_cuda.py``), ``ours, heads beside`` the same with all heads in a row, ``ours, plain
PyTorch`` with the reference of the rule and of the convolution. The baseline is transformers'
Qwen3_5GatedDeltaNet, which takes the same kernels where they are installed (fla-core,
causal-conv1d). ``products`` is the ceiling: the matrix products alone, forward and backward.
``graph`` is the same as a CUDA graph. Memory is the peak beyond weights and their gradients. Errors
are relative to the plain block in FP32 on the first tokens: of the output, of the input's gradient
and of q's, k's, v's and z's matrix.

A decode step is LAYERS blocks of their own weights and states one after the other, a token a row,
so that no cache holds what is read. What it must move is its weights once, its states and windows
there and back; ``of copy`` is that over what a copy of 4 GiB moves in the same time. ``ours`` as
the program runs it, and with its states in other parts a program of the kernel, or through fla's
own function, which returns new states.
"""

from __future__ import annotations

import argparse
import inspect
import statistics
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib import metadata
from typing import Any

import torch
from _clocks import WARM_UPS, Run, allocated, graph_seconds, now
from _options import about, parsed
from delta_net_decode import decoding
from torch import Tensor, nn
from transformers.models.qwen3_5 import modeling_qwen3_5
from transformers.models.qwen3_5.configuration_qwen3_5 import Qwen3_5TextConfig

from minipuzzle.artifacts import write_json
from minipuzzle.kernels import Kernels, choose
from minipuzzle.kinds import DeltaNet
from minipuzzle.model.base import Context, make_block

ROUNDS, ERROR_TOKENS, EPS = 12, 512, 1e-6


def main() -> None:
    """Measure, print two tables, write JSON."""
    options = parsed(
        __doc__, tokens=8192, hidden=4096, groups=16, heads=2, width=128, rounds=ROUNDS
    )
    device = torch.device(options.device)
    kernels = choose(device)
    kind = DeltaNet(
        hidden=options.hidden,
        key_groups=options.groups,
        group_heads=options.heads,
        key_dim=options.width,
        value_dim=options.width,
    )
    result: dict[str, Any] = {
        **about(options, device),
        "kernels": kernels.describe([kind]),
        "fla": next((d.version for d in metadata.distributions(name="fla-core")), None),
        "transformers' kernels": theirs(),
        "flops": 3 * options.tokens * kind.flops(options.tokens).matmul,
    }
    result["decode"] = decoding(kind, kernels, device)
    write_json(options.out, result)  # a call that runs out of time has told something
    result["rows"] = training(kind, kernels, options)
    write_json(options.out, result)


def theirs() -> dict[str, str]:
    """Whose functions transformers took when it was imported."""
    found = {}
    for name in ("torch_chunk_gated_delta_rule", "causal_conv1d_fn"):
        function = getattr(modeling_qwen3_5, name)
        taken = inspect.getclosurevars(function).nonlocals.get("implementation", function)
        found[name] = taken.__module__
    return found


def problem(kind: DeltaNet, options: argparse.Namespace) -> tuple[nn.Module, Tensor, Tensor]:
    """transformers' block with random weights, inputs [1, tokens, hidden] and the gradient of its
    output.
    """
    config = Qwen3_5TextConfig(
        hidden_size=kind.hidden,
        linear_num_key_heads=kind.key_groups,
        linear_num_value_heads=kind.heads,
        linear_key_head_dim=kind.key_dim,
        linear_value_head_dim=kind.value_dim,
        num_hidden_layers=1,
        layer_types=["linear_attention"],
        rms_norm_eps=EPS,
    )
    device = torch.device(options.device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    g = torch.Generator(device=device).manual_seed(0)
    module = modeling_qwen3_5.Qwen3_5GatedDeltaNet(config, 0).to(device)
    with torch.no_grad():
        for projection in module.children():
            if isinstance(projection, nn.Linear):
                projection.weight.normal_(0.0, kind.hidden**-0.5, generator=g)
        module.A_log.uniform_(0.0, 2.7, generator=g)  # decays of published models
        module.dt_bias.uniform_(-6.0, -2.0, generator=g)
    shape = (1, options.tokens, kind.hidden)
    x, gradient = (torch.randn(shape, generator=g, device=device).to(dtype) for _ in range(2))
    return module.to(dtype), x, gradient


def ours(module: Any, kind: DeltaNet, kernels: Kernels) -> Any:
    """Our block with the values of transformers'."""
    with torch.device(module.out_proj.weight.device):
        made: Any = make_block(kind, EPS, kernels)
    values = {
        "in_proj_qkvz.weight": torch.cat((module.in_proj_qkv.weight, module.in_proj_z.weight)),
        "in_proj_ba.weight": torch.cat((module.in_proj_b.weight, module.in_proj_a.weight)),
        "conv.weight": module.conv1d.weight,
        "gated_norm.weight": module.norm.weight,
        "out_proj.weight": module.out_proj.weight,
        "dt_bias": module.dt_bias,
        "A_log": module.A_log,
        "norm.weight": made.norm.weight,
    }
    made.to(module.out_proj.weight.dtype).load_state_dict(values)
    return made


def training(kind: DeltaNet, kernels: Kernels, options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each way: milliseconds of forward and backward, the share of the ceiling, memory,
    errors.
    """
    module, x, gradient = problem(kind, options)
    plain = ours(module, kind, choose(x.device, "reference"))
    fast = ours(module, kind, kernels)
    ways: dict[str, tuple[Any, Run]] = {
        "ours": (fast, partial(fast.mixer, context=Context())),
        "transformers": (module, module),
        "ours, plain PyTorch": (plain, partial(plain.mixer, context=Context())),
    }
    if delta_rule := beside(kernels):
        other = ours(module, kind, replace(kernels, delta_rule=delta_rule))
        ways["ours, heads beside"] = (other, partial(other.mixer, context=Context()))
    times: dict[str, list[float]] = {name: [] for name in (*ways, "products")}
    forward: dict[str, list[float]] = {name: [] for name in ways}
    rows: dict[str, dict[str, Any]] = {}
    multiply = products(kind, x)
    for turn in range(WARM_UPS + options.rounds):
        for name, (owner, run) in ways.items():
            leaf = x.detach().requires_grad_()
            before = allocated(x.device, owner)
            began = now(x.device)
            y = run(leaf)
            middle = now(x.device)
            y.backward(gradient)
            ended = now(x.device)
            if turn == 0:
                print(f"{name}: the first pass took {ended - began:.1f} s", flush=True)
            if turn == WARM_UPS:
                peak = torch.cuda.max_memory_allocated() - before if x.is_cuda else 0
                # the gradients of weights and inputs are there whatever runs
                peak -= sum(t.nbytes for t in (*owner.parameters(), x)) if x.is_cuda else 0
                rows[name] = {"row": name, "extra_gib": peak / 2**30}
            if turn >= WARM_UPS:
                times[name].append(ended - began)
                forward[name].append(middle - began)
            owner.zero_grad(set_to_none=True)
            del leaf, y
        began = now(x.device)
        multiply()
        if turn >= WARM_UPS:
            times["products"].append(now(x.device) - began)
    for name in ways.keys() - {"ours, plain PyTorch"} if x.is_cuda else ():
        owner, run = ways[name]
        try:  # one that cannot be captured does not end the others
            rows[name]["graph_ms"] = 1e3 * graph_seconds(run, owner, x, gradient)
        except RuntimeError as fault:
            print(f"{name} is no CUDA graph: {str(fault).splitlines()[0]}", flush=True)
    of_first(module, plain, ways, rows, x, gradient)  # last: other sizes are compiled for all sizes
    ceiling = statistics.median(times["products"])
    print(
        f"{'':<22}{'ms':>9}{'forward':>9}{'graph':>9}{'of products':>13}{'GiB beyond':>12}   errors"
    )
    for name, row in (*rows.items(), ("products", {"row": "products"})):
        eager = statistics.median(times[name])
        row |= {"ms": 1e3 * eager, "all_ms": [1e3 * t for t in times[name]]}
        row["of_products"] = 1e3 * ceiling / row.get("graph_ms", row["ms"])
        if name in forward:
            row["forward_ms"] = 1e3 * statistics.median(forward[name])
        rows[name] = row
        print(
            f"{name:<22}{row['ms']:>9.2f}{row.get('forward_ms', 0):>9.2f}"
            f"{row.get('graph_ms', 0):>9.2f}{row['of_products']:>13.1%}"
            f"{row.get('extra_gib', 0):>12.2f}   "
            + " ".join(f"{error:.1e}" for error in row.get("errors", {}).values()),
            flush=True,
        )
    return list(rows.values())


def beside(kernels: Kernels) -> Callable[..., tuple[Tensor, Tensor]] | None:
    """fla's rule as it is, where it is installed."""
    if "fla" not in kernels.delta or "not installed" in kernels.delta:
        return None
    from fla.ops.gated_delta_rule import chunk_gated_delta_rule

    def rule(q: Tensor, k: Tensor, v: Tensor, decay: Tensor, beta: Tensor, **_: Any) -> Any:
        return chunk_gated_delta_rule(q, k, v, decay, beta, output_final_state=True)

    return rule


def of_first(
    module: Any,
    plain: Any,
    ways: dict[str, tuple[Any, Run]],
    rows: dict[str, dict[str, Any]],
    x: Tensor,
    gradient: Tensor,
) -> None:
    """Put into each row how far it is from the plain block in FP32 on the first tokens."""
    few, given = x[:, :ERROR_TOKENS], gradient[:, :ERROR_TOKENS]
    found = {}
    for name, (owner, run) in ways.items():
        found[name] = first(owner, run, few, given)
    wide = ours(module, plain.block, plain.kernels).float()
    exact = first(wide, partial(wide.mixer, context=Context()), few.float(), given.float())
    for name, values in found.items():
        rows[name]["errors"] = {
            part: ((value.float() - exact[part]).norm() / exact[part].norm()).item()
            for part, value in values.items()
        }


def first(owner: Any, run: Run, x: Tensor, gradient: Tensor) -> dict[str, Tensor]:
    """The output and gradients, by name."""
    leaf = x.detach().requires_grad_()
    y = run(leaf)
    y.backward(gradient)
    if hasattr(owner, "in_proj_qkv"):
        matrix = torch.cat((owner.in_proj_qkv.weight.grad, owner.in_proj_z.weight.grad))
    else:
        matrix = owner.in_proj_qkvz.weight.grad
    owner.zero_grad(set_to_none=True)
    assert leaf.grad is not None
    return {"output": y.detach(), "input": leaf.grad, "matrix": matrix}


def products(kind: DeltaNet, x: Tensor) -> Callable[[], None]:
    """The products alone: forward, the gradient of the input, that of the matrix."""
    sizes = [
        (kind.hidden, kind.conv_channels + kind.values),
        (kind.hidden, 2 * kind.heads),
        (kind.values, kind.hidden),
    ]
    rand = partial(torch.randn, dtype=x.dtype, device=x.device)
    made = [(rand(x.shape[1], k), rand(o, k), rand(x.shape[1], o)) for k, o in sizes]

    def run() -> None:
        for inputs, matrix, gradient in made:
            torch.matmul(inputs, matrix.t())
            torch.matmul(gradient, matrix)
            torch.matmul(gradient.t(), inputs)

    return run


if __name__ == "__main__":
    main()
