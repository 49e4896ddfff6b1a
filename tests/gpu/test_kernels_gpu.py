"""mamba-ssm's and causal-conv1d's kernels against the plain PyTorch reference, on the GPU."""

import pytest
import torch
from conftest import save

from minipuzzle.arch import Architecture, Selection
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.kernels import choose
from minipuzzle.kinds import Attention, FeedForward, Mamba2
from minipuzzle.model import HybridLM, init_model, load_model
from minipuzzle.surgery import cut
from minipuzzle.training import mixed_precision

pytestmark = pytest.mark.gpu
TABLE: list[str] = []


@pytest.fixture(scope="module", autouse=True)
def print_table():
    yield
    print("\n" + "\n".join(TABLE))


def close(name, got, want, bound):
    error = ((got.float() - want.float()).norm() / want.float().norm().clamp(min=1e-12)).item()
    TABLE.append(f"{name:<58} {error:.1e}  (bound {bound:.0e})")
    assert error < bound, name


def inputs(heads, width, groups, state, length, dtype):
    g = torch.Generator(device="cuda").manual_seed(0)
    rand = lambda *s: torch.randn(*s, generator=g, device="cuda")  # noqa: E731
    x, b, c = (
        rand(2, length, *s).to(dtype) for s in ((heads, width), (groups, state), (groups, state))
    )
    dt = torch.nn.functional.softplus(rand(2, length, heads) - 3)
    return [x, dt, -torch.rand(heads, generator=g, device="cuda") * 8 - 0.5, b, c, rand(heads)]


# one head width and one dtype: each new one costs Triton another 95 s of tuning
@pytest.mark.parametrize(("heads", "width", "length"), [(16, 24, 512), (14, 24, 300), (16, 24, 1)])
@pytest.mark.parametrize("packed", [False, True])
def test_scan(heads, width, length, packed):
    fast, slow = (
        choose(torch.device("cuda"), "mamba-ssm"),
        choose(torch.device("cuda"), "reference"),
    )
    documents = None
    if packed:
        documents = (
            (torch.arange(length, device="cuda") // 97)
            .to(torch.int32)[None]
            .expand(2, -1)
            .contiguous()
        )
    results = []
    for kernels in (fast, slow):
        tensors = [t.requires_grad_() for t in inputs(heads, width, 2, 64, length, torch.bfloat16)]
        y, state = kernels.scan(*tensors, chunk_size=64, documents=documents)
        (y.float() * torch.linspace(-1, 1, y.numel(), device="cuda").view_as(y)).sum().backward()
        results.append((y, state, [t.grad for t in tensors]))
    label = f"scan h={heads} p={width} s={length}{' packed' if packed else ''}"
    close(label, results[0][0], results[1][0], 1e-2)
    close(label + " state", results[0][1], results[1][1], 1e-2)
    for name, got, want in zip(
        ("x", "dt", "a", "b", "c", "d"), results[0][2], results[1][2], strict=True
    ):
        close(f"{label} d{name}", got, want, 2e-2)


@pytest.mark.parametrize("channels", [640, 592, 590])
def test_conv(channels):
    fast, slow = (
        choose(torch.device("cuda"), "mamba-ssm"),
        choose(torch.device("cuda"), "reference"),
    )
    whole = torch.randn(2, 200, channels + 22, device="cuda", dtype=torch.bfloat16)
    x, weight = whole[..., 14 : 14 + channels], torch.randn(channels, 4, device="cuda")
    bias = torch.randn(channels, device="cuda")
    documents = (
        (torch.arange(200, device="cuda") // 60).to(torch.int32)[None].expand(2, -1).contiguous()
    )
    for ids in (None, documents):
        got, want = (k.causal_conv(x, weight, bias, ids) for k in (fast, slow))
        close(f"conv {channels} channels{'' if ids is None else ' packed'}", got, want, 1e-2)


def architecture(heads=16):
    m = Mamba2(hidden=192, heads=heads, head_dim=24, groups=2, state=64, chunk_size=64)
    f, a = (
        FeedForward(hidden=192, intermediate=896),
        Attention(hidden=192, q_heads=4, kv_heads=2, attn_head_dim=48),
    )
    return Architecture(vocab_size=4096, hidden=192, blocks=(m, f, m, a, f, m, f))


@pytest.mark.parametrize("heads", [16, 14])
def test_model_logits_gradients_decode(heads):
    made = init_model(architecture(heads), seed=0)
    tokens = torch.randint(0, 4096, (2, 200), generator=torch.Generator().manual_seed(0)).cuda()
    logits, grads = [], []
    for name in ("mamba-ssm", "reference"):
        model = HybridLM(
            made.architecture, device="cuda", kernels=choose(torch.device("cuda"), name)
        )
        model.load_state_dict(made.state_dict())
        with mixed_precision(torch.device("cuda")):
            out = model(tokens)
        out.logsumexp(-1).sum().backward()
        logits.append(out.detach())
        grads.append({n: p.grad for n, p in model.named_parameters()})
        with torch.no_grad(), mixed_precision(torch.device("cuda")):
            cache = model.new_cache(2, 200)
            steps = [model(tokens[:, :150], cache=cache)]
            steps += [model(tokens[:, i : i + 1], cache=cache) for i in range(150, 200)]
        close(
            f"model {heads} heads, {name}: cached decode", torch.cat(steps, 1), out.detach(), 2e-2
        )
    close(f"model {heads} heads: logits, kernels - reference", logits[0], logits[1], 2e-2)
    worst = max(
        grads[1], key=lambda n: ((grads[0][n] - grads[1][n]).norm() / grads[1][n].norm()).item()
    )
    close(f"model {heads} heads: worst gradient ({worst})", grads[0][worst], grads[1][worst], 5e-2)


@torch.no_grad()
def test_a_narrower_model_masked_is_the_cut_one(tmp_path):
    """In BF16, as search evaluates candidates: the norms count the kept hidden channels only."""
    parent = Checkpoint.open(
        save(init_model(architecture(), seed=0), tmp_path / "parent", tokenizer=False)
    )
    hidden = tuple(
        sorted(torch.randperm(192, generator=torch.Generator().manual_seed(0))[:144].tolist())
    )
    selection = Selection(blocks=tuple({} for _ in parent.architecture.blocks), hidden=hidden)
    student = cut(parent, selection, tmp_path / "student")
    tokens = torch.randint(0, 4096, (2, 200), generator=torch.Generator().manual_seed(0)).cuda()
    masked, sliced = (load_model(c, device="cuda", dtype=torch.float32) for c in (parent, student))
    with masked.masked(selection), mixed_precision(torch.device("cuda")):
        close("hidden size 192 to 144: masked - cut", masked(tokens), sliced(tokens), 2e-2)
