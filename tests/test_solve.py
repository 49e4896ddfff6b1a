"""The solver against brute force, and the local search's invariants."""

import itertools

import numpy as np
import pytest

from minipuzzle.errors import UserError
from minipuzzle.nas.program import Instance
from minipuzzle.nas.solve import diverse, solve, sweep


def random_instance(seed):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 5, rng.integers(2, 6))
    budgets = int(rng.integers(1, 4))
    costs = tuple(rng.integers(0, 10, (k, budgets)) * 1e9 for k in sizes)
    coupled = bool(rng.integers(0, 2))
    columns = [int(c) for c in rng.integers(0, 3, len(sizes))]  # no, one or two couplings a block
    return Instance(
        damage=tuple(rng.integers(0, 6, k) * 0.37 for k in sizes),
        costs=costs,
        limits=np.sum([c.mean(axis=0) for c in costs], axis=0) * rng.uniform(0.3, 1.1),
        names=("a", "b", "c")[:budgets],
        tags=tuple(rng.integers(-1, 2, shape) for shape in zip(sizes, columns, strict=True))
        if coupled
        else (),
        classes=tuple(tuple(rng.integers(0, 3, c).tolist()) for c in columns) if coupled else (),
    )


def legal(instance, choices):
    cost = sum(c[j] for c, j in zip(instance.costs, choices, strict=True))
    seen = {}
    coupled = zip(instance.classes, instance.tags, choices, strict=True) if instance.tags else ()
    return (cost <= instance.limits).all() and all(
        tag < 0 or seen.setdefault(c, tag) == tag
        for classes, tags, j in coupled
        for c, tag in zip(classes, tags[j], strict=True)
    )


def brute_force(instance):
    everything = itertools.product(*(range(len(d)) for d in instance.damage))
    return sorted(
        sum(d[j] for d, j in zip(instance.damage, c, strict=True))
        for c in everything
        if legal(instance, c)
    )


@pytest.mark.parametrize("part", range(5))
def test_equals_brute_force_on_500_instances(part):
    infeasible = 0
    for seed in range(100 * part, 100 * part + 100):
        instance = random_instance(seed)
        best = brute_force(instance)
        if not best:
            infeasible += 1
            with pytest.raises(UserError, match="No choice of blocks meets the budget"):
                solve(instance)
            continue
        found = solve(instance)
        assert found.damage == pytest.approx(best[0], abs=1e-9)
        assert found.optimal
        assert legal(instance, found.choices)
    assert infeasible


def test_the_k_best_and_their_overlap():
    for seed in range(40):
        instance = random_instance(seed)
        best = brute_force(instance)
        if not best:
            continue
        found = diverse(instance, 4)
        assert [s.damage for s in found] == pytest.approx(best[: len(found)], abs=1e-9)
        assert len(found) == min(4, len(best))
        alike = int(np.ceil(0.5 * len(instance.damage)))
        for a, b in itertools.combinations(diverse(instance, 3, overlap=0.5), 2):
            assert sum(x == y for x, y in zip(a.choices, b.choices, strict=True)) <= alike


def test_sweep_equals_single_solves_and_is_monotone():
    rng = np.random.default_rng(0)
    damage = tuple(np.sort(rng.random(8)) for _ in range(20))
    costs = tuple(
        np.sort(rng.integers(1, 10**9, (8, 2)), axis=0)[::-1].astype(float) for _ in range(20)
    )
    whole = np.sum([c[0] for c in costs], axis=0)
    limits = [whole * share for share in (0.5, 0.7, 0.9, 1.0)]
    instance = Instance(damage=damage, costs=costs, limits=whole, names=("parameters", "memory"))
    found = [s.damage for s in sweep(instance, limits, gap=0.0)]
    from dataclasses import replace

    assert found == pytest.approx(
        [solve(replace(instance, limits=limit)).damage for limit in limits]
    )
    assert found == sorted(found, reverse=True)


def test_limits_hold_to_the_last_parameter():
    """Costs of 5e8 with HiGHS' tolerance of 1e-7 would let thousands of parameters slip through."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        costs = tuple(
            np.array([[438_432_512.0], [438_432_512.0 - int(rng.integers(1, 50))], [0.0]])
            for _ in range(12)
        )
        damage = tuple(np.array([0.0, 1e-6 * rng.random(), 1.0]) for _ in range(12))
        limit = np.array([12 * 438_432_512.0 - 101])
        found = solve(Instance(damage=damage, costs=costs, limits=limit, names=("parameters",)))
        assert found.costs[0] <= limit[0]


def test_infeasible_says_which_budget_binds():
    instance = Instance(
        damage=(np.array([0.0]),),
        costs=(np.array([[5.0, 1.0]]),),
        limits=np.array([4.0, 4.0]),
        names=("parameters", "memory"),
    )
    with pytest.raises(UserError) as error:
        solve(instance)
    assert "Raise parameters," in error.value.next
    assert "parameters 5" in str(error.value.allowed)


def test_nothing_of_the_solver_reaches_standard_output(capfd):
    for seed in range(20):
        if brute_force(random_instance(seed)):
            solve(random_instance(seed))
    assert capfd.readouterr().out == ""
