"""What a GGUF file says of a tokenizer. Oracle: llama.cpp's own tokens of the file; what it cannot
say is refused.
"""

import json

import gguf
import pytest
from conftest import save, shaken, tiny
from llama_cpp_server import LlamaCpp
from tokenizer_kinds import CORPUS, KINDS, NAMES, bytelevel, put
from tokenizers import AddedToken, processors

from minipuzzle.checkpoint import Checkpoint
from minipuzzle.data import Tokenizer
from minipuzzle.errors import UserError
from minipuzzle.export.gguf import export_gguf
from minipuzzle.export.gguf_tokenizer import _chat_template, described

PLAIN = {"tokenizer_class": "PreTrainedTokenizerFast", **NAMES}


def around(single):
    made = bytelevel(False)
    tokens = [(name, made.token_to_id(name)) for name in ("<s>", "</s>", "<unk>") if name in single]
    made.post_processor = processors.TemplateProcessing(single=single, special_tokens=tokens)
    return made


def with_token(**fields):
    made = bytelevel()
    made.add_tokens([AddedToken("<think>", **fields)])
    return made


def edited(**fields):
    def edit(data):
        data["model"].update(fields)

    return edit


def without_a_byte(data):
    data["model"]["vocab"].pop("Ā")


REFUSED = {
    "white space on the left": (with_token(lstrip=True), {}, "white space"),
    "white space on the right": (with_token(rstrip=True), {}, "white space"),
    "whole words": (with_token(single_word=True), {}, "whole words"),
    "another first token": (around("<unk> $A"), {}, "before"),
    "two first tokens": (around("<s> <unk> $A"), {}, "before"),
    "another last token": (around("$A <unk>"), {}, "behind"),
    "first token without a name": (bytelevel(), {"bos_token": None}, "before"),
    "split": (bytelevel(), {"split_special_tokens": True}, "split_special_tokens"),
    "a prefix for the class": (
        bytelevel(),
        {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": True},
        "splits",
    ),
    "a prefix in the file": (bytelevel(prefix=True), {}, "splits"),
    "bytes for what is unknown": (KINDS["llama2"](), {}, "splits"),
    "no BPE": (KINDS["unigram always"](), {}, "splits"),
    "ends of words": (edited(end_of_word_suffix="</w>"), {}, "words that end"),
    "merges ignored": (edited(ignore_merges=True), {}, "splits"),
    "a byte missing": (without_a_byte, {}, "all bytes"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_gguf_cannot_say_is_refused(tmp_path, what):
    made, config, says = REFUSED[what]
    put(tmp_path, bytelevel() if callable(made) else made, PLAIN | config)
    if callable(made):
        data = json.loads((tmp_path / "tokenizer.json").read_text())
        made(data)
        (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    with pytest.raises(UserError) as caught:
        described(Tokenizer.load(tmp_path))
    assert says in caught.value.what + caught.value.got


def exported(folder, made, config, **files):
    """(the checkpoint's tokenizer, its GGUF file, its fields) of a tiny model with a tokenizer."""
    path = save(shaken(tiny("M*-")), folder / "model", tokenizer=False)
    put(path, made, config, **files)
    file = folder / "model.gguf"
    export_gguf(Checkpoint.open(path), file, dtype="f32")
    return Tokenizer.load(path), file, gguf.GGUFReader(file).fields


def test_llama_cpp_reads_ends_and_added_tokens_as_they_are(tmp_path):
    made = around("<s> $A </s>")
    made.add_tokens(
        [
            AddedToken("<think>", normalized=False),
            AddedToken("   ", normalized=False),
            AddedToken("[PAD4000]"),
        ]
    )
    config = PLAIN | {"extra_special_tokens": ["<|call|>"], "pad_token": "<|pad|>"}
    ours, file, fields = exported(
        tmp_path, made, config, generation_config={"eos_token_id": [2, 7]}
    )

    def field(name):
        return fields[f"tokenizer.ggml.{name}"].contents()

    numbers = [field(f"{name}_token_id") for name in ("bos", "eos", "unknown", "padding", "eot")]
    assert numbers == [1, 2, 0, ours.vocabulary["<|pad|>"], 7]
    assert (field("add_bos_token"), field("add_eos_token")) == (True, True)
    texts = [
        *CORPUS[:5],
        "a <think>b</think>",
        "x    y",
        "<|call|> me </s> now",
        "[PAD4000] [PAD4001]",
        "<|pad|>",
    ]
    with LlamaCpp(file) as server:
        for text in texts:
            assert server.tokenize(text, special=True) == ours.encode(text, special_tokens=True), (
                text
            )


def test_ends_are_never_left_to_llama_cpp(tmp_path):
    """It takes token 11 for both where the file says nothing."""
    names = {"tokenizer_class": "PreTrainedTokenizerFast"}
    _, _, fields = exported(
        tmp_path, bytelevel(False), names, special_tokens_map={"eos_token": "</s>"}
    )
    assert fields["tokenizer.ggml.eos_token_id"].contents() == 2
    assert (
        fields["tokenizer.ggml.add_bos_token"].contents(),
        fields["tokenizer.ggml.add_eos_token"].contents(),
    ) == (False, False)


def test_a_chat_template_is_the_one_that_transformers_takes(tmp_path):
    def given(template, file=None):
        put(tmp_path, bytelevel(), PLAIN | {"chat_template": template})
        (tmp_path / "chat_template.jinja").unlink(missing_ok=True)
        if file is not None:
            (tmp_path / "chat_template.jinja").write_bytes(file)
        return _chat_template(tmp_path)

    assert given("config") == "config"
    assert given("config", b"file") == "file"
    assert given(None) is None
    assert given({"default": "a", "tools": "b"}) == [
        {"name": "default", "template": "a"},
        {"name": "tools", "template": "b"},
    ]
    for template, file in ((3, None), ([3], None), ([{"name": "x"}], None), ("a", b"\xff")):
        with pytest.raises(UserError, match=r"cannot be read|does not hold what it should"):
            given(template, file)
