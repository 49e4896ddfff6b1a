"""Gated DeltaNet on the GPU: fla's kernels against a loop in float64, with documents and an initial
state; its pointwise kernels; training and decoding in CUDA graphs.
"""

import pytest
import torch
from delta_loop import inputs, loop

from minipuzzle.arch import Architecture
from minipuzzle.generation.step import Decoder, prefill
from minipuzzle.kernels import choose, delta
from minipuzzle.kernels.pointwise import gated_rms_norm
from minipuzzle.kinds import DeltaNet, FeedForward
from minipuzzle.model import HybridLM, init_model

pytestmark = pytest.mark.gpu
CUDA = torch.device("cuda")
# the shape of benchmarks/delta_net.py: each new width or number of heads a key costs Triton minutes
GROUPS, HEADS, KEYS, VALUES = 16, 32, 128, 128
LENGTH = 400
NAMES = ("q", "k", "v", "decay", "beta", "state")


def error(got, want):
    return ((got.double() - want.double()).norm() / want.double().norm().clamp(min=1e-12)).item()


@pytest.fixture(scope="module")
def kernels():
    pytest.importorskip("fla")
    return choose(CUDA)


def problem(slow=False):
    """q, k, v, decay, beta and a state, float64 on the GPU, of values that BF16 has."""
    tensors = inputs(LENGTH, (GROUPS, HEADS, KEYS, VALUES), slow)
    g = torch.Generator().manual_seed(7)
    tensors.append(torch.randn(2, HEADS, KEYS, VALUES, generator=g, dtype=torch.float64))
    tensors = [t.cuda() for t in tensors]
    return [t.bfloat16().double() if i < 3 else t for i, t in enumerate(tensors)]


def as_trained(tensors):
    """q, k and v in BF16, decay, beta and states in FP32, all with gradients."""
    return [(t.bfloat16() if i < 3 else t.float()).requires_grad_() for i, t in enumerate(tensors)]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("started", [False, True])
