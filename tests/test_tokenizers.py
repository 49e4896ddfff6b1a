"""What the tokens of a text are. Oracles: transformers, and whole-document encoding by
``tokenizers``.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from texts_on_disk import DOCUMENTS

from minipuzzle import embedded
from minipuzzle.data import Tokenizer, read_documents, train_tokenizer
from minipuzzle.errors import UserError


@pytest.fixture(scope="module")
def own() -> Tokenizer:
    return Tokenizer.load(embedded.teacher_path())


def test_transformers_reads_the_embedded_tokenizer_and_agrees(own: Tokenizer) -> None:
    theirs = pytest.importorskip("transformers").AutoTokenizer.from_pretrained(
        embedded.teacher_path()
    )
    address = next(read_documents(embedded.text_path("validation") / "speeches.txt.bz2"))[:20_000]
    documents = [*DOCUMENTS, address, "def f(x):\n    return x\n"]
    for document, tokens in zip(documents, own.encode_documents(documents), strict=True):
        assert tokens.tolist() == theirs(document, add_special_tokens=False)["input_ids"] + [
            theirs.eos_token_id
        ]
        assert own.decode(tokens[:-1]) == document
    assert (own.vocab_size, own.eos_id) == (len(theirs), theirs.eos_token_id) == (4096, 0)
    assert (theirs.pad_token_id, theirs.model_max_length) == (1, 2048)


@given(st.text(max_size=200))
@settings(max_examples=50, deadline=None)
def test_bytes_survive_the_round_trip(own: Tokenizer, text: str) -> None:
    (tokens,) = own.encode_documents([text])
    assert own.decode(tokens[:-1]) == text


@pytest.mark.parametrize(
    "how",
    ["byte level", "lines with punctuation", "leading mark on words", "leading mark on texts"],
)
def test_long_documents_are_encoded_in_pieces_with_the_tokens_of_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    import tokenizers
    from tokenizers import pre_tokenizers, trainers

    line = tokenizers.Regex(r"[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s?[\p{L}\p{N}]+|\s+")
    splitter = {
        "byte level": pre_tokenizers.ByteLevel(add_prefix_space=False),
        "lines with punctuation": pre_tokenizers.Split(line, "isolated"),
        "leading mark on words": pre_tokenizers.Metaspace(),
        "leading mark on texts": pre_tokenizers.Split(line, "isolated"),
    }[how]
    text = (
        next(read_documents(embedded.text_path("validation") / "speeches.txt.bz2"))[:30_000]
        + "\n\n  x = 1;\n\n\n" * 50
    )
    whole = tokenizers.Tokenizer(tokenizers.models.BPE())
    whole.pre_tokenizer = splitter
    if how == "leading mark on texts":
        whole.normalizer = tokenizers.normalizers.Prepend("_")
    whole.train_from_iterator(
        [text], trainers.BpeTrainer(vocab_size=500, special_tokens=["</s>"], show_progress=False)
    )
    whole.save(str(tmp_path / "tokenizer.json"))
    monkeypatch.setattr("minipuzzle.data.tokenizer.PIECE", 1000)
    monkeypatch.setattr("minipuzzle.data.tokenizer.CHARACTERS_AT_ONCE", 3000)
    loaded = Tokenizer.load(tmp_path)
    assert (len(list(loaded._pieces(text))) > 20) == (how != "leading mark on texts")
    got = [tokens.tolist() for tokens in loaded.encode_documents([text, "", "short", text[5:]])]
    assert got == [[*whole.encode(d).ids, 0] for d in (text, "", "short", text[5:])]


def test_truncation_and_padding_in_the_file_do_not_touch_the_text(
    tmp_path: Path, own: Tokenizer
) -> None:
    import tokenizers

    shutil.copy(embedded.teacher_path() / "tokenizer_config.json", tmp_path)
    file = tokenizers.Tokenizer.from_file(str(embedded.teacher_path() / "tokenizer.json"))
    file.enable_truncation(4)
    file.enable_padding(pad_id=1, pad_token="<|pad|>")
    file.save(str(tmp_path / "tokenizer.json"))
    texts = ["one two three four five six seven", "a"]
    got, expected = (list(t.encode_documents(texts)) for t in (Tokenizer.load(tmp_path), own))
    assert [t.tolist() for t in got] == [t.tolist() for t in expected]


def test_a_trained_tokenizer_has_its_end_and_padding_first(tmp_path: Path) -> None:
    made = train_tokenizer(DOCUMENTS * 5, 280)
    made.save(str(tmp_path / "tokenizer.json"))
    loaded = Tokenizer.load(tmp_path)
    assert (made.token_to_id("<|endoftext|>"), made.token_to_id("<|pad|>"), loaded.eos_id) == (
        0,
        1,
        0,
    )
    assert loaded.vocab_size == made.get_vocab_size() == 280
    assert (
        loaded.fingerprint
        == hashlib.sha256((tmp_path / "tokenizer.json").read_bytes()).hexdigest()[:16]
    )


def test_a_missing_broken_or_endless_tokenizer_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no tokenizer"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        Tokenizer.load(tmp_path)
    import tokenizers

    tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0}, [])).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UserError, match="end-of-document"):
        Tokenizer.load(tmp_path)
