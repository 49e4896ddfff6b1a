"""A setting is said once: command line, recipe and API are made from its declaration."""

import re
from dataclasses import MISSING, fields, replace
from pathlib import Path

import pytest
from helpers import run

import minipuzzle as mp
from minipuzzle.settings import ADAPT_RATE, AdapterSettings, AdaptSettings, PretrainRecipe, Recipe
from minipuzzle.settings.declare import assemble, keys, options
from minipuzzle.settings.recipe_file import build
from minipuzzle.settings.verbs import COMMANDS

NEEDED = {
    "inspect": (("path", Path("x")),),
    "merge": (("checkpoint", Path("x")), ("adapter", Path("y"))),
    "quantize": (("checkpoint", Path("x")),),
    "generate": (("words", ("It was",)),),
    "bench": (("checkpoints", (Path("x"),)),),
    "pretrain": (("recipe", Path("r.yaml")),),
    "run": (("recipe", Path("r.yaml")),),
}
"""What a command cannot do without, by field."""


def words(verb):
    return [w for _, v in NEEDED.get(verb, ()) for w in (v if isinstance(v, tuple) else (v,))]


@pytest.fixture
def line(monkeypatch):
    """What the command line makes of words, in place of running them."""

    def made(verb, *more, code=0):
        found = []
        monkeypatch.setattr(f"minipuzzle.commands.{verb}.run", found.append)
        run(verb, *words(verb), *more, code=code)
        return found[0] if found else None

    return made


@pytest.mark.parametrize("verb", COMMANDS)
def test_a_command_without_options_has_the_defaults_of_its_dataclass(verb, line):
    assert line(verb) == COMMANDS[verb](**dict(NEEDED.get(verb, ())))


@pytest.mark.parametrize("verb", COMMANDS)
def test_every_option_reaches_its_field_and_no_other(verb, line):
    """Each one given alone, as text: the field has the value, everything else its default."""
    usual = line(verb)
    for option in options(COMMANDS[verb]):
        if option.setting.argument:
            continue
        text, value = other(option)
        flag = option.flag
        switch = flag if value else f"--no-{flag[2:]}"
        given = (switch,) if option.kind is bool else (flag, text)
        try:
            made = line(verb, *given)
        except AssertionError:  # --include alone is refused: it is about tasks
            made = line(verb, *given, "--tasks", "a")
            usual = line(verb, "--tasks", "a")
        assert made == changed(usual, option.path, value), option.name
        usual = line(verb)


def other(option):
    """A text for the option, and the value that it stands for, which is not the default."""
    known = {
        "search.budget": ("90%", ("90%",)),
        "search.min_keep": ("width=50%", ("width=50%",)),
        "score.estimator": ("flap", "flap"),
        "score.metric": ("kl", "kl"),
        "score.bits": ("4..8", "4..8"),
        "search.bits": ("8", "8"),
        "score.experts": ("frequency", "frequency"),
        "distill.loss": ("cosine", "cosine"),
        "distill.on_policy_loss": ("jsd", "jsd"),
        "distill.rates": ("3e-5", (3e-5,)),
        "distill.links": ("450,50", (450.0, 50.0)),
        "training.log_to": ("wandb,mlflow", ("wandb", "mlflow")),
        "profile.workload": ("b2,p3,o4", ("b2,p3,o4",)),
        "bench.batch": ("auto", None),
        "quantize.group": ("64", 64),
        "bench.seconds": ("5", 5.0),
        "eval.limit": ("5", 5),
    }
    if option.name in known:
        return known[option.name]
    if option.kind is bool:
        return "", not option.default
    if option.choices:
        value = next(c for c in option.choices if c != option.default)
        return value, value
    if option.setting.parse is not None:
        return ("62.5%", 0.625) if option.kind is float else ("3k", 3000)
    if option.kind is int:
        value = option.default + 1
        return str(value), value
    if option.kind is float:
        value = 0.625
        return str(value), value
    return "zzz", Path("zzz") if "Path" in str(option.kind) else "zzz"


def changed(value, path, new):
    if len(path) == 1:
        return replace(value, **{path[0]: new})
    return replace(value, **{path[0]: changed(getattr(value, path[0]), path[1:], new)})


def test_recipe_api_and_command_line_have_one_default_each():
    """From one list: every key of a recipe against the command's option and the API's object."""
    recipe = build(Recipe, {"checkpoint": "x"}, "r")
    api = {
        "data": mp.Data(),
        "score": mp.ScoreSettings(),
        "search": mp.SearchSettings(),
        "distill": mp.DistillSettings(),
        "training": mp.Training(),
        "adapter": AdapterSettings(),
    }
    compared = set()
    for key in keys(Recipe):
        section, _, name = key.name.partition(".")
        if section == "job":
            continue
        value = recipe
        for part in key.path:
            value = getattr(value, part)
        assert value == getattr(api[section], name) == key.default, key.name
        for verb in ("score", "search", "distill", "eval", "inspect"):
            for option in options(COMMANDS[verb]):
                if option.name == key.name:
                    assert option.default == value, (verb, key.name)
                    compared.add(key.name)
    everything = {key.name for key in keys(Recipe) if not key.name.startswith("job.")}
    assert everything - compared == {"training.learning_rate"}, "has no flag"  # distill.rates has


