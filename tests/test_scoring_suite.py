"""What must hold for the scores of every form of every family: streamed block by block they are
those of the whole model, of its masks, of the model that is cut, and of transformers' model. A new
family is tested by being in FORMS.
"""

from functools import partial
from itertools import groupby
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from family_models import FORMS, every_form, theirs_of
from test_estimators import expected, minitron

from minipuzzle.arch import Selection
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.data import pack
from minipuzzle.families import names_of
from minipuzzle.importance import score, taylor_scores
from minipuzzle.model import load_model
from minipuzzle.model.base import Context, make_block
from minipuzzle.settings import ScoreSettings

VOCAB, LENGTH, SAMPLES, SHARED = 120, 20, 5, 3
CPU = torch.device("cpu")


def text():
    random = np.random.default_rng(3)
    # neither the first nor the last token, which may be padding
    tokens = random.integers(1, VOCAB - 1, SAMPLES * LENGTH).astype("uint32")
    return pack(
        [tokens], block_length=LENGTH, vocab_size=VOCAB, seed=0, fingerprint="t", text_bytes=1
    )


def tokens_of(count):
    """The samples that a scoring takes, [count, length]."""
    return torch.from_numpy(text().take(SAMPLES, seed=0).tokens[:count].astype(np.int64))


def scored(checkpoint, folder, **options):
    settings = {
        "samples": SAMPLES,
        "block_samples": SHARED,
        "batch": 2,
        "metric": "logit-mse",
        **options,
    }
    return score(checkpoint, text(), ScoreSettings(**settings), device=CPU, partial=folder / "part")


@pytest.fixture(scope="module", params=every_form(), ids=lambda param: ": ".join(param))
def case(request, tmp_path_factory):
    """transformers' model of a form, ours of the same file, and the scores of it."""
    family, form = request.param
    folder = tmp_path_factory.mktemp("parent")
    theirs = theirs_of(family, FORMS[family][form])
    theirs.save_pretrained(folder)
    checkpoint = Checkpoint.open(folder)
    return SimpleNamespace(
        theirs=theirs.requires_grad_(False),
        checkpoint=checkpoint,
        architecture=checkpoint.architecture,
        model=load_model(checkpoint).eval(),
        scores=scored(checkpoint, folder),
        folder=folder,
    )


def error(full, changed):
    """The metric "logit-mse" of logits [b, s, vocab]."""
    full, changed = full.double(), changed.double()
    return ((full - changed).square().sum() / full.square().sum()).item()


def near(value):
    return pytest.approx(value, rel=1e-3, abs=1e-12)  # an expert that no token chooses does nothing


def their_name(case, index, name):
    """What transformers' model calls a parameter of ours, or its first piece; None where it has
    none.
    """
    known = dict(case.theirs.named_parameters())
    accepted = case.checkpoint.family.names(case.architecture).get(f"blocks.{index}.{name}", ())
    return next((n for name in accepted for n in names_of(name) if n in known), None)


def their_modules(case, index, name):
    """transformers' module that holds a projection of ours."""
    found = their_name(case, index, f"{name}.weight")
    return case.theirs.get_submodule(found.removesuffix(".weight"))


@torch.no_grad()
def their_logits(case, *removed):
    """transformers' logits [b, s, vocab] where blocks add nothing: what writes for them is 0."""
    known, names = dict(case.theirs.named_parameters()), []
    for i in removed:
        for name in case.architecture.blocks[i].outputs:
            names += [their_name(case, i, n) for n in (name, name.replace(".weight", ".bias"))]
    before = {name: known[name].clone() for name in names if name is not None}
    assert len(before) >= len(removed)
    for name in before:
        known[name].zero_()
    logits = case.theirs(tokens_of(SHARED), use_cache=False).logits
    for name, value in before.items():
        known[name].copy_(value)
    return logits


@torch.no_grad()
def masked_logits(case, blocks):
    """Logits [b, s, vocab] of our model under a mask that keeps what ``blocks`` says."""
    with case.model.masked(Selection(blocks=tuple(blocks))):
        return case.model(tokens_of(SHARED))


