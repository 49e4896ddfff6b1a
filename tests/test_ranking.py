"""Ranks of evaluated candidates by hand: accuracy and agreement, ties, KL."""

from types import SimpleNamespace

import pytest
import torch
from conftest import shaken, tiny
from helpers import Watched

from minipuzzle import embedded
from minipuzzle.arch import Selection
from minipuzzle.data import Tokenizer, load_blocks
from minipuzzle.errors import UserError
from minipuzzle.nas.rank import TOGETHER, Evaluated, Quality, evaluate, optimum, reranked, shortlist
from minipuzzle.ranks import alone
from minipuzzle.rundir import RunDir
from minipuzzle.runs.evaluations import Evaluations
from minipuzzle.runs.parent import MaskedParent


def ranked(ranking, *values):
    made = [Evaluated(candidate=i, quality=Quality(*v)) for i, v in enumerate(values)]
    return reranked(made, ranking)


def order(ranking, *values):
    return [r.candidate for r in ranked(ranking, *values)]


def test_both_ranks_count():
    # accuracy ranks 1, 2, 3; agreement ranks 3, 1, 2: sums 4, 3, 5
    assert order("agreement", (0.5, 0.1, 1, 0), (0.4, 0.9, 1, 0), (0.3, 0.8, 1, 0)) == [1, 0, 2]


def test_equal_values_share_their_mean_rank_and_the_loss_decides_a_tie():
    # accuracy ranks 2, 2, 2, 4; agreement 2, 3, 4, 1: sums 4, 5, 6, 5, and the lower loss goes
    # first
    rows = ((0.5, 0.3, 2.0, 0), (0.5, 0.2, 1, 0), (0.5, 0.1, 1, 0), (0.4, 0.4, 1.5, 0))
    assert order("agreement", *rows) == [0, 1, 3, 2]
    assert order("agreement", rows[0], (0.5, 0.2, 1.6, 0), *rows[2:]) == [0, 3, 1, 2]
    # two share the first place (1.5 each), not the better of the two places
    assert order(
        "agreement", (0.9, 0.1, 1, 0), (0.9, 0.3, 2, 0), (0.1, 0.2, 0, 0), (0.0, 0.4, 3, 0)
    ) == [1, 3, 0, 2]


def test_by_kl_the_least_is_best_and_nothing_else_counts():
    assert order("kl", (0.9, 0.9, 0, 2.0), (0, 0, 9, 1.0), (0.5, 0.5, 1, 3.0)) == [1, 0, 2]
    assert [r.rank for r in ranked("kl", (0, 0, 0, 2.0), (0, 0, 0, 1.0))] == [1, 2]


class Named:
    def __init__(self, name, origin="grid", damage=0.0, kept=(0,), hidden=None):
        self.name, self.origin, self.damage = name, origin, damage
        self.blocks, self.hidden = tuple(kept), hidden
        self.selection, self.path = f"what {name} keeps", (name,)


def made(*candidates):
    return [
        Evaluated(candidate=c, quality=Quality(0, 0, 0, i), rank=i + 1)
        for i, c in enumerate(candidates)
    ]


def test_the_solvers_own_optimum_goes_second_by_kl():
    rows = made(
        Named("a"),
        Named("b", "local search", -9),
        Named("s1", "solver", 3.0),
        Named("s2", "solver", 2.0),
    )
    assert optimum(rows).candidate.name == "s2"
    assert optimum(made(Named("a"), Named("b"))).candidate.name == "a"
    assert [r.candidate.name for r in shortlist(rows, 3, "kl")] == ["a", "s2", "b"]
    assert [r.candidate.name for r in shortlist(rows, 3, "agreement")] == ["a", "b", "s1"]
    assert shortlist([], 3, "kl") == []