@pytest.mark.parametrize("slow", [False, True])
def test_rule_and_gradients_are_the_loop(kernels, packed, started, slow):
    tensors = problem(slow)
    if not started:
        tensors.pop()
    documents = None
    if packed:  # documents shorter than a chunk, and ends within one
        first = torch.tensor([0] * 30 + [1] * 34 + [2] * 3 + [5] * (LENGTH - 67))
        documents = torch.stack((first, torch.arange(LENGTH) // 128)).cuda()
    exact = [t.clone().requires_grad_() for t in tensors]
    trained = as_trained(tensors)
    want, last = loop(*exact[:5], documents, exact[5] if started else None)
    got, state = kernels.delta_rule(
        *trained[:5], documents=documents, initial_state=trained[5] if started else None
    )
    assert (got.dtype, state.dtype) == (torch.bfloat16, torch.float32)
    g = torch.Generator(device=CUDA).manual_seed(3)
    for result, states, leaves in ((want, last, exact), (got, state, trained)):
        g.manual_seed(3)
        given = torch.randn(want.shape, generator=g, device=CUDA).bfloat16()
        ended = torch.randn(last.shape, generator=g, device=CUDA)
        torch.autograd.backward(
            (result, states), (given.to(result.dtype), ended.to(states.dtype)), inputs=leaves
        )
    found = {"y": error(got, want), "end": error(state, last)}
    for name, ours, theirs in zip(NAMES, trained, exact, strict=False):
        found[f"d{name}"] = error(ours.grad, theirs.grad)
    label = f"packed {packed:d} started {started:d} slow {slow:d}"
    print(f"\n{label} " + " ".join(f"{k} {v:.1e}" for k, v in found.items()))
    assert max(found["y"], found["end"]) < 1e-2
    assert max(found.values()) < 2e-2


@torch.no_grad()
@pytest.mark.parametrize("columns", [8, 16, 32])
def test_steps_are_the_loop(kernels, columns):
    tensors = problem(slow=True)
    want, last = loop(*(t[:, :40] for t in tensors[:5]), None, tensors[5])
    q, k, v, decay, beta, state = (t.detach() for t in as_trained(tensors))
    rows = []
    for t in range(40):
        parts = (q[:, t], k[:, t], v[:, t], state, decay[:, t], beta[:, t])
        rows.append(kernels.delta_step(*parts, columns=columns))
    print(f"\n{columns} columns: y {error(torch.stack(rows, 1), want):.1e}")
    assert error(torch.stack(rows, 1), want) < 1e-2
    assert error(state, last) < 1e-5


def test_the_plain_rule_in_a_cuda_graph():
    """FP32, which fla's kernels do not take, does not wait for the device either."""
    tensors = [t[:1, :150].float().requires_grad_() for t in problem(slow=True)[:5]]

    def step():
        y, state = delta.delta_rule(*tensors)
        return y, state, *torch.autograd.grad(y.square().sum() + state.sum(), tensors)

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        tensors[2].mul_(3)  # other values
    graph.replay()
    for got, want in zip(captured, step(), strict=True):
        assert error(got, want) < 1e-5


def test_pointwise_kernels_are_the_plain_ones():
    """Compiled l2 norm, gates and gated norm of parts of projections, with their gradients."""
    g = torch.Generator(device=CUDA).manual_seed(0)
    rand = lambda *s: torch.randn(*s, generator=g, device=CUDA)  # noqa: E731
    weight, a_log, dt_bias = rand(VALUES).abs(), rand(HEADS), rand(HEADS)
    packed = rand(2, 90, 3 * HEADS * VALUES).bfloat16()
    ba = rand(2, 90, 2 * HEADS).bfloat16()

    def parts(packed, ba):
        y, z, pair = (t.unflatten(-1, (HEADS, VALUES)) for t in packed.chunk(3, -1))
        normed = delta.l2_norm(pair.unflatten(2, (2, HEADS // 2)))
        return normed, *delta.gates(ba, a_log, dt_bias, 2.0), gated_rms_norm(y, weight, 1e-6, z)

    ends = []
    for given in ((packed, ba), (packed.double().cpu(), ba.double().cpu())):
        leaves = [t.clone().requires_grad_() for t in given]
        if not given[0].is_cuda:
            a_log, dt_bias, weight = (t.cpu() for t in (a_log, dt_bias, weight))
        found = parts(*leaves)
        signs = [torch.linspace(-1, 1, t.numel()).view(t.shape).to(t) for t in found]
        ends.append([*found, *torch.autograd.grad(found, leaves, signs)])
    for got, want in zip(*ends, strict=True):
        assert error(got.cpu(), want) < 1e-2
    assert ends[0][0].dtype == torch.bfloat16
    assert ends[0][1].dtype == torch.float32


def architecture():
    d = DeltaNet(hidden=256, key_groups=GROUPS, group_heads=2, key_dim=KEYS, value_dim=VALUES)
    return Architecture(
        vocab_size=512, hidden=256, blocks=(d, FeedForward(hidden=256, intermediate=512), d)
    )


@torch.no_grad()
def test_a_decoder_gives_what_the_whole_text_does(kernels):
    """Its steps in a CUDA graph, its kernels against the plain ones."""
    made = init_model(architecture(), 0, device="cuda").to(torch.bfloat16)
    plain = HybridLM(made.architecture, device="cuda", kernels=choose(CUDA, "reference"))
    plain.load_state_dict({k: v.float() for k, v in made.state_dict().items()})
    tokens = torch.randint(0, 512, (2, 200), generator=torch.Generator().manual_seed(1)).cuda()
    want = plain(tokens)
    cache = made.new_cache(2, 200)
    decoder = Decoder(made, cache, 2)
    logits = [prefill(made, cache, tokens[:, :150], 1 << 14)]
    decoder.start([150, 150])
    logits += [decoder.step(tokens[:, i]).clone() for i in range(150, 199)]
    got = torch.stack(logits, 1)
    print(f"\ndecoder: logits {error(got, want[:, 149:199]):.1e}")
    assert error(got, want[:, 149:199]) < 3e-2
