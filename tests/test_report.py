"""The report: one well-formed file without a network, whatever the run directory holds so far."""

import re
from html.parser import HTMLParser

import pytest
from helpers import FAST, run

from minipuzzle.errors import UserError
from minipuzzle.report.page import build_report
from minipuzzle.report.units import bytes_, count, percent

VOID = {"meta", "br", "img", "hr", "input", "link", "path", "use", "rect", "circle", "line"}


class Checker(HTMLParser):
    """Every element is closed, nothing refers to the network."""

    def __init__(self):
        super().__init__()
        self.open = []
        self.seen = []

    def handle_starttag(self, tag, attributes):
        self.seen.append(tag)
        for name, value in attributes:
            if name in ("src", "href", "xlink:href"):
                assert value.startswith("#"), value
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.seen.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag


def check(page):
    text = page.read_text()
    checker = Checker()
    checker.feed(text)
    assert not checker.open
    assert not re.search(r"url\((?!#)", text)
    assert "@import" not in text
    return text, checker.seen


def test_the_report_grows_with_the_run(checkpoint, tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(UserError, match="missing"):
        build_report(folder)
    run("score", checkpoint, "--run", folder, *FAST["score"])
    text, seen = check(build_report(folder))
    assert seen.count("svg") == 2
    assert "minipuzzle search fills this section" in text
    run("search", "--run", folder, *FAST["search"])
    run("distill", "--run", folder, *FAST["distill"])
    run("eval", "--run", folder, *FAST["eval"])
    text, seen = check(build_report(folder))
    assert seen.count("svg") == 5
    assert "fills this section" not in text
    for words in ("Winner c0", "Dropped blocks", "arXiv:2504.03624", "minipuzzle distill", "student", "color-scheme"):
        assert words in text


def test_units():
    assert [count(5_523_552), count(46_791_554_816), count(12)] == ["5.52 M", "46.79 B", "12"]
    assert [bytes_(31.68 * 2**30), bytes_(2**20)] == ["31.68 GiB", "1.00 MiB"]
    assert percent(83, 100) == "83.0 %"
