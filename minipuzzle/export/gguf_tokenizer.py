"""A byte-level BPE tokenizer.json as GGUF has it: words, their kinds, merges, and the name of how
text is split first.

llama.cpp knows ways to split text by name only, so a tokenizer.json whose way is not one of SPLITS
is refused. Source: llama.cpp, src/llama-vocab.cpp (LLAMA_VOCAB_PRE_TYPE_*), convert_hf_to_gguf.py
(get_vocab_base_pre).
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

from minipuzzle.checkpoint import Checkpoint
from minipuzzle.data import Tokenizer
from minipuzzle.data.chat_template import DEFAULT, read_templates
from minipuzzle.errors import UserError

_CONTRACTED = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]*[{_LOWER}]+|[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]+[{_LOWER}]*|\p{{N}}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_MARKED = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}|"
    r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPLITS: dict[tuple[Any, ...], str] = {
    ("bytes, GPT-2's pattern",): "gpt-2",
    ("each digit", "bytes, GPT-2's pattern"): "smollm",
    (_CONTRACTED + r"\p{N}{1,3}" + _REST, "bytes"): "llama-bpe",
    (_CONTRACTED + r"\p{N}" + _REST, "bytes"): "qwen2",
    (_MARKED, "bytes"): "qwen35",
    (_TEKKEN, "bytes"): "tekken",
}
WHOLE_WORDS_FIRST = ("llama-bpe", "tekken")
"""llama.cpp takes a word that is in the vocabulary whole, whatever the merges say, for these
(``ignore_merges``).
"""


def add_tokenizer(library: ModuleType, writer: Any, checkpoint: Checkpoint) -> list[str]:
    """Write the checkpoint's tokenizer; returns sentences on what differs.

    Raises: UserError without a tokenizer.json (llama.cpp's server aborts on a file without tokens),
    and as ``described``.
    """
    if not checkpoint.has_tokenizer:
        raise UserError(
            "A GGUF file holds the tokenizer too, and this checkpoint has none.",
            got=checkpoint.path,
            allowed="a folder with a tokenizer.json",
            next="Copy the model's tokenizer.json into it.",
        )
    tokenizer = Tokenizer.load(checkpoint.path)
    split, data = described(tokenizer)
    words, kinds = _words(library, data, checkpoint.architecture.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(split)
    writer.add_token_list(words)
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(pair) for pair in data["model"]["merges"]])
    template = _chat_template(checkpoint.path)
    if template is not None:
        writer.add_chat_template(template)
    notes = _add_special(writer, tokenizer)
    if data.get("normalizer") is not None:
        notes.append(
            "the tokenizer composes characters (NFC) and llama.cpp does not: give it composed text"
        )
    return notes


def described(tokenizer: Tokenizer) -> tuple[str, dict[str, Any]]:
    """(llama.cpp's name for how text is split, tokenizer.json with everything applied) of what GGUF
    can describe.

    Raises: UserError for another kind than byte-level BPE, a split that llama.cpp has no name for,
    tokens that take white space along or a part of a word only, and tokens around a text that are
    not one first BOS and one last EOS.
    """
    data = tokenizer.as_json()
    split = split_name(data)
    model = data["model"]
    bytes_there = set(_byte_alphabet()) <= set(model["vocab"])
    odd = [
        t["content"] for t in data["added_tokens"] if t["lstrip"] or t["rstrip"] or t["single_word"]
    ]
    begins, ends = tokenizer.around()
    faults = {
        f"words that end with {model.get('end_of_word_suffix')}": bool(
            model.get("end_of_word_suffix")
        ),
        "a vocabulary without all bytes": not bytes_there,
        f"tokens that take white space along or need whole words: {', '.join(odd[:3])}": bool(odd),
        "special tokens split in text (split_special_tokens)": tokenizer.splits_special,
        f"tokens {begins} before and {ends} behind a text": (
            begins not in ([], [tokenizer.bos_id]) or ends not in ([], [tokenizer.eos_id])
        ),
    }
    found = [fault for fault, there in faults.items() if there]
    if found:
        raise UserError(
            "GGUF cannot say what this tokenizer does.",
            got="; ".join(found),
            allowed=(
                "byte-level BPE whose added tokens are plain, with at most a first BOS and a"
                " last EOS"
            ),
            next="Take another engine: minipuzzle export CHECKPOINT lists them.",
        )
    return split, data


def split_name(tokenizer: dict[str, Any]) -> str:
    """llama.cpp's name for how a tokenizer.json splits text before merging. Raises: UserError where
    it has none.
    """
    model, steps = tokenizer["model"], tokenizer.get("pre_tokenizer") or {}
    byte_level = (
        model.get("type") == "BPE"
        and not model.get("byte_fallback")
        and not model.get("continuing_subword_prefix")
    )
    found = tuple(_step(s) for s in steps.get("pretokenizers") or [steps])
    name = SPLITS.get(found) if byte_level else None
    normalizer = (tokenizer.get("normalizer") or {}).get("type", "NFC")
    if (
        name is None
        or normalizer != "NFC"
        or bool(model.get("ignore_merges")) != (name in WHOLE_WORDS_FIRST)
    ):
        got = (
            f"{model.get('type')}, normalizer {normalizer}, ignore_merges"
            f" {model.get('ignore_merges')}, splits {list(found)}"
        )
        raise UserError(
            "llama.cpp has no name for the way this tokenizer.json splits text.",
            got=got,
            allowed="byte-level BPE split as " + ", ".join(SPLITS.values()),
            next="Take another engine: minipuzzle export CHECKPOINT lists them.",
        )
    return name


def _step(step: dict[str, Any]) -> Any:
    """A step of pre-tokenization in the words of SPLITS."""
    if step.get("type") == "ByteLevel" and not step.get("add_prefix_space"):
        return "bytes, GPT-2's pattern" if step.get("use_regex", True) else "bytes"
    if step.get("type") == "Digits" and step.get("individual_digits"):
        return "each digit"
    if (
        step.get("type") == "Split"
        and step.get("behavior") == "Isolated"
        and not step.get("invert")
    ):
        return step["pattern"].get("Regex", step["pattern"])
    return step.get("type", "nothing")


def _byte_alphabet() -> list[str]:
    from tokenizers.pre_tokenizers import ByteLevel

    return list(ByteLevel.alphabet())


def _words(
    library: ModuleType, tokenizer: dict[str, Any], vocab_size: int
) -> tuple[list[str], list[Any]]:
    """Every word by number and its kind; numbers that the model has and the tokenizer has not are
    unused.
    """
    kinds = library.TokenType
    named = {number: (word, kinds.NORMAL) for word, number in tokenizer["model"]["vocab"].items()}
    for added in tokenizer["added_tokens"]:
        named[added["id"]] = (
            added["content"],
            kinds.CONTROL if added["special"] else kinds.USER_DEFINED,
        )
    if max(named) >= vocab_size:
        raise UserError(
            "The tokenizer has tokens that the model has no embedding for.",
            got=f"token {max(named)}",
            allowed=f"numbers below {vocab_size}",
            next="Take the model's own tokenizer.json.",
        )
    taken = {word for word, _ in named.values()}
    if len(taken) != len(named):  # llama.cpp aborts
        raise UserError(
            "The tokenizer has a token under two numbers.",
            got=f"{len(named) - len(taken)} of them",
            allowed="tokens that differ",
            next="Take the model's own tokenizer.json.",
        )
    for number in set(range(vocab_size)) - set(named):
        word = f"[PAD{number}]"
        while word in taken:
            word += "_"
        named[number] = (word, kinds.UNUSED)
    return [named[i][0] for i in range(vocab_size)], [named[i][1] for i in range(vocab_size)]


def _add_special(writer: Any, tokenizer: Tokenizer) -> list[str]:
    """Write the numbers of the special tokens; without them llama.cpp takes 11 for both ends."""
    add = {
        "bos_token": writer.add_bos_token_id,
        "pad_token": writer.add_pad_token_id,
        "unk_token": writer.add_unk_token_id,
    }
    for name, write in add.items():
        if name in tokenizer.names:
            write(tokenizer.vocabulary[tokenizer.names[name]])
    writer.add_eos_token_id(tokenizer.eos_id)
    begins, ends = tokenizer.around()
    writer.add_add_bos_token(bool(begins))
    writer.add_add_eos_token(bool(ends))
    others = sorted(tokenizer.ends - {tokenizer.eos_id})
    if others:
        writer.add_eot_token_id(others[0])
    if others[1:]:
        return [f"generation also ends at the tokens {others[1:]}, for which GGUF has no place"]
    return []


def _chat_template(folder: Path) -> str | list[dict[str, str]] | None:
    """A text, or several by name; None where the checkpoint has none."""
    found = read_templates(folder)
    if list(found) == [DEFAULT]:
        return found[DEFAULT]
    return [{"name": name, "template": text} for name, text in found.items()] or None
