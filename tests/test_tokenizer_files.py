"""The files beside a tokenizer.json change what it means. Oracle: the ids and text of transformers'
AutoTokenizer.
"""

import json

import pytest
from tokenizer_kinds import CORPUS, KINDS, NAMES, put
from tokenizers import Regex, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as File
from transformers import AutoTokenizer

from minipuzzle import families
from minipuzzle.data import Tokenizer
from minipuzzle.errors import UserError

TEXTS = [
    *CORPUS[:5],
    "  two leading spaces\n  and lines",
    " x",
    "",
    "a<s>b</s> c",
    "[X] fox [PAD]",
    "e\u0301",
    "x <think> y <|left|> z<|right|>  q",
    "\t\n 123 4567",
    "a  b",
]
PLAIN = {"tokenizer_class": "PreTrainedTokenizerFast"}
CONFIGS = {
    "no class": {**NAMES},
    "plain": PLAIN | NAMES,
    "llama": {"tokenizer_class": "LlamaTokenizer", **NAMES},
    "llama, legacy": {"tokenizer_class": "LlamaTokenizerFast", "legacy": True, **NAMES},
    "llama, no prefix": {"tokenizer_class": "LlamaTokenizer", "add_prefix_space": False, **NAMES},
    "qwen2": {"tokenizer_class": "Qwen2Tokenizer", **NAMES},
    "gpt2, prefix": {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": True, **NAMES},
    "neox": {"tokenizer_class": "GPTNeoXTokenizerFast", "pad_token": None, **NAMES},
    "unknown class": {"tokenizer_class": "OwnTokenizer", **NAMES},
    "asks for ends": PLAIN | NAMES | {"add_bos_token": False, "add_eos_token": True},
    "padding token": PLAIN | NAMES | {"pad_token": "[PAD]"},
    "extra": PLAIN | NAMES | {"extra_special_tokens": ["[X]", "fox"]},
    "additional": PLAIN | NAMES | {"additional_special_tokens": ["[X]", "the"]},
    "extra by name": PLAIN | NAMES | {"extra_special_tokens": {"image_token": "[X]"}},
    "of the model": PLAIN | NAMES | {"image_token": "[X]"},
    "objects": (
        PLAIN
        | {
            "eos_token": {"content": "</s>", "__type": "AddedToken", "lstrip": True},
            "bos_token": "<s>",
        }
    ),
    "listed": (
        PLAIN
        | NAMES
        | {
            "added_tokens_decoder": {
                "2": {"content": "</s>", "lstrip": True, "special": True},
                "0": {"content": "<unk>", "special": True},
            }
        }
    ),
    "split": PLAIN | NAMES | {"split_special_tokens": True},
    "clean": PLAIN | NAMES | {"clean_up_tokenization_spaces": True},
    "cut and filled": (
        PLAIN | NAMES | {"model_max_length": 4, "padding_side": "left", "truncation": True}
    ),
}
SEEN = ["llama2 added", "byte level added", "unigram always", "wordpiece, spaced"]


def same(folder):
    """Both tokenizers of a folder, after they agreed on all texts and back."""
    theirs, ours = AutoTokenizer.from_pretrained(folder), Tokenizer.load(folder)
    for text in TEXTS:
        ids = theirs(text)["input_ids"]
        assert ours.encode(text, special_tokens=True) == ids, text
        assert (
            ours.encode(text, special_tokens=False)
            == theirs(text, add_special_tokens=False)["input_ids"]
        )
        assert ours.decode(ids) == theirs.decode(ids)
        assert ours.decode(ids, special_tokens=False) == theirs.decode(
            ids, skip_special_tokens=True
        )
    assert (ours.bos_id, ours.vocab_size) == (
        theirs.bos_token_id,
        1 + max(theirs.get_vocab().values()),
    )
    return ours, theirs


@pytest.fixture(scope="module")
def made():
    return {kind: KINDS[kind]() for kind in SEEN}


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("kind", SEEN)
def test_ids_and_text_are_those_of_transformers_or_refused(tmp_path, made, kind, config):
    put(tmp_path, made[kind], CONFIGS[config])
    if "BPE" not in repr(made[kind].model) and config in (
        "llama",
        "llama, legacy",
        "llama, no prefix",
        "qwen2",
        "gpt2, prefix",
        "neox",
    ):
        with pytest.raises(UserError, match="class is not known"):
            Tokenizer.load(tmp_path)
        return
    ours, theirs = same(tmp_path)
    assert ours.eos_id == theirs.eos_token_id


@pytest.mark.parametrize("model", [n for n in families.known() if n != "nemotron_h_puzzle"])
@pytest.mark.parametrize("config", ["no class", "plain", "llama", "gpt2, prefix"])
def test_the_type_of_the_model_chooses_the_class_too(tmp_path, made, model, config):
    for kind in ("byte level added", "llama2 added"):
        same(put(tmp_path / kind, made[kind], CONFIGS[config], config={"model_type": model}))


def test_truncation_padding_and_normalizers_of_the_file(tmp_path, made):
    file = KINDS["byte level"]()
    file.enable_truncation(4)
    file.enable_padding(pad_id=1, pad_token="<s>", length=16)
    file.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace("x", "y")]
    )
    same(put(tmp_path, file))
    assert len(Tokenizer.load(tmp_path).encode("a b c d e f g", special_tokens=False)) >= 7