def test_a_blocks_score_is_what_removing_it_does(case):
    whole, units = list(range(len(case.architecture.blocks))), case.architecture.layer_groups
    removed = [(i,) for i in whole] + [unit for unit in units if len(unit) > 1]
    layers = [] if case.scores.layers is None else case.scores.layers.tolist()
    found = [*case.scores.blocks.tolist(), *layers]
    full = their_logits(case)
    masked = [[None if i in gone else {} for i in whole] for gone in removed]
    assert error(full, masked_logits(case, [{} for _ in whole])) < 1e-10
    assert found == [near(error(full, their_logits(case, *gone))) for gone in removed]
    assert found == [near(error(full, masked_logits(case, blocks))) for blocks in masked]
    assert min(found) > 0


@torch.no_grad()
def cut_block(case, index, axes):
    """The block that ``axes`` of a selection cut out, made of sliced weights."""
    own = {i: {} for i in range(len(case.architecture.blocks))} | {index: axes}
    selection = Selection(blocks=tuple(own.values()), hidden=axes.get("hidden"))
    student = selection.student(case.architecture)
    small = make_block(student.blocks[index], student.norm_eps, case.model.kernels).eval()
    prefix, values = f"blocks.{index}.", case.model.blocks[index].state_dict()
    for tensor in case.architecture.tensors():
        if tensor.block != index:
            continue
        name = tensor.name.removeprefix(prefix)
        for dim, places in enumerate(tensor.weight.indices(tensor.sizes, selection.axes(index))):
            if places is not None and places.ndim == 1:
                values[name] = values[name].index_select(dim, torch.from_numpy(places))
            elif places is not None:  # each index of the first dimension keeps its own
                rows = zip(values[name], places, strict=True)
                parts = [row.index_select(dim - 1, torch.from_numpy(own)) for row, own in rows]
                values[name] = torch.stack(parts)
    small.load_state_dict(values)
    return small


@torch.no_grad()
def logits_after(case, stream, first):
    """Logits [b, s, vocab] of our model as it is now, from the input of block ``first`` on."""
    model = case.model
    h = model.final_norm(model.run_blocks(stream, None, first, len(model.blocks)))
    return h @ model.head_weight.t()


@torch.no_grad()
def test_a_curve_is_what_masking_and_cutting_the_block_do(case):
    model, count = case.model, len(case.architecture.blocks)
    full = masked_logits(case, [{} for _ in range(count)])
    assert sorted(case.scores.curves) == list(range(count))
    stream = model.embed(tokens_of(SHARED))  # no block before the one that is cut differs
    for i, block in enumerate(case.architecture.blocks):
        widths, module = {width.axis: width for width in block.own_widths}, model.blocks[i]
        for axis, (sizes, found) in case.scores.curves[i].items():
            for size, value in zip(sizes.tolist(), found, strict=True):
                width = widths[axis]
                axes = width.keep(block, case.scores.widths[width.score][i], size)
                assert block.kept_sizes(axes)[axis] == size < block.sizes[axis]
                with module.masked(axes):
                    assert value == near(error(full, logits_after(case, stream, i)))
                model.blocks[i] = cut_block(case, i, axes)
                assert value == near(error(full, logits_after(case, stream, i)))
                model.blocks[i] = module
        stream = model.run_blocks(stream, None, i, i + 1)


