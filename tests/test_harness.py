"""Requests of lm-eval at the edges: empty, too long, without tokens. Oracle: its own HFLM on the
same weights.
"""

import json

import pytest
import torch
from helpers import run
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from tokenizer_kinds import KINDS, NAMES, put
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, Mamba2Config

from minipuzzle.checkpoint import Checkpoint
from minipuzzle.data import Tokenizer
from minipuzzle.errors import UserError
from minipuzzle.harness import HarnessLM
from minipuzzle.model import load_model
from minipuzzle.runs.tasks import _context, _unknown, check_tasks

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
SENTENCE = "The quick brown fox jumps over the lazy dog. "
PAIRS = [
    ("The quick", " brown"),
    ("", "Fellow"),
    ("", "<s>The"),
    ("The quick ", "brown"),
    ("The quick\n\n", "fox"),
    (SENTENCE * 20, " fox"),
    ("<s>The", " fox"),
    ("a", " b </s> c"),
    ("naïve", " café"),
    ("x", "x"),
]
TEXTS = ["The quick brown fox", SENTENCE * 15, "", "<s>The quick", " ", "naïve café — 天地"]
WRITE = [
    ("The quick", {"until": ["\n"], "max_gen_toks": 8}),
    (SENTENCE * 20, {"until": ["."], "max_gen_toks": 8}),
    ("<s>The", {"until": [], "max_gen_toks": 12}),
    ("a", {"until": "o", "max_gen_toks": 12, "do_sample": False}),
]


def saved(folder, kind, config):
    """A tiny model with random weights, its tokenizer and a generation config, in ``folder``."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, 0, 0.3)
    model.save_pretrained(folder)
    put(folder, KINDS[kind](), generation_config={"eos_token_id": [2, 9], "bos_token_id": 1})


def llama(**options):
    return LlamaConfig(
        vocab_size=620,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        **options,
    )


def pair_of(folder):
    ours = HarnessLM(
        load_model(Checkpoint.open(folder)).eval(), Tokenizer.load(folder), name="x", batch=3
    )
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return ours, HFLM(
        pretrained=model,
        tokenizer=AutoTokenizer.from_pretrained(folder),
        batch_size=1,
        device="cpu",
    )


@pytest.fixture(scope="module", params=["llama2", "byte level", "unigram always", "wordpiece"])
def both(request, tmp_path_factory):
    """(our model, HFLM's) with a tokenizer of one kind."""
    folder = tmp_path_factory.mktemp("harness")
    saved(folder, request.param, llama())
    return pair_of(folder)


def ask(model, kind, *arguments):
    return getattr(model, kind)(
        [Instance(request_type=kind, doc={}, arguments=arguments, idx=0)], disable_tqdm=True
    )[0]


def test_log_likelihoods_at_the_edges(both):
    ours, theirs = both
    for pair in PAIRS:
        try:
            want = ask(theirs, "loglikelihood", *pair)
        except AssertionError:  # its tokens reach from the context into the continuation
            with pytest.raises(UserError, match="cannot be scored"):
                ask(ours, "loglikelihood", *pair)
            continue
        assert ask(ours, "loglikelihood", *pair) == pytest.approx(want, abs=2e-3), pair
    for text in TEXTS:
        want = ask(theirs, "loglikelihood_rolling", text)
        assert ask(ours, "loglikelihood_rolling", text) == pytest.approx(want, abs=1e-2), text


def test_writing_stops_where_theirs_does(both):
    ours, theirs = both
    texts = [ask(ours, "generate_until", text, dict(options)) for text, options in WRITE]
    assert texts == [ask(theirs, "generate_until", text, dict(options)) for text, options in WRITE]


def test_a_special_token_is_no_text_and_stops_where_a_task_says_so(both, monkeypatch):
    ours, theirs = both
    begun = ours.text_tokenizer.encode("The quick", special_tokens=False)
    tokens = [*begun, 0, *begun]  # <unk> is a special token
    monkeypatch.setattr("minipuzzle.harness.stream", lambda *a, **k: ([t] for t in tokens))
    whole = ask(ours, "generate_until", "a", {"until": [], "max_gen_toks": 20})
    assert whole == theirs.tok_decode(tokens)
    stopped = ask(ours, "generate_until", "a", {"until": ["<unk>"], "max_gen_toks": 20})
    assert stopped == theirs.tok_decode(begun)


def test_what_lm_eval_asserts_is_answered_or_refused(both):
    ours, _ = both
    for pair in (("The", ""), ("", ""), (SENTENCE, " xqz" * 99)):
        with pytest.raises(UserError, match="cannot be scored"):
            ask(ours, "loglikelihood", *pair)
    for context in (" ", "  "):  # without tokens in some tokenizers: as an empty one then
        got = ask(ours, "loglikelihood", context, "The")
        tokens = ours.tok_encode(context + "The")[len(ours.tok_encode("")) :]
        assert (
            got
            == ours._loglikelihood_tokens(
                [(None, ours.tok_encode("") or [ours.prefix_token_id], tokens)]
            )[0]
        )
    assert isinstance(ask(ours, "generate_until", "", {"until": [], "max_gen_toks": 3}), str)


def test_a_model_without_a_context_has_lm_evals(tmp_path):
    sizes = {"num_heads": 8, "head_dim": 8, "n_groups": 1, "state_size": 8}
    config = Mamba2Config(vocab_size=620, hidden_size=32, num_hidden_layers=1, **sizes)
    saved(tmp_path, "byte level", config)
    for names, length in (
        (NAMES, 2048),
        (NAMES | {"model_max_length": 77}, 77),
        (NAMES | {"model_max_length": int(1e30)}, 2048),
    ):
        (tmp_path / "tokenizer_config.json").write_text(
            json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **names})
        )
        assert _context(Checkpoint.open(tmp_path)) == pair_of(tmp_path)[1].max_length == length