def test_ends_in_every_file_that_may_name_them(tmp_path, made):
    file = made["byte level added"]
    end = {"eos_token": "</s>", "bos_token": "<s>"}
    ours, theirs = same(put(tmp_path / "map", file, PLAIN, special_tokens_map=end))
    assert (ours.eos_id, ours.bos_id) == (theirs.eos_token_id, theirs.bos_token_id) == (2, 1)
    ours, theirs = same(
        put(tmp_path / "both", file, PLAIN | {"eos_token": "<s>"}, special_tokens_map=end)
    )
    assert ours.eos_id == theirs.eos_token_id == 2  # the older file wins
    listed = {"added_tokens_decoder": {"2": {"content": "</s>", "special": True}}}
    put(tmp_path / "listed", file, PLAIN | {"eos_token": "<s>"} | listed, special_tokens_map=end)
    ours, theirs = same(tmp_path / "listed")
    assert ours.eos_id == theirs.eos_token_id == 1  # unless the newer lists tokens
    ours = Tokenizer.load(
        put(
            tmp_path / "generation",
            file,
            PLAIN,
            generation_config={"eos_token_id": [7, 2]},
            config={"eos_token_id": 5},
        )
    )
    assert (ours.eos_id, ours.ends) == (7, {7, 2})
    ours = Tokenizer.load(put(tmp_path / "model", file, PLAIN | NAMES, config={"eos_token_id": 5}))
    assert (ours.eos_id, ours.ends) == (2, {2, 5})


