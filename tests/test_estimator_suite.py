"""What must hold for every estimator in minipuzzle/importance/estimators, on every block of every
form. A new file there is tested by being there.
"""

from dataclasses import dataclass
from functools import lru_cache
from pydoc import locate
from typing import ClassVar

import numpy as np
import pytest
import torch
from conftest import save, shaken
from family_models import FORMS, every_form

from minipuzzle import families
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.data import pack
from minipuzzle.errors import UserError
from minipuzzle.importance import Collector, check_streamed, score, streamed
from minipuzzle.importance.collect import footprint_hooks
from minipuzzle.importance.estimators import find
from minipuzzle.importance.estimators.base import WholeModel
from minipuzzle.kinds import KINDS, Block, FeedForward, Width
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


def batches(size):
    return torch.from_numpy(text().tokens.astype(np.int64)).split(size)


@torch.no_grad()
def collected(model, name, parts, seed=0, saved=None):
    """The collector of each block after the batches ``parts``; ``saved`` sums to begin with."""
    found = [
        Collector(block, module, name, seed=seed + i)
        for i, (block, module) in enumerate(
            zip(model.architecture.blocks, model.blocks, strict=True)
        )
    ]
    for collector, sums in zip(found, saved or [], strict=False):
        collector.sums.update(sums)
    for collector in found:
        collector.__enter__()
    for part in parts:
        model.hidden_states(part)
    for collector in found:
        collector.__exit__()
        assert not collector.handles
    return found


def is_noise(name):
    """Whether the seed alone decides."""
    model = model_of("llama", "plain")
    one, two = (collected(model, name, (), seed)[0] for seed in (1, 2))
    return not one.sums and any((one.scores()[k] != two.scores()[k]).any() for k in one.scores())


def scores_of(name, model):
    """What an estimator says of each block: {name: array}."""
    if name in STREAMED:
        return [collector.scores() for collector in collected(model, name, batches(2))]
    found = locate(find(name).call)(model, text(), SAMPLES, 2)
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
    for block, scores in zip(model.architecture.blocks, scores_of(name, model), strict=True):
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
    model = model_of(family, form)
    whole = collected(model, name, batches(SAMPLES))
    first, second = batches(3)
    halves = collected(model, name, [first]), collected(model, name, [second])
    resumed = collected(
        model, name, [second], saved=[{n: s.copy() for n, s in c.sums.items()} for c in halves[0]]
    )
    for one, a, b, again in zip(whole, *halves, resumed, strict=True):
        for sums in one.sums.values():
            assert sums.dtype == np.float64
        for key in a.sums:  # as two processes do it
            a.sums[key] = a.sums[key] + b.sums[key]
        for other in (a, again):
            for key, want in one.scores().items():
                # FP32 products of other batches differ in their last digits
                noise = 1e-12 + 1e-6 * np.abs(want).max()
                assert np.allclose(other.scores()[key], want, rtol=1e-5, atol=noise)


def without(model, index, width, lost):
    """A copy in which every weight of index ``lost`` of a width, and of what follows it, is 0."""
    block = model.architecture.blocks[index]
    copy = HybridLM(model.architecture)
    copy.load_state_dict(model.state_dict())
    others = [i for i in range(block.sizes[width.axis]) if i != lost]
    kept = {width.axis: tuple(others)}
    if width.follows is not None:
        share = block.sizes[width.follows] // block.sizes[width.axis]
        kept[width.follows] = tuple(i * share + j for i in others for j in range(share))
    parameters = copy.blocks[index].state_dict()  # buffers too
    with torch.no_grad():
        for weight in block.weights:
            parts = weight.indices(block.sizes, kept)
            for dim, places in enumerate(parts):
                if places is not None:
                    gone = np.setdiff1d(np.arange(weight.shape(block.sizes)[dim]), places)
                    parameters[weight.name].index_fill_(dim, torch.from_numpy(gone), 0.0)
    return copy


@FORMS_OF_ALL
@pytest.mark.parametrize("name", [n for n in ESTIMATORS.names() if n in WHOLE or not is_noise(n)])
def test_an_index_that_does_nothing_is_the_first_to_go(name, family, form):
    model = model_of(family, form)
    blocks = model.architecture.blocks
    for index in {block.kind: i for i, block in enumerate(blocks)}.values():
        for width in blocks[index].own_widths:
            if width.ordered:
                continue
            lost = blocks[index].sizes[width.axis] - 1
            values = scores_of(name, without(model, index, width, lost))[index][width.score]
            strength = width.strength(blocks[index], values)
            assert strength[lost] == strength.min(), (blocks[index].kind, width.axis)
            assert strength[lost] <= 1e-6 * np.median(strength)


@FORMS_OF_ALL
@pytest.mark.parametrize("name", STREAMED)
def test_its_memory_can_be_measured_before_it_runs(name, family, form):
    model = HybridLM(model_of(family, form).architecture, device="meta")
    for block, module in zip(model.architecture.blocks, model.blocks, strict=True):
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


@pytest.mark.parametrize("name", WHOLE)
def test_what_needs_the_whole_model_is_refused_before_anything_is_read(name):
    assert isinstance(find(name), WholeModel)
    with pytest.raises(UserError, match="whole model") as caught:
        check_streamed(name)
    assert find(name).call in caught.value.next
    assert callable(locate(find(name).call))


def test_an_unknown_name_is_refused_with_the_nearest():
    for refuse in (find, check_streamed, lambda name: ScoreSettings(estimator=name)):
        with pytest.raises(UserError, match="no estimator 'mixd'") as caught:
            refuse("mixd")
        assert "'mixed'" in caught.value.next
        assert all(name in caught.value.allowed for name in ESTIMATORS.names())


def test_what_a_kind_does_not_say_is_asked_for_by_name():
    @dataclass(frozen=True, kw_only=True)
    class Silent(Block):
        kind: ClassVar[str] = "silent"

    try:
        block = Silent(hidden=4)
        members = {
            "widths": lambda: Collector(block, torch.nn.Module(), "flap"),
            "estimator": lambda: find("mixed").begin(block, torch.nn.Module(), "", 0),
            "makers": lambda: block.makers,
        }
        for member, call in members.items():
            with pytest.raises(NotImplementedError, match=f"'silent' does not declare {member}"):
                call()
    finally:
        KINDS.pop("silent")


def test_a_kind_that_never_gets_narrower_has_no_scores_and_one_of_two_arrays_says_what_each_reads():
    @dataclass(frozen=True, kw_only=True)
    class Whole(FeedForward):
        widths: ClassVar[tuple[Width, ...]] = ()

    @dataclass(frozen=True, kw_only=True)
    class Double(FeedForward):
        widths: ClassVar[tuple[Width, ...]] = (
            *FeedForward.widths,
            Width(axis="hidden", score="other", of=("hidden",), label="others"),
        )

    for name in STREAMED:
        with Collector(Whole(hidden=4, intermediate=8), torch.nn.Module(), name) as collector:
            assert collector.scores() == {}
    with pytest.raises(NotImplementedError, match="declare reads of intermediate, other"):
        Collector(Double(hidden=4, intermediate=8), torch.nn.Module(), "flap")