@torch.no_grad()
def test_a_block_alone_is_masked_as_it_is_cut(case):
    """Half of the hidden size and of each width, of any stream: hidden channels that are cut count
    for nothing, whatever they hold.
    """
    random = np.random.default_rng(0)
    hidden = case.architecture.hidden
    kept = tuple(sorted(random.permutation(hidden)[: hidden // 2].tolist()))
    blocks = []
    for block in case.architecture.blocks:
        chosen = {}
        for width in block.own_widths:
            values = random.random(width.score_shape(block))
            size = max(1, block.sizes[width.axis] // 2)
            chosen |= width.keep(block, values, size, chosen)
        blocks.append(chosen)
    selection = Selection(blocks=tuple(blocks), hidden=kept)
    stream = torch.randn(2, LENGTH, hidden, generator=torch.Generator().manual_seed(4))
    for i, module in enumerate(case.model.blocks):
        with module.masked(selection.axes(i)):
            masked = module.branch(stream, Context())[..., kept]
        small = cut_block(case, i, {**blocks[i], "hidden": kept})
        cut = small.branch(stream[..., kept], Context())
        assert (masked - cut).abs().max() <= 1e-5 * cut.abs().max()


@torch.no_grad()
def their_activations(case):
    """What goes through transformers' projections of each block, float64: "first" leaves the first,
    "last" enters the one that writes into the stream, whose weight is "weight"; "input" [b, s,
    hidden] enters the first. Of a mixture of experts the router is the first, and none the last.
    """
    got, handles = [{} for _ in case.architecture.blocks], []
    for i, (block, of) in enumerate(zip(case.architecture.blocks, got, strict=True)):
        if block.stacks:
            hook = partial(lambda m, i, o, of: of.update(input=i[0].double().numpy()), of=of)
            handles.append(their_modules(case, i, "router").register_forward_hook(hook))
            continue
        first, last = (
            their_modules(case, i, n) for n in (next(iter(block.projections)), block.output)
        )
        of["weight"] = last.weight.double().numpy()
        hook = partial(
            lambda m, i, o, of: of.update(input=i[0].double().numpy(), first=o.double().numpy()),
            of=of,
        )
        handles.append(first.register_forward_hook(hook))
        hook = partial(lambda m, i, of: of.update(last=i[0].double().numpy()), of=of)
        handles.append(last.register_forward_pre_hook(hook))
    case.theirs(tokens_of(SAMPLES), use_cache=False)
    for handle in handles:
        handle.remove()
    return got


def test_widths_are_their_formulas_of_transformers_activations(case):
    few = {"block_samples": 1, "curves": False}
    other = scored(case.checkpoint, case.folder, estimator="minitron", **few)
    hidden = 0
    activations = their_activations(case)
    for i, (block, got) in enumerate(zip(case.architecture.blocks, activations, strict=True)):
        hidden = hidden + minitron(got["input"].reshape(SAMPLES, LENGTH, -1))
        if block.stacks:  # tests/test_expert_scores.py
            continue
        for scores, estimator in ((case.scores, block.estimator), (other, "minitron")):
            want = expected(estimator, block, got)
            assert np.allclose(scores.widths[block.widths[0].score][i], want, rtol=1e-3)
    assert np.allclose(case.scores.hidden, hidden, rtol=1e-4)
    assert (case.scores.hidden == other.hidden).all()


def test_taylor_is_the_derivative_of_gates(case):
    """Gates of 1 on what each block and the embedding add, each hidden channel of it, and what each
    output projection reads; their derivatives from autograd, a sample at a time.
    """
    model = load_model(case.checkpoint).double().eval()
    found = taylor_scores(model, text(), samples=SAMPLES, batch=2)
    blocks = torch.ones(len(model.blocks), dtype=torch.float64, requires_grad=True)
    hidden = torch.ones(case.architecture.hidden, dtype=torch.float64, requires_grad=True)
    parts = []
    model.embeddings.register_forward_hook(lambda m, i, output: output * hidden)
    for i, module in enumerate(model.blocks):
        name = next((n for n, read in module.block.reads.items() if read.point == "channels"), "")
        gate = torch.ones(module.block.score_shapes.get(name, ()), dtype=torch.float64)
        parts.append((name, gate.requires_grad_()))
        usual = module.branch
        module.branch = partial(
            lambda h, context, i, usual: usual(h, context) * blocks[i] * hidden, i=i, usual=usual
        )
        if not name:  # tests/test_expert_scores.py
            continue
        module.output.register_forward_pre_hook(
            lambda m, inputs, gate=gate: (
                (inputs[0].unflatten(-1, (gate.numel(), -1)) * gate.reshape(-1, 1)).flatten(-2),
            )
        )
    gates = [blocks, hidden, *(gate for name, gate in parts if name)]
    squares = [torch.zeros_like(gate) for gate in gates]
    for sample in tokens_of(SAMPLES).split(1):
        logits = model(sample)[:, :-1].double()
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), sample[:, 1:].flatten())
        for total, part in zip(squares, torch.autograd.grad(loss, gates), strict=True):
            total += part.square()
    want = [(total / SAMPLES).sqrt().numpy() for total in squares]
    assert np.allclose(found.blocks, want[0], rtol=1e-3)
    assert np.allclose(found.hidden, want[1], rtol=1e-3)
    named = [(i, name) for i, (name, _) in enumerate(parts) if name]
    for (i, name), value in zip(named, want[2:], strict=True):
        assert np.allclose(found.widths[name][i], value, rtol=1e-3)


def test_the_families_are_all_here():
    assert [family for family, _ in groupby(every_form(), key=lambda pair: pair[0])] == list(FORMS)
