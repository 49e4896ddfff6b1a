"""What must hold for every estimator in minipuzzle/importance/estimators, on every block of every
form. A new file there is tested by being there.
"""

from contextlib import contextmanager
from copy import deepcopy
from functools import lru_cache
from pydoc import locate

import numpy as np
import pytest
import torch
from conftest import save, shaken
from family_models import FORMS, every_form

from minipuzzle import families
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.data import pack
from minipuzzle.importance import Collector, score, streamed
from minipuzzle.importance.collect import footprint_hooks
from minipuzzle.importance.estimators import find
from minipuzzle.kinds import KINDS
from minipuzzle.model import HybridLM
from minipuzzle.registry import ESTIMATORS
from minipuzzle.settings import ScoreSettings

VOCAB, LENGTH, SAMPLES = 120, 20, 5
STREAMED = streamed()
WHOLE = tuple(name for name in ESTIMATORS.names() if name not in STREAMED)


@lru_cache
def model_of(family, form):
    fields = {"model_type": family, **FORMS[family][form]}
    return shaken(families.find(family).architecture(fields))


def forms_of_new_blocks():
    """Forms until every block was in one: estimators see blocks, and position embeddings not."""
    seen = set()
    for pair in every_form():
        blocks = {block.form() for block in model_of(*pair).architecture.blocks}
        if not blocks <= seen:
            yield pair
        seen |= blocks


FORMS_OF_ALL = pytest.mark.parametrize(("family", "form"), list(forms_of_new_blocks()))


@lru_cache
def text():
    random = np.random.default_rng(3)
    tokens = random.integers(0, VOCAB, SAMPLES * LENGTH).astype("uint32")
    return pack(
        [tokens], block_length=LENGTH, vocab_size=VOCAB, seed=0, fingerprint="t", text_bytes=1
    )


def text_of(start, stop):
    return torch.from_numpy(text().tokens[start:stop].astype(np.int64))


def batches(size):
    return text_of(0, SAMPLES).split(size)


def collectors(model, name, seed=0):
    """A new collector of each block."""
    pairs = zip(model.architecture.blocks, model.blocks, strict=True)
    return [
        Collector(block, module, name, seed=seed + i) for i, (block, module) in enumerate(pairs)
    ]


@torch.no_grad()
def collect(found, run):
    """``run()`` while the collectors are entered."""
    for collector in found:
        collector.__enter__()
    run()
    for collector in found:
        collector.__exit__()
        assert not collector.handles


def collected(model, name, parts, seed=0):
    """The collector of each block after the batches ``parts``."""
    found = collectors(model, name, seed)
    collect(found, lambda: [model.hidden_states(part) for part in parts])
    return found


@lru_cache
def passes(family, form):
    """{streamed estimator: collectors of each block after all samples, after the first three, after
    the others, after the others with the sums of the first}, of three forwards.
    """
    model = model_of(family, form)
    whole, first, second, resumed = (
        {name: collectors(model, name) for name in STREAMED} for _ in range(4)
    )

    def run(part, *sets):
        found = [collector for kind in sets for own in kind.values() for collector in own]
        collect(found, lambda: model.hidden_states(part))

    run(text_of(0, SAMPLES), whole)
    run(text_of(0, 3), first)
    for name in STREAMED:
        for collector, before in zip(resumed[name], first[name], strict=True):
            collector.sums.update({n: s.copy() for n, s in before.sums.items()})
    run(text_of(3, SAMPLES), second, resumed)
    return {name: (whole[name], first[name], second[name], resumed[name]) for name in STREAMED}


@lru_cache
@torch.no_grad()
def streams(family, form):
    """The input of each block, batch by batch."""
    model = model_of(family, form)
    found = [[model.embed(part) for part in batches(2)]]
    for i in range(len(model.blocks)):
        found.append([model.run_blocks(h, None, i, i + 1) for h in found[-1]])
    return found


def is_noise(name):
    """Whether the seed alone decides."""
    model = model_of("llama", "plain")
    one, two = (collected(model, name, (), seed)[0] for seed in (1, 2))
    return not one.sums and any((one.scores()[k] != two.scores()[k]).any() for k in one.scores())


def whole_model_scores(name, model, samples=SAMPLES):
    """What an estimator that needs the whole model says of each block: {name: array}."""
    found = locate(find(name).call)(model, text(), samples, 2)
    return [
        {name: found.widths[name][i] for name in block.score_shapes}
        for i, block in enumerate(model.architecture.blocks)
    ]


def test_the_forms_have_every_kind():
    kinds = {kind for kind, block in KINDS.items() if block.__module__.startswith("minipuzzle.")}
    seen = {b.kind for form in every_form() for b in model_of(*form).architecture.blocks}
    assert kinds == seen


@pytest.mark.parametrize("name", ESTIMATORS.names())
def test_it_says_what_it_does_and_where_it_is_from(name):
    summary = ESTIMATORS.summaries()[name]
    assert 10 < len(summary) <= 100, summary
    assert find(name).source


