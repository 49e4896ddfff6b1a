"""Distill: more than three candidates are screened, and the best three go on from there."""

import csv

import pytest
from helpers import FAST, TEXT, heard, run

from minipuzzle.artifacts import read_json
from minipuzzle.commands import distill as commands
from minipuzzle.records import Distilled
from minipuzzle.rundir import RunDir
from minipuzzle.runs.race import Leg, race
from minipuzzle.settings import ADAPTER_RATES, RATES, SearchSettings

STEP = 4 * 64


def last(folder):
    head, *rows = [line.split(",") for line in (folder / "log.csv").read_text().splitlines()]
    return tuple(float(rows[-1][head.index(name)]) for name in ("tokens", "loss"))


def test_five_candidates_are_screened_and_three_go_on(checkpoint, tmp_path):
    folder = tmp_path / "run"
    run("score", checkpoint, "--run", folder, *FAST["score"])
    run("search", "--run", folder, *FAST["search"], "--method", "solver", "--refine", 2, "--top", 5)
    top = read_json(folder / "search.json")["top"]
    assert len(top) == 5
    run(
        "distill",
        "--run",
        folder,
        *FAST["distill"][:4],
        "--tokens",
        512,
        "--short-tokens",
        3 * STEP,
        "--length",
        64,
        "--batch",
        4,
        "--device",
        "cpu",
    )
    screening = RunDir(folder).stage(Distilled).screening_validation_loss
    assert sorted(screening) == sorted(top)
    best = sorted(screening, key=screening.__getitem__)[:3]
    assert {path.parent.name for path in (folder / "distill").glob("*-short/log.csv")} == {
        f"{name}-short" for name in best
    }
    assert sorted(RunDir(folder).stage(Distilled).short_validation_loss) == sorted(best)
    # One step in the screening run, two more from its weights on the same first batch.
    for name in best:
        first, then = (
            last(folder / "distill" / f"{name}-screening"),
            last(folder / "distill" / f"{name}-short"),
        )
        assert (first[0], then[0]) == (STEP, 2 * STEP)
        assert then[1] < first[1]


def test_a_long_run_that_does_harm_says_so(checkpoint, tmp_path, capsys):
    """One candidate alone, so that the loss before is that of its cut; two domains."""
    folder, text = tmp_path / "run", tmp_path / "text"
    text.mkdir()
    for name, part in (("a", TEXT.read_text()[:6000]), ("b", TEXT.read_text()[6000:12_000])):
        (text / f"{name}.txt").write_text(part)
    run("score", checkpoint, "--run", folder, *FAST["score"])
    run("search", "--run", folder, *FAST["search"], "--top", 1)
    for rate in (3e-4, 3.0):
        more = ("--validation", text, "--learning-rate", rate)
        run("distill", "--run", folder, *FAST["distill"], *more)
        done = RunDir(folder).stage(Distilled)
        before, after = done.long_validation_loss
        said = capsys.readouterr().err
        each = done.validation_domains
        assert min(each.values()) < after < max(each.values())
        assert f" after it (a {each['a']:.4f}, b {each['b']:.4f})" in said
        assert (
            f"validation loss {before:.4f} nats/token before the long run, {after:.4f} after it"
            in said
        )
        assert (after > before) == ("made the student worse" in said) == (rate > 1)


