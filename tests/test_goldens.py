"""Every number is as it was, bit by bit (tests/goldens/make.py says how)."""

import os

import pytest
from goldens.make import TEXTS, differences, maker
from goldens.parts import PARTS


@pytest.fixture(scope="module")
def make():
    with maker() as found:
        yield found


@pytest.mark.parametrize("part", PARTS)
def test_numbers_are_as_they_were(part, make):
    text, seconds = make(part)
    assert not differences(part, text)
    # conftest.py does not see the seconds of a process that goes on
    assert seconds < float(os.environ.get("MINIPUZZLE_TIME_LIMIT", "inf"))


def test_each_part_has_its_file():
    assert {file.stem for file in TEXTS.glob("*.txt")} == set(PARTS)


def test_a_changed_bit_is_seen_and_another_machine_may_round_otherwise(tmp_path, monkeypatch):
    then = "made on here\nblock 0 = 0.25 float64 3 0123456789abcdef first 1.5\ntop = c001\n"
    then += "a = 5.2077545976329835, 2\n"
    (tmp_path / "demo.txt").write_text(then)
    monkeypatch.setattr("goldens.make.TEXTS", tmp_path)
    assert not differences("demo", then)
    assert differences("demo", then.replace("0.25", "0.25000000000000006"))
    there = then.replace("on here", "on another")
    assert not differences(
        "demo", there.replace("0.25", "0.2500001").replace("0123456789abcdef", "ffffffffffffffff")
    )
    assert not differences("demo", there.replace("5.2077545976329835", "5.207754738567573"))
    assert differences("demo", there.replace("5.2077545976329835", "5.217754738567573"))
    assert differences("demo", there.replace("0.25", "0.26"))
    assert differences("demo", there.replace("c001", "c002"))
