"""Printed tables hold each number whole in the 132 characters of a file or a pipe."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from minipuzzle.report.tables import candidates_table

SHAPE = {"attention": 10, "mlp": 54, "mamba": 54, "intermediate": "8192-32768", "heads": "128-256"}
ROW = {
    "pattern": "M-*",
    "strip": "M-*",
    "parameters": 46_791_554_816,
    "bytes": 31 * 2**30,
    "damage": 0.4343,
    "next_token_accuracy": 1.0,
    "agreement": 1.0,
    "loss": 3.2291,
    "kl": 0.2977,
}


@pytest.mark.parametrize("hidden", [[8192], [6144, 8192]])
def test_no_number_of_a_candidate_is_cut(hidden):
    shape = {**SHAPE, "kv_heads": 8, "hidden": 6144}
    rows = [
        SimpleNamespace(**ROW, active=None, name=f"c{i:03}", rank=i, shape=dict(shape))
        for i in range(398, 401)
    ]
    bounds = {key: [1, 2] for key in SHAPE} | {"hidden": hidden}
    search = SimpleNamespace(
        candidates=rows,
        top=["c398"],
        bounds=bounds,
        sizes=lambda name: bounds.get(name, ()),
        parent=SimpleNamespace(pattern="M-*", parameters=56_324_350_464, active=None),
        points=5400,
        feasible=356,
        budget=SimpleNamespace(text=["31.7GiB"]),
    )
    out = io.StringIO()
    Console(file=out, width=132).print(candidates_table(search))
    printed = out.getvalue()
    assert "…" not in printed
    for number in ("8192-32768", "128-256", "46.79 B", "31.00 GiB", "0.434", "3.2291"):
        assert printed.count(number) >= 3, number
    assert ("6144" in printed) == (len(hidden) > 1)
    assert "KV" not in printed  # no candidate has other KV heads
    rows[0].shape["kv_heads"] = 4
    Console(file=out, width=132).print(candidates_table(search))
    assert "KV" in out.getvalue()


def test_a_mixture_of_experts_with_all_its_axes_fits_too():
    shape = {"attention": 6, "mamba": 23, "moe": 23, "experts": 104, "expert_width": "1280-1856"}
    shape |= {"shared_width": 3072, "top_k": "4-6", "heads": 64, "head_dim": 48, "hidden": 2304}
    rows = [
        SimpleNamespace(**ROW, active=2_999_647_808, name=f"c{i:03}", rank=i, shape=shape)
        for i in range(398, 401)
    ]
    bounds = {key: [1, 2] for key in shape}
    search = SimpleNamespace(
        candidates=rows,
        top=["c398"],
        bounds=bounds,
        sizes=lambda name: bounds.get(name, ()),
        parent=SimpleNamespace(pattern="ME*", parameters=31_577_937_344, active=3_580_073_408),
        points=6480,
        feasible=3171,
        budget=SimpleNamespace(text=["active=3.0B"]),
    )
    out = io.StringIO()
    Console(file=out, width=132).print(candidates_table(search))
    printed = out.getvalue()
    assert "…" not in printed
    for number in ("1280-1856", "4-6", "3.00 B", "46.79 B", "3.2291"):
        assert printed.count(number) >= 3, number
    assert "31.58 B, 3.58 B active" in printed