def test_the_best_of_several_rates_is_taken(checkpoint, tmp_path, capsys):
    """3.0 ruins the student and 1e-9 leaves it as it was; the search's first candidate tries
    them.
    """
    folder = tmp_path / "run"
    run("score", checkpoint, "--run", folder, *FAST["score"])
    run("search", "--run", folder, *FAST["search"])
    first = read_json(folder / "search.json")["top"][0]
    run("distill", "--run", folder, *FAST["distill"], "--learning-rate", "1e-9,3e-3,3.0")
    facts = RunDir(folder).stage(Distilled)
    assert facts.learning_rate == 3e-3
    tried = facts.rate_validation_loss
    assert list(tried) == ["1e-09", "0.003", "3"]
    assert tried["0.003"] < tried["1e-09"] < tried["3"]
    assert "learning rate 0.003 is the best of 3" in capsys.readouterr().err
    assert {path.parent.name for path in (folder / "distill").glob("*-rate-*/log.csv")} == {
        f"{first}-rate-{r}" for r in tried
    }
    rates = [
        row["learning_rate"] for row in csv.DictReader((folder / "distill/long/log.csv").open())
    ]
    assert 0 < max(map(float, rates)) <= 3e-3
    assert (
        "learning rate 0.003, the best of 3 in short runs"
        in (folder / "student/README.md").read_text()
    )
    run("report", "--run", folder)
    assert (
        f"1e-09 {tried['1e-09']:.4f}, 0.003 {tried['0.003']:.4f}, 3 {tried['3']:.4f}"
        in (folder / "report.html").read_text()
    )


@pytest.mark.parametrize("steps", [2, 20])
def test_a_rate_that_breaks_training_is_none(checkpoint, tmp_path, capsys, monkeypatch, steps):
    """After 2 steps the loss is no number, after 20 training has stopped for it."""
    monkeypatch.setattr("minipuzzle.runs.legs.RATE_SHARE", 1)
    folder, tokens = tmp_path / "run", steps * STEP
    run("score", checkpoint, "--run", folder, *FAST["score"])
    run("search", "--run", folder, *FAST["search"], "--top", 1)
    length = ("--tokens", tokens, "--short-tokens", tokens)
    run("distill", "--run", folder, *FAST["distill"], *length, "--learning-rate", "1e-4,1e30")
    assert "breaks down at a learning rate of 1e+30" in capsys.readouterr().err
    facts = RunDir(folder).stage(Distilled)
    assert (facts.learning_rate, list(facts.rate_validation_loss)) == (1e-4, ["0.0001"])


@pytest.mark.parametrize(
    ("given", "got"), [("auto", RATES), ("2e-4", (2e-4,)), ("1e-4,2e-4", (1e-4, 2e-4))]
)
def test_rates_of_the_command(given, got, monkeypatch, tmp_path):
    monkeypatch.setattr(commands, "make_job", lambda *args: None)
    taken = []
    monkeypatch.setattr(
        "minipuzzle.runs.distill.run_distill",
        lambda job, settings, teacher: taken.append(settings) or 1 / 0,
    )
    for adapter, rates in (("", got), ("tl6", ADAPTER_RATES if given == "auto" else got)):
        words = ("--learning-rate", given, "--adapter", adapter)
        run("distill", "--run", tmp_path, *words, code=70)
        settings = taken[-1].resolved()
        assert settings.rates == (rates if len(rates) > 1 else ())
        assert settings.training.learning_rate == rates[0]


def test_a_rate_that_is_none_is_refused(tmp_path, capsys):
    for rate in ("fast", "1e-4,-1"):
        run("distill", "--run", tmp_path, "--learning-rate", rate, code=2)
        assert rate in capsys.readouterr().err


def test_how_many_go_on_by_default():
    assert SearchSettings().finalists == 3
    assert SearchSettings(method="solver").finalists == 9
    assert SearchSettings(method="solver", top=2).finalists == 2


def test_a_race_says_who_goes_on_and_spares_one_alone():
    ran = []

    def run(name, leg):
        ran.append((name, leg))
        return {"a": 5.0, "b": 1.0, "c": 4.0, "d": 2.0}[name] - leg.before * (name == "d")

    with heard() as said:
        found = race("abcd", 30, run)
    assert said == ["distill: b, d, c go on to the short run"]
    assert (found.winner, list(found.screening), list(found.short)) == (
        "d",
        list("abcd"),
        list("bdc"),
    )
    assert ran == [(n, Leg("screening", 10, smaller=4)) for n in "abcd"] + [
        (n, Leg("short", 20, before=10)) for n in "bdc"
    ]
    assert race("a", 30, run).winner == "a"
    assert len(ran) == 7
