"""lm-eval's tasks on our models: its own Hugging Face model on transformers' weights must agree."""

import json
import sys

import pytest
import torch
from helpers import TEXT, run
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from test_model import unclamped
from transformers import AutoModelForCausalLM, AutoTokenizer

from minipuzzle import embedded
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.data import Tokenizer
from minipuzzle.errors import UserError
from minipuzzle.harness import HarnessLM
from minipuzzle.model import load_model
from minipuzzle.rundir import RunDir

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
LINES = [
    line[: line.rfind(" ", 0, 140)] for line in TEXT.read_text().splitlines() if len(line) > 80
]
SHORT = 96
"""Tokens of context in place of the teacher's 2048: longer texts are cut and rolled."""
YAML = {
    "local_last_word": """
task: local_last_word
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/words.jsonl}}
output_type: loglikelihood
test_split: test
doc_to_text: "{{text.rsplit(' ', 1)[0]}}"
doc_to_target: "{{' ' + text.rsplit(' ', 1)[1]}}"
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
""",
    "local_choice": """
task: local_choice
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/choices.jsonl}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: acc}, {metric: acc_norm}]
""",
    "local_text": """
task: local_text
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/words.jsonl}}
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: bits_per_byte}]
""",
    "local_write": """
task: local_write
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/words.jsonl}}
output_type: generate_until
test_split: test
doc_to_text: "{{text[:40]}}"
doc_to_target: "{{text[40:80]}}"
generation_kwargs: {until: ["\\n", "."], do_sample: false, max_gen_toks: 4}
metric_list: [{metric: exact_match}]
""",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four task files of lm-eval, and their data out of the embedded validation text."""
    path = tmp_path_factory.mktemp("tasks")
    words = LINES[:10]
    choices = [
        {"question": a[:50], "choices": [a[50:58], b[50:58]], "answer": 0}
        for a, b in zip(words, LINES[10:20], strict=True)
    ]
    for name, rows in (("words", [{"text": w} for w in words]), ("choices", choices)):
        (path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, text in YAML.items():
        (path / f"{name}.yaml").write_text(text.replace("FOLDER", str(path)))
    return path


@pytest.fixture(scope="module", autouse=True)
def data_cache(tmp_path_factory):
    """datasets writes what it read as arrow files: not into the home folder."""
    import datasets.config as config

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("datasets")))
        yield


@pytest.fixture(scope="module")
def theirs():
    """lm-eval's own model class around transformers."""
    model = unclamped(
        AutoModelForCausalLM.from_pretrained(embedded.teacher_path(), dtype=torch.float32).eval()
    )
    tokenizer = AutoTokenizer.from_pretrained(embedded.teacher_path(), model_max_length=10**6)
    return HFLM(model, tokenizer=tokenizer, batch_size=8, max_length=SHORT)


@pytest.fixture(scope="module")
def ours():
    path = embedded.teacher_path()
    lm = HarnessLM(load_model(Checkpoint.open(path)).eval(), Tokenizer.load(path), name="teacher")
    assert lm.max_length == 2048
    lm.max_length = SHORT
    return lm


def instances(kind, *arguments):
    return [Instance(kind, {}, a, i) for i, a in enumerate(arguments)]


def test_log_likelihoods_are_theirs(ours, theirs):
    long = " ".join(LINES)
    pairs = [
        ("", "The Congress"),
        ("Fellow citizens ", " of the Senate"),
        ("Question: A", " B"),
        ("Question: A", " C"),
        ("<|endoftext|>The", " state"),
        (long[:900], long[900:950]),
        (LINES[0], LINES[1]),
    ]
    asked = instances("loglikelihood", *pairs)
    got, want = ours.loglikelihood(asked), theirs.loglikelihood(asked)
    assert [g[1] for g in got] == [w[1] for w in want]
    for (mine, _), (other, _) in zip(got, want, strict=True):
        assert mine == pytest.approx(other, abs=1e-4, rel=1e-5)
    texts = [(long[:1200],), ("short",), ("",)]
    got = ours.loglikelihood_rolling(instances("loglikelihood_rolling", *texts))
    assert got == pytest.approx(
        theirs.loglikelihood_rolling(instances("loglikelihood_rolling", *texts)), abs=1e-4, rel=1e-5
    )


def test_one_forward_for_choices_of_one_token(ours, monkeypatch):
    seen = []
    whole = ours._hidden
    monkeypatch.setattr(ours, "_hidden", lambda rows: seen.extend(rows) or whole(rows))
    ours._loglikelihood_tokens(
        [(None, [5, 6, 7], [token]) for token in (8, 9, 10)] + [(None, [5, 6, 7], [8, 9])]
    )
    assert sorted(seen, key=len) == [(5, 6, 7), (5, 6, 7, 8)]


def test_generation_is_theirs(ours, theirs):
    options = {"until": ["\n\n", " the"], "do_sample": False, "max_gen_toks": 10}
    requests = [(line[:30], options) for line in LINES[:2]] + [(" ".join(LINES)[:900], options)]
    asked = instances("generate_until", *requests)
    assert ours.generate_until(asked) == theirs.generate_until(asked)


def test_sampling_and_too_long_answers_are_refused(ours):
    for options, says in (
        ({"do_sample": True, "temperature": 0.7}, "samples"),
        ({"max_gen_toks": 2048}, "context holds"),
    ):
        with pytest.raises(UserError, match=says):
            ours.generate_until(instances("generate_until", ("a", {"until": [], **options})))


def test_tasks_beside_each_other_in_lm_evals_json(folder, theirs, checkpoint, tmp_path, capsys):
    where = tmp_path / "run"
    names = list(YAML)
    RunDir(where).set_parent(
        embedded.teacher_path(), Checkpoint.open(embedded.teacher_path()).fingerprint
    )
    run(
        "eval",
        checkpoint,
        "--run",
        where,
        "--tasks",
        ",".join(names),
        "--include",
        folder,
        "--device",
        "cpu",
    )
    assert "local_choice" in capsys.readouterr().out
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    want = simple_evaluate(theirs, tasks=names, task_manager=manager, log_samples=False)
    got = json.loads((where / "lm_eval" / "teacher.json").read_text())
    assert set(got) >= {
        "results",
        "configs",
        "versions",
        "n-shot",
        "n-samples",
        "config",
        "higher_is_better",
    }
    assert got["results"].keys() == want["results"].keys() == set(names)
    for name in names:
        for metric, value in want["results"][name].items():
            if isinstance(value, float):
                assert got["results"][name][metric] == pytest.approx(value, rel=1e-5), (
                    name,
                    metric,
                )
    rows = json.loads((where / "tasks.json").read_text())["rows"]
    assert {r["name"] for r in rows} == {"teacher", checkpoint.name}
    first = next(
        r for r in rows if (r["name"], r["task"], r["metric"]) == ("teacher", "local_choice", "acc")
    )
    assert (first["samples"], first["higher_is_better"]) == (10, True)
    assert (
        first["stderr"] == got["results"]["local_choice"]["acc_stderr,none"] > 0
    )  # so neither none nor all are right
    run("report", "--run", where)
    assert "local_last_word" in (where / "report.html").read_text()


def test_faults_are_told(tmp_path, capsys, monkeypatch, folder):
    words = ("eval", "--run", tmp_path / "run", "--parent", "embedded", "--device", "cpu")
    run(*words, "--limit", 3, code=2)
    assert "Add --tasks" in capsys.readouterr().err
    run(*words, "--tasks", "x", "--include", tmp_path / "nowhere", code=2)
    assert "nowhere" in capsys.readouterr().err
    monkeypatch.setattr(
        "lm_eval.tasks.TaskManager",
        lambda **options: TaskManager(**options | {"include_defaults": False}),
    )
    run(
        *words, "--tasks", "local_choise", "--include", folder, code=2
    )  # without lm-eval's own 14,000 tasks: seconds
    assert "local_choice" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    run(*words, "--tasks", "local_choice", code=2)
    assert 'pip install "minipuzzle[hf]"' in capsys.readouterr().err
