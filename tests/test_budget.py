"""Budgets and counts mean what they say, to the last parameter; decimal arithmetic is the oracle."""

from decimal import ROUND_FLOOR, Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minipuzzle.budget import Limits, parse_budget, parse_count
from minipuzzle.errors import UserError


@pytest.mark.parametrize(
    ("text", "parameters", "size"),
    [
        ("47B", 47_000_000_000, None), ("4.8M", 4_800_000, None), ("1.2e9", 1_200_000_000, None), ("47b", 47 * 10**9, None),
        ("83%", 830, None), ("29%", 290, None), ("40GB", None, 40 * 10**9), ("900MiB", None, 900 * 2**20),
        ("31.7GiB", None, 34_037_615_820), (" 2 kib ", None, 2048),
    ],
)  # fmt: skip
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
    ["", "B", "%", "-3B", "0", "0%", "0.4", "83%%", "1.5.2", "1,000", "12 apples", "47 GB B", "nan", "inf", "1e999", "1e99",
     "0.0001kB", "1e30GiB", "GiB"],
)  # fmt: skip
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
    [("1M", 10**6), ("128k", 128_000), ("65536", 65_536), ("8Ki", 8192), ("1Mi", 2**20), ("1.5k", 1500), ("1e6", 10**6)],
)
def test_counts(text, value):
    assert parse_count(text) == value


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5", "0.1", "1GiB", "50%", "1e999", "x"])
def test_a_count_is_whole_and_positive(text):
    with pytest.raises(UserError):
        parse_count(text)