def test_each_candidate_is_measured_once_and_told(tmp_path):
    """What a search that was killed had measured is not measured again, and all is on disk."""
    job = SimpleNamespace(run=RunDir(tmp_path), device=SimpleNamespace(type="cpu"))
    measured, told = [], []

    def measure(selections):
        measured.append(selections)
        return [Quality(0.5, 0.5, 1.0, 0.1)] * len(selections)

    candidates = [Named("c"), Named("b"), Named("a")]
    Evaluations(job, "key", lambda selections: [Quality(0.9, 0.9, 0.5, 0.0)])([("b", None)])
    evaluations = Evaluations(job, "key", measure)
    rows = evaluate(candidates, evaluations, "agreement", Watched(told.append))
    # together, those beside each other that begin alike
    assert measured == [[candidates[2].selection, candidates[0].selection]]
    assert told == [3]
    assert [r.candidate.name for r in rows] == ["b", "c", "a"]
    assert rows[0].quality == Quality(0.9, 0.9, 0.5, 0.0)
    assert Evaluations(job, "key", measure).found.keys() == {"a", "b", "c"}
    assert evaluate(candidates, evaluations, "agreement") == rows
    assert len(measured) == 1
    evaluations.forget()
    assert not evaluations.file.parent.exists()
    bad = Quality(0.5, 0.5, float("nan"), 0.1)
    with pytest.raises(UserError):
        Evaluations(job, "key", lambda selections: [bad])([("d", None)])
    assert not evaluations.file.exists()


def test_many_candidates_are_measured_some_at_a_time():
    candidates, groups = [Named(f"c{i:02}") for i in reversed(range(40))], []

    def measure(named):
        groups.append([name for name, _ in named])
        return [Quality(0.5, 0.5, 1.0, float(name[1:])) for name, _ in named]

    told = []
    rows = evaluate(candidates, measure, "kl", Watched(told.append))
    assert told == [TOGETHER, TOGETHER, 40 - 2 * TOGETHER]
    assert [name for group in groups for name in group] == [f"c{i:02}" for i in range(40)]
    assert [(r.candidate.name, r.quality.kl) for r in rows] == [
        (f"c{i:02}", float(i)) for i in range(40)
    ]


def test_by_the_worst_domain_a_candidate_that_loses_one_goes_back():
    """The first is best in prose and on the whole, but last in code."""
    texts = {
        "prose": [(0.9, 0.9, 1.0, 0.1), (0.8, 0.8, 1.1, 0.2), (0.7, 0.7, 1.2, 0.5)],
        "code": [(0.1, 0.1, 5.0, 0.6), (0.2, 0.2, 4.0, 0.4), (0.3, 0.3, 3.0, 0.3)],
    }
    whole = [(0.9, 0.9, 1.2, 0.15), (0.8, 0.8, 1.4, 0.2), (0.7, 0.7, 1.5, 0.4)]
    made = [
        Evaluated(
            candidate=i,
            quality=Quality(*whole[i], {name: Quality(*rows[i]) for name, rows in texts.items()}),
        )
        for i in range(3)
    ]
    for ranking, worst in (("agreement", [1, 0, 2]), ("kl", [1, 2, 0])):
        mean = [r.candidate for r in reranked(made, ranking)]
        assert mean == [0, 1, 2]
        # ranks 1, 2, 3 in prose and 3, 2, 1 in code: only the second is nowhere last
        assert [r.candidate for r in reranked(made, ranking, "worst")] == worst


def test_a_search_by_the_worst_domain_writes_and_keeps_each(tmp_path):
    """What is measured of a domain is what is measured of it alone, and it goes on from disk."""
    job = SimpleNamespace(run=RunDir(tmp_path), device=SimpleNamespace(type="cpu"))
    quality = Quality(0.5, 0.5, 1.0, 0.1, {"a": Quality(0.25, 0.5, 2.0, 0.2)})
    first = Evaluations(job, "key", lambda selections: [quality])([("a", None)])
    again = Evaluations(job, "key", None)([("a", None)])
    assert again == first == [quality]


def test_domains_of_a_masked_parent_are_measured_each(tmp_path):
    tokens = Tokenizer.load(embedded.teacher_path())
    blocks = load_blocks(embedded.text_path("validation"), tokens, block_length=64, by_file=True)
    blocks = blocks.take(12, seed=0)
    model = shaken(tiny("M-"))
    kept = Selection(blocks=({}, None))
    group = alone(torch.device("cpu"))
    job = SimpleNamespace(frozen_parent=lambda group: model)
    found = MaskedParent(job, blocks, group)([kept])[0]
    assert list(found.domains) == [d.name for d in blocks.domains]
    for name, part in blocks.by_domain():
        alone_in_it = MaskedParent(job, part, group)([kept])[0]
        assert alone_in_it.domains == {}
        assert found.domains[name][:4] == pytest.approx(alone_in_it[:4], rel=1e-6)
    assert found.kl == pytest.approx(
        sum(found.domains[d.name].kl * d.blocks for d in blocks.domains) / len(blocks), rel=1e-6
    )
