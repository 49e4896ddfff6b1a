"""`generate` shows text as it comes. Oracle: transformers' decode of prompt and answer together."""

import random

import pytest
from tokenizer_kinds import KINDS, NAMES, put
from transformers import AutoTokenizer

from minipuzzle.data import Tokenizer
from minipuzzle.runs.generate import KEPT, Text

PROMPTS = ["", "The quick", "def f(x):\n    ", "naïve 天", "a\n"]
PUNCTUATION = ["'", "n", "t", ".", "s", "m", "'ve", "?", "!", ","]


@pytest.fixture(scope="module", params=[*KINDS, "wordpiece, cleaned", "unigram, cleaned"])
def both(request, tmp_path_factory):
    """(minipuzzle's tokenizer, transformers') of one kind."""
    kind = request.param
    names = {"tokenizer_class": "PreTrainedTokenizerFast", **NAMES}
    if kind.endswith("cleaned"):
        kind = {"wordpiece": "wordpiece, spaced", "unigram": "unigram always"}[
            kind.removesuffix(", cleaned")
        ]
        names["clean_up_tokenization_spaces"] = True
    folder = put(tmp_path_factory.mktemp("tokenizer"), KINDS[kind](), names)
    return Tokenizer.load(folder), AutoTokenizer.from_pretrained(folder)


def answers(ours, rng):
    """Ids as a model may write them: anything, runs of bytes, of white space, text with a special
    token in it.
    """
    size = ours.vocab_size
    texts = [
        "The quick brown fox\n\n    isn't it",
        "天地玄黃 👩‍👧 é",
        "    return x + 1\n\n\n",
        "</s> a <unk>b<s>",
    ]
    bytewise = [n for t, n in ours.vocabulary.items() if len(t) == 1 or t.startswith("<0x")]
    spaces = [n for t, n in ours.vocabulary.items() if not t.strip("▁Ġ ")] or [0]
    marks = [n for t, n in ours.vocabulary.items() if t.strip("▁Ġ ") in PUNCTUATION] or [0]
    for text in texts:
        yield ours.encode(text, special_tokens=False)
    for pool in (range(size), bytewise, spaces, marks):
        for length in (1, 5, 40, 3 * KEPT):
            yield [rng.choice(pool) for _ in range(length)]
    yield [rng.choice(rng.choice([range(size), bytewise, spaces, marks])) for _ in range(9 * KEPT)]


def test_pieces_are_the_text_of_prompt_and_answer_without_the_prompts(both):
    ours, theirs = both
    rng = random.Random(0)
    for prompt in [*PROMPTS, "The quick brown fox. " * 60]:
        begun = ours.encode(prompt, special_tokens=True) or [ours.bos_id]
        for answer in answers(ours, rng):
            text = Text(ours, begun)
            got = "".join([text.add(token) for token in answer]) + text.rest()
            whole = theirs.decode(begun + answer)
            assert got == whole[len(theirs.decode(begun)) :], (prompt, answer)


def test_pieces_come_soon_and_cost_no_more_as_the_text_grows(both, monkeypatch):
    ours, theirs = both
    answer = ours.encode("The quick brown fox jumps over the lazy dog. " * 20, special_tokens=False)
    decoded = []
    whole = Tokenizer.decode
    monkeypatch.setattr(
        Tokenizer, "decode", lambda self, ids: decoded.append(len(ids)) or whole(self, ids)
    )
    text = Text(ours, [ours.bos_id])
    shown = 0
    for number, token in enumerate(answer[:-1], start=1):
        shown += len(text.add(token))
        if number % 16 == 0:
            late = len(theirs.decode(answer[:number])) - shown
            assert late <= (40 if ours.cleans else 12)
    assert ours.cleans or max(decoded) <= 2 * KEPT + 1
