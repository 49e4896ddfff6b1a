"""Budgets and counts mean what they say, to the last parameter; decimal arithmetic is the
oracle.
"""

from decimal import ROUND_FLOOR, Decimal

import pytest
from helpers import run
from hypothesis import given
from hypothesis import strategies as st

from minipuzzle.errors import UserError
from minipuzzle.memory import Workload
from minipuzzle.settings import Limits, parse_budget, parse_count, parse_work


@pytest.mark.parametrize(
    ("text", "parameters", "size"),
    [
        ("47B", 47_000_000_000, None),
        ("4.8M", 4_800_000, None),
        ("1.2e9", 1_200_000_000, None),
        ("47b", 47 * 10**9, None),
        ("83%", 830, None),
        ("29%", 290, None),
        ("40GB", None, 40 * 10**9),
        ("900MiB", None, 900 * 2**20),
        ("31.7GiB", None, 34_037_615_820),
        (" 2 kib ", None, 2048),
    ],
)
def test_what_a_budget_means(text, parameters, size):
    assert parse_budget([text]).resolve(1000) == Limits(parameters=parameters, bytes=size)


def test_budgets_combine_to_the_tightest():
    both = parse_budget(["47B", "31.7GiB", "83%", "40GB"])
    assert both.text == ("47B", "31.7GiB", "83%", "40GB")
    assert both.resolve(56_324_350_464) == Limits(parameters=46_749_210_885, bytes=34_037_615_820)
    assert both.resolve(100 * 10**9).parameters == 47 * 10**9


@given(st.integers(1, 20_000), st.integers(1, 10**12))
def test_a_share_is_exact(hundredths, parent):
    share = Decimal(hundredths) / 100
    expected = (share * parent / 100).to_integral_value(ROUND_FLOOR)
    assert parse_budget([f"{share}%"]).resolve(parent).parameters == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "B",
        "%",
        "-3B",
        "0",
        "0%",
        "0.4",
        "83%%",
        "1.5.2",
        "1,000",
        "12 apples",
        "47 GB B",
        "nan",
        "inf",
        "1e999",
        "1e99",
        "0.0001kB",
        "1e30GiB",
        "GiB",
        "47B\n47B",
        "٨٣%",
        "83%" + "x" * 9,
    ],
)
def test_a_malformed_budget_is_refused(text):
    with pytest.raises(UserError) as caught:
        parse_budget(["47B", text])
    assert caught.value.got == text
    assert "47B" in caught.value.allowed
    assert "83%" in caught.value.allowed
    assert "31.7GiB" in caught.value.allowed


def test_no_budget_is_refused():
    with pytest.raises(UserError, match="no budget"):
        parse_budget([])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1M", 10**6),
        ("128k", 128_000),
        ("65536", 65_536),
        ("8Ki", 8192),
        ("1Mi", 2**20),
        ("1.5k", 1500),
        ("1e6", 10**6),
    ],
)
def test_counts(text, value):
    assert parse_count(text) == value


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5", "0.1", "1GiB", "50%", "1e999", "x"])
def test_a_count_is_whole_and_positive(text):
    with pytest.raises(UserError):
        parse_count(text)


@pytest.mark.parametrize(
    "text", ["9" * 5000, "9" * 5000 + "%", "1." + "0" * 5000 + "x", "1.2x@b" + "9" * 5000]
)
def test_thousands_of_digits_are_refused(text):
    """Python itself refuses to read whole numbers of more than 4,300 digits: a ValueError."""
    with pytest.raises(UserError, match="is not a budget or count") as caught:
        parse_budget([text])
    assert len(str(caught.value)) < 2500


@pytest.mark.parametrize(
    "text", ["b1000000000000,p1", "b1000000,p1M,o1", "b1,p1e18", "b2,p1,o1e12"]
)
def test_a_workload_that_no_machine_runs_is_refused(text):
    """Its caches' bytes would not fit the int64 of the search's grid, which wraps without a
    word.
    """
    with pytest.raises(UserError, match="No machine runs"):
        parse_work(text)
    assert parse_work("b1000,p1M,o1M").context == 1_500_000


@pytest.mark.parametrize("batch", [0, -1, 10**13, 10**30])
def test_a_batch_of_inspect_and_search(batch):
    with pytest.raises(UserError, match="No machine runs"):
        Workload(context=1, batch=batch)


@pytest.mark.parametrize(
    "words",
    [
        ("--batch", "٣"),
        ("--batch", "9" * 5000),
        ("--batch", "0"),
        ("--seconds", "-1"),
        ("--seconds", "nan"),
        ("--prompt", "1e18"),
    ],
)
def test_options_of_bench(words, tmp_path, capsys):
    run("bench", tmp_path, *words, code=2)
    assert "\n  next: " in capsys.readouterr().err
