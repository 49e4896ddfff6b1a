"""Estimators that are not there or need more than a stream, and kinds that do not declare what is
read of them.
"""

from dataclasses import dataclass
from pydoc import locate
from typing import ClassVar

import pytest
import torch

from minipuzzle.errors import UserError
from minipuzzle.importance import Collector, check_streamed, streamed
from minipuzzle.importance.estimators import find
from minipuzzle.importance.estimators.base import WholeModel
from minipuzzle.kinds import KINDS, Block, FeedForward, Width
from minipuzzle.registry import ESTIMATORS
from minipuzzle.settings import ScoreSettings

STREAMED = streamed()
WHOLE = tuple(name for name in ESTIMATORS.names() if name not in STREAMED)


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