def test_unknown_tasks_are_answered_without_reading_all(tmp_path, capsys, monkeypatch, checkpoint):
    def never(*options, **named):
        raise AssertionError("lm-eval's 14,000 files were parsed, or the network asked")

    monkeypatch.setattr("lm_eval.tasks.TaskManager", never)
    monkeypatch.setattr("socket.socket.connect", never)
    words = ("--run", tmp_path / "run", "--tasks", "arc_easy, hellaswagg", "--device", "cpu")
    run("eval", checkpoint, *words, code=2)
    assert "hellaswag," in capsys.readouterr().err
    assert "no similar one" in _unknown("zzz", ["arc_easy"]).allowed
    for tasks, limit in ((" ,", None), ("arc_easy", 0), ("arc_easy", -3)):
        with pytest.raises(UserError):
            check_tasks(tasks, None, limit)
    assert check_tasks("arc_easy, arc_easy,arc_challenge", None, 1) == ["arc_easy", "arc_challenge"]


@pytest.mark.parametrize(
    "fault", ["data_files: {test: nowhere.jsonl}", "data_files: {test: FOLDER/cut.jsonl}"]
)
def test_a_task_whose_data_cannot_be_had_is_told(tmp_path, capsys, checkpoint, fault):
    (tmp_path / "cut.jsonl").write_text('{"text": ')
    (tmp_path / "own.yaml").write_text(f"""
task: own_task
dataset_path: json
dataset_kwargs: {{{fault.replace("FOLDER", str(tmp_path))}}}
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list: [{{metric: bits_per_byte}}]
""")
    run(
        "eval",
        "--parent",
        checkpoint,
        "--run",
        tmp_path / "run",
        "--tasks",
        "own_task",
        "--include",
        tmp_path,
        "--device",
        "cpu",
        code=2,
    )
    said = capsys.readouterr().err
    assert "own_task cannot be loaded" in said


def test_a_task_that_cannot_be_run_is_told_before_the_others_are(
    tmp_path, capsys, checkpoint, monkeypatch
):
    (tmp_path / "words.jsonl").write_text('{"text": "words"}\n')
    for options, says in (("temperature: 0.7", "samples"), ("max_gen_toks: 9000", "context holds")):
        (tmp_path / "own.yaml").write_text(f"""
task: own_task
dataset_path: json
dataset_kwargs: {{data_files: {{test: {tmp_path}/words.jsonl}}}}
output_type: generate_until
test_split: test
doc_to_text: "{{{{text}}}}"
doc_to_target: "{{{{text}}}}"
generation_kwargs: {{until: ["."], {options}}}
metric_list: [{{metric: exact_match}}]
""")
        monkeypatch.setattr("lm_eval.simple_evaluate", None)
        words = ("--tasks", "own_task", "--include", tmp_path, "--device", "cpu")
        run("eval", "--parent", checkpoint, "--run", tmp_path / "run", *words, code=2)
        assert says in capsys.readouterr().err


def test_the_precision_in_the_results_is_the_one_that_ran(both):
    ours, _ = both
    assert ours.get_model_info()["model_dtype"] == "float32"
    with torch.autocast("cpu", torch.bfloat16):
        assert ours.get_model_info()["model_dtype"] == "bfloat16"