@FORMS_OF_ALL
@pytest.mark.parametrize("name", ESTIMATORS.names())
def test_every_index_has_a_score(name, family, form):
    model = model_of(family, form)
    if name in STREAMED:
        found = [collector.scores() for collector in passes(family, form)[name][0]]
    else:
        found = whole_model_scores(name, model)
    for block, scores in zip(model.architecture.blocks, found, strict=True):
        assert list(scores) == list(dict.fromkeys(width.score for width in block.own_widths))
        for width in block.own_widths:
            values = scores[width.score]
            assert values.shape == width.score_shape(block)
            assert values.dtype == np.float64
            assert np.isfinite(values).all()
            assert (values >= 0).all()
            # experts that no token chooses have 0; no weight tells the choices of a router apart
            different = len(np.unique(values))
            assert different > np.count_nonzero(values) // 2 > 0 or width.ordered


@FORMS_OF_ALL
@pytest.mark.parametrize("name", STREAMED)
def test_batches_add_up_and_sums_resume(name, family, form):
    for one, a, b, again in zip(*passes(family, form)[name], strict=True):
        for sums in one.sums.values():
            assert sums.dtype == np.float64
        for key in b.sums:  # as two processes do it
            b.sums[key] = a.sums[key] + b.sums[key]
        for other in (b, again):
            for key, want in one.scores().items():
                # FP32 products of other batches differ in their last digits
                noise = 1e-12 + 1e-6 * np.abs(want).max()
                assert np.allclose(other.scores()[key], want, rtol=1e-5, atol=noise)


@contextmanager
def without(model, index, width, lost):
    """Meanwhile every weight of index ``lost`` of a width of one block, and of what follows it, is
    0.
    """
    block, module = model.architecture.blocks[index], model.blocks[index]
    others = [i for i in range(block.sizes[width.axis]) if i != lost]
    kept = {width.axis: tuple(others)}
    if width.follows is not None:
        share = block.sizes[width.follows] // block.sizes[width.axis]
        kept[width.follows] = tuple(i * share + j for i in others for j in range(share))
    model.blocks[index] = deepcopy(module)
    parameters = model.blocks[index].state_dict()  # buffers too
    with torch.no_grad():
        for weight in block.weights:
            parts = weight.indices(block.sizes, kept)
            for dim, places in enumerate(parts):
                if places is not None:
                    gone = np.setdiff1d(np.arange(weight.shape(block.sizes)[dim]), places)
                    parameters[weight.name].index_fill_(dim, torch.from_numpy(gone), 0.0)
    yield
    model.blocks[index] = module


@lru_cache
def scores_without(family, form, *whole):
    """[(block, width, an index that does nothing, {estimator: scores})] of a block of each kind: of
    all streamed estimators, or of one that needs the whole model.
    """
    model, found = model_of(family, form), []
    blocks = model.architecture.blocks
    for index in {block.kind: i for i, block in enumerate(blocks)}.values():
        for width in [w for w in blocks[index].own_widths if not w.ordered]:
            lost = blocks[index].sizes[width.axis] - 1
            with without(model, index, width, lost):
                if whole:
                    scores = {name: whole_model_scores(name, model, 2)[index] for name in whole}
                else:
                    own = {n: Collector(blocks[index], model.blocks[index], n) for n in STREAMED}
                    inputs = streams(family, form)[index]
                    collect(
                        own.values(),
                        lambda i=index, given=inputs: [
                            model.run_blocks(h, None, i, i + 1) for h in given
                        ],
                    )
                    scores = {name: collector.scores() for name, collector in own.items()}
            found.append((blocks[index], width, lost, scores))
    return found


@FORMS_OF_ALL
@pytest.mark.parametrize("name", [n for n in ESTIMATORS.names() if n in WHOLE or not is_noise(n)])
def test_an_index_that_does_nothing_is_the_first_to_go(name, family, form):
    found = scores_without(family, form, *((name,) if name in WHOLE else ()))
    for block, width, lost, scores in found:
        strength = width.strength(block, scores[name][width.score])
        assert strength[lost] == strength.min(), (block.kind, width.axis)
        assert strength[lost] <= 1e-6 * np.median(strength)


@FORMS_OF_ALL
def test_their_memory_can_be_measured_before_they_run(family, form):
    """Of all at once: a forward of "meta" tensors takes longer than one of numbers."""
    model = HybridLM(model_of(family, form).architecture, device="meta")
    for block, module in zip(model.architecture.blocks, model.blocks, strict=True):
        for name in STREAMED:
            footprint_hooks(block, name)(module)
    assert model.hidden_states(torch.zeros(2, LENGTH, dtype=torch.int64, device="meta")).is_meta


@pytest.mark.parametrize("name", STREAMED)
def test_one_block_at_a_time_is_the_whole_model_at_once(name, tmp_path):
    model = model_of("nemotron_h", "plain")
    checkpoint = Checkpoint.open(save(model, tmp_path / "parent"))
    settings = ScoreSettings(
        samples=SAMPLES, block_samples=1, batch=2, estimator=name, curves=False, seed=7
    )
    found = score(
        checkpoint, text(), settings, device=torch.device("cpu"), partial=tmp_path / "partial"
    )
    for i, collector in enumerate(collected(model, name, batches(2), seed=7)):
        for key, want in collector.scores().items():
            assert np.allclose(found.widths[key][i], want, rtol=1e-5)