def test_every_setting_of_training_has_a_flag():
    training = {f"training.{f.name}" for f in fields(mp.Training)}
    adapter = {f"adapter.{f.name}" for f in fields(AdapterSettings)}
    named = {verb: {o.name for o in options(COMMANDS[verb])} for verb in COMMANDS}
    assert training | adapter <= named["adapt"]
    assert training | adapter <= named["distill"] | {"training.learning_rate"}
    assert "distill.rates" in named["distill"]
    assert {key.name for key in keys(PretrainRecipe)} >= training


def test_every_field_is_declared():
    for kind in (mp.Data, mp.ScoreSettings, mp.SearchSettings, mp.DistillSettings, AdaptSettings):
        for f in fields(kind):
            assert {"setting", "group"} & set(f.metadata), f"{kind.__name__}.{f.name}"


@pytest.mark.parametrize("verb", COMMANDS)
def test_flags_are_unique_and_helps_are_sentences(verb):
    known = options(COMMANDS[verb])
    flags = [o.flag for o in known if not o.setting.argument]
    assert len(flags) == len(set(flags))
    shorts = [o.setting.short for o in known if o.setting.short]
    assert len(shorts) == len({*shorts, "h"}) - 1
    for option in known:
        said = option.setting.help
        assert said[0].isupper(), said
        assert said.endswith((".", ")")), said
        assert len(said.split()) > 1 or option.name == "distill.teacher", said
        assert not re.match(r"(Of|The same|Also write)\b", said), said
        assert option.setting.argument or option.setting.panel, option.name


@pytest.mark.parametrize(
    ("rates", "training", "given"),
    [
        ((), {}, ()),
        ((), {"learning_rate": 3e-4}, ("--learning-rate", "3e-4")),
        ((3e-4,), {}, ("--learning-rate", "3e-4")),
        ((1e-4, 3e-4), {}, ("--learning-rate", "1e-4,3e-4")),
        ((), {}, ("--learning-rate", "auto")),
    ],
)
def test_learning_rates_mean_the_same_in_all_three(rates, training, given, line):
    python = mp.DistillSettings(rates=rates, training=mp.Training(**training))
    recipe = build(mp.DistillSettings, {"rates": list(rates), "training": training}, "r")
    assert line("distill", *given).settings.resolved() == python.resolved() == recipe.resolved()


def test_a_budget_of_time_means_the_same_in_all_three(line):
    python = mp.SearchSettings(budget=("1.2x",))
    recipe = build(mp.SearchSettings, {"budget": "1.2x"}, "r")
    assert line("search", "--budget", "1.2x").settings == python == recipe
    assert str(python.work) == "b1,p512,o64"


def test_counts_are_texts_or_numbers_in_all_three(line):
    python = mp.SearchSettings(context="128k")
    assert python == mp.SearchSettings(context=128_000)
    assert python == build(mp.SearchSettings, {"context": "128k"}, "r")
    assert python == line("search", "--context", "128k").settings
    assert mp.Training(tokens="3M") == mp.Training(tokens=3_000_000)
    assert build(mp.Training, {"tokens": "3M"}, "r").tokens == 3_000_000
    with pytest.raises(mp.UserError, match="budget or count"):
        mp.SearchSettings(context="many")


def test_a_text_where_several_may_be_named_is_one():
    assert mp.SearchSettings(budget="83%").budget == ("83%",)
    assert mp.SearchSettings(budget=["83%", "12MiB"]).budget == ("83%", "12MiB")


@pytest.mark.parametrize("budget", ["83q", "12 parsecs", "-1", "1.2x@z9"])
def test_a_malformed_budget_is_refused_before_anything_is_opened(budget, tmp_path, capsys):
    with pytest.raises(mp.UserError):
        mp.SearchSettings(budget=(budget,))
    (tmp_path / "r.yaml").write_text(f"checkpoint: nowhere\nsearch: {{budget: '{budget}'}}\n")
    run("search", tmp_path / "nowhere", "--budget", budget, "--run", tmp_path / "run", code=2)
    run("run", tmp_path / "r.yaml", "--run", tmp_path / "run", code=2)
    assert "nowhere" not in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "name", "value", "said"),
    [
        (mp.SearchSettings, "method", "solve", "'solver'"),
        (mp.SearchSettings, "mamba_heads", "yes", "true or false"),
        (mp.SearchSettings, "weights", 16, "a text"),
        (mp.ScoreSettings, "estimator", "flop", "'flap'"),
        (mp.Training, "precision", "fp9", "'fp8'"),
    ],
)
def test_values_of_another_kind_are_refused_with_the_nearest(settings, name, value, said):
    with pytest.raises(mp.UserError) as caught:
        settings(**{name: value})
    assert said in str(caught.value)


def test_what_is_left_out_of_assembled_values_keeps_its_default():
    made = assemble(COMMANDS["distill"], {("settings", "training", "batch"): 3})
    assert made.settings.training == mp.Training(batch=3)
    assert made.data == mp.Data()
    made = assemble(COMMANDS["adapt"], {("settings", "training", "batch"): 3})
    assert made.settings.adapter == AdapterSettings(kind="tl6")
    assert made.settings.training == mp.Training(batch=3, learning_rate=ADAPT_RATE)
    assert [o.default for o in options(COMMANDS["merge"])][:2] == [MISSING, MISSING]