def wrong(**fields):
    return {"tokenizer_config": PLAIN | NAMES | fields}


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"tokenizer_config": []}, "cannot be read"),
        ({"tokenizer_config": "x"}, "cannot be read"),
        ({"special_tokens_map": []}, "cannot be read"),
        ({"generation_config": 3}, "cannot be read"),
        (wrong(eos_token=3), "eos_token"),
        (wrong(eos_token=["</s>"]), "eos_token"),
        (wrong(bos_token={"text": "a"}), "bos_token"),
        (wrong(eos_token="<|no|>"), "does not have"),
        (wrong(bos_token={"content": "<|no|>", "__type": "AddedToken"}), "does not have"),
        (
            wrong(added_tokens_decoder={"2": {"content": "</s>"}, "9": {"content": "<|new|>"}}),
            "differently",
        ),
        (wrong(added_tokens_decoder={"1": {"content": "</s>"}}), "differently"),
        (wrong(added_tokens_decoder=[]), "added_tokens_decoder"),
        (wrong(added_tokens_decoder={"x": {"content": "a"}}), "decoder"),
        (wrong(added_tokens_decoder={"2": "</s>"}), "added_tokens_decoder"),
        (wrong(tokenizer_class="GemmaTokenizer"), "class is not known"),
        ({"generation_config": {"eos_token_id": "2"}}, "eos_token_id"),
        ({"config": {"eos_token_id": [True]}}, "eos_token_id"),
    ],
)
def test_what_is_not_applied_exactly_is_refused(tmp_path, made, files, says):
    put(tmp_path, made["byte level added"])
    for name, value in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(value))
    with pytest.raises(UserError, match=says):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize(
    "data",
    [
        "[]",
        "{}",
        '{"model": 3}',
        '{"model": {"type": "BPE", "vocab": {}, "merges": []}}',
        "",
        "\xff",
    ],
)
def test_a_damaged_file_is_refused(tmp_path, data):
    (tmp_path / "tokenizer.json").write_bytes(data.encode("latin-1"))
    with pytest.raises(UserError):
        Tokenizer.load(tmp_path)


def test_a_text_without_tokens_and_merges_at_random_are_refused(tmp_path, made):
    file = File(models.WordLevel({"a": 0, "</s>": 1}, unk_token="none"))
    put(tmp_path, file, PLAIN | {"eos_token": "</s>"})
    ours = Tokenizer.load(tmp_path)
    for encode in (
        lambda t: ours.encode(t, special_tokens=True),
        lambda t: list(ours.encode_documents([t])),
    ):
        assert encode("a")
        with pytest.raises(UserError):
            encode("b")
    with pytest.raises(UserError, match="Unicode"):
        ours.encode("\ud83d", special_tokens=True)
    data = json.loads(made["byte level added"].to_str())
    data["model"]["dropout"] = 0.1
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    with pytest.raises(UserError, match="at random"):
        Tokenizer.load(tmp_path)


def test_the_fingerprint_sees_what_changes_ids(tmp_path, made):
    file, config = made["llama2 added"], CONFIGS["llama"]
    seen = [
        CONFIGS[c]
        for c in ("plain", "llama", "llama, legacy", "llama, no prefix", "padding token", "split")
    ]
    prints = [
        Tokenizer.load(put(tmp_path / str(i), file, c)).fingerprint for i, c in enumerate(seen)
    ]
    assert len(set(prints)) == len(seen)
    assert (
        Tokenizer.load(put(tmp_path / "x", file, config | {"model_max_length": 3})).fingerprint
        == prints[1]
    )


def test_a_vocabulary_larger_than_the_models_is_refused_by_name(tmp_path, made, checkpoint, capsys):
    from helpers import run

    config = json.loads((checkpoint / "tokenizer_config.json").read_text())
    (checkpoint / "tokenizer_config.json").write_text(
        json.dumps(config | {"extra_special_tokens": ["[PAD]"]})
    )
    run("generate", checkpoint, "It was", "--device", "cpu", code=2)
    assert "[PAD]" in capsys.readouterr().err


def test_llama_3s_split_is_read(tmp_path):
    file = KINDS["byte level"]()
    pattern = (
        r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
        r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    file.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    same(
        put(
            tmp_path,
            file,
            {"tokenizer_class": "LlamaTokenizer", **NAMES},
            config={"model_type": "llama"},
        )
    )


def test_only_the_tokenizers_own_files_are_copied(tmp_path, made):
    put(tmp_path / "a", made["byte level added"], special_tokens_map=NAMES)
    for name in ("tokenizer.py", "tokenizer.pkl", "vocab.zip", "tokenizer.secret"):
        (tmp_path / "a" / name).write_text("no")
    (tmp_path / "b").mkdir()
    Tokenizer.load(tmp_path / "a").copy_to(tmp_path / "b")
    copied = ["special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"]
    assert sorted(p.name for p in (tmp_path / "b").iterdir()) == copied
