"""A byte-level BPE tokenizer.json as GGUF has it: words, their kinds, merges, and the name of how text is split first.

llama.cpp knows ways to split text by name only, so a tokenizer.json whose way is not one of SPLITS is refused.
Source: llama.cpp, src/llama-vocab.cpp (LLAMA_VOCAB_PRE_TYPE_*), convert_hf_to_gguf.py (get_vocab_base_pre).
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from minipuzzle.artifacts import read_json
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.errors import UserError

_CONTRACTED = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
_TEKKEN = (rf"[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]*[{_LOWER}]+|[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]+[{_LOWER}]*|\p{{N}}|"
           r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")  # fmt: skip
SPLITS: dict[tuple[Any, ...], str] = {
    ("bytes, GPT-2's pattern",): "gpt-2",
    ("each digit", "bytes, GPT-2's pattern"): "smollm",
    (_CONTRACTED + r"\p{N}{1,3}" + _REST, "bytes"): "llama-bpe",
    (_CONTRACTED + r"\p{N}" + _REST, "bytes"): "qwen2",
    (_TEKKEN, "bytes"): "tekken",
}
WHOLE_WORDS_FIRST = ("llama-bpe", "tekken")
"""llama.cpp takes a word that is in the vocabulary whole, whatever the merges say, for these (``ignore_merges``)."""


def add_tokenizer(library: ModuleType, writer: Any, checkpoint: Checkpoint) -> list[str]:
    """Write the checkpoint's tokenizer; returns sentences on what differs.

    Raises: UserError without a tokenizer.json (llama.cpp's server aborts on a file without words), for another kind than
    byte-level BPE and for a split that llama.cpp has no name for.
    """
    if not checkpoint.has_tokenizer:
        raise UserError("A GGUF file holds the words too, and this checkpoint has no tokenizer.", got=checkpoint.path,
                        allowed="a folder with a tokenizer.json", next="Copy the model's tokenizer.json into it.")  # fmt: skip
    tokenizer = read_json(checkpoint.path / "tokenizer.json")
    split = split_name(tokenizer)
    words, kinds = _words(library, tokenizer, checkpoint.architecture.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(split)
    writer.add_token_list(words)
    writer.add_token_types(kinds)
    merges = tokenizer["model"]["merges"]
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    return _add_special(writer, checkpoint, tokenizer)


def split_name(tokenizer: dict[str, Any]) -> str:
    """llama.cpp's name for how a tokenizer.json splits text before merging. Raises: UserError where it has none."""
    model, steps = tokenizer["model"], tokenizer.get("pre_tokenizer") or {}
    byte_level = model.get("type") == "BPE" and not model.get("byte_fallback") and not model.get("continuing_subword_prefix")
    found = tuple(_step(s) for s in (steps.get("pretokenizers") or [steps]))
    name = SPLITS.get(found) if byte_level else None
    normalizer = (tokenizer.get("normalizer") or {}).get("type", "NFC")
    if name is None or normalizer != "NFC" or bool(model.get("ignore_merges")) != (name in WHOLE_WORDS_FIRST):
        got = f"{model.get('type')}, normalizer {normalizer}, ignore_merges {model.get('ignore_merges')}, splits {list(found)}"
        raise UserError("llama.cpp has no name for the way this tokenizer.json splits text.", got=got,
                        allowed="byte-level BPE split as " + ", ".join(SPLITS.values()),
                        next="Take another engine: minipuzzle export CHECKPOINT lists them.")  # fmt: skip
    return name


def _step(step: dict[str, Any]) -> Any:
    """A step of pre-tokenization in the words of SPLITS."""
    if step.get("type") == "ByteLevel" and not step.get("add_prefix_space"):
        return "bytes, GPT-2's pattern" if step.get("use_regex", True) else "bytes"
    if step.get("type") == "Digits" and step.get("individual_digits"):
        return "each digit"
    if step.get("type") == "Split" and step.get("behavior") == "Isolated" and not step.get("invert"):
        return step["pattern"].get("Regex", step["pattern"])
    return step.get("type", "nothing")


def _words(library: ModuleType, tokenizer: dict[str, Any], vocab_size: int) -> tuple[list[str], list[Any]]:
    """Every word by number and its kind; numbers that the model has and the tokenizer has not are unused."""
    kinds = library.TokenType
    words = [f"[PAD{i}]" for i in range(vocab_size)]
    types = [kinds.UNUSED] * vocab_size
    named = {number: (word, kinds.NORMAL) for word, number in tokenizer["model"]["vocab"].items()}
    for added in tokenizer.get("added_tokens") or []:
        named[added["id"]] = (added["content"], kinds.CONTROL if added.get("special") else kinds.USER_DEFINED)
    if max(named) >= vocab_size:
        raise UserError("The tokenizer has words that the model has no embedding for.", got=f"word number {max(named)}",
                        allowed=f"numbers below {vocab_size}", next="Take the model's own tokenizer.json.")  # fmt: skip
    for number, (word, kind) in named.items():
        words[number], types[number] = word, kind
    return words, types


def _add_special(writer: Any, checkpoint: Checkpoint, tokenizer: dict[str, Any]) -> list[str]:
    file = checkpoint.path / "tokenizer_config.json"
    config: dict[str, Any] = read_json(file) if file.is_file() else {}
    numbers = tokenizer["model"]["vocab"] | {a["content"]: a["id"] for a in tokenizer.get("added_tokens") or []}
    add = {"bos": writer.add_bos_token_id, "eos": writer.add_eos_token_id, "pad": writer.add_pad_token_id,
           "unk": writer.add_unk_token_id}  # fmt: skip
    for name, write in add.items():
        word = config.get(f"{name}_token")
        word = word.get("content") if isinstance(word, dict) else word
        number = numbers.get(word, checkpoint.config.get(f"{name}_token_id"))
        if isinstance(number, int):
            write(number)
    writer.add_add_bos_token(_begins_with_bos(checkpoint))
    if config.get("chat_template"):
        writer.add_chat_template(config["chat_template"])
    elif (checkpoint.path / "chat_template.jinja").is_file():
        writer.add_chat_template((checkpoint.path / "chat_template.jinja").read_text())
    if (tokenizer.get("normalizer") or {}).get("type") == "NFC":
        return ["the tokenizer composes characters (NFC) and llama.cpp does not: give it composed text"]
    return []


def _begins_with_bos(checkpoint: Checkpoint) -> bool:
    from tokenizers import Tokenizer

    whole = Tokenizer.from_file(str(checkpoint.path / "tokenizer.json"))
    return len(whole.encode("a").ids) > len(whole.encode("a", add_special_tokens=False).ids)
