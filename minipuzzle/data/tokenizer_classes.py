"""What transformers 5 builds anew for a tokenizer class, from a tokenizer.json's vocabulary, merges
and post-processor; everything else in the file is not read for these.

Source: transformers 5.23, models/{llama,qwen2,qwen3_5,gpt2,gpt_neox}/tokenization_*.py.
"""

from __future__ import annotations

from typing import Any

_END = "<|endoftext|>"
REBUILT: dict[str, dict[str, Any]] = {
    "LlamaTokenizer": {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"},
    "Qwen2Tokenizer": {"unk_token": _END, "eos_token": _END, "pad_token": _END},
    "Qwen3_5Tokenizer": {"unk_token": _END, "eos_token": _END, "pad_token": _END},
    "GPT2Tokenizer": {"unk_token": _END, "bos_token": _END, "eos_token": _END},
    "GPTNeoXTokenizer": {
        "unk_token": _END,
        "bos_token": _END,
        "eos_token": _END,
        "pad_token": "<|padding|>",
    },
}
"""Classes, with the special tokens that they have where no file names another."""

REFUSED = frozenset(
    f"{name}Tokenizer"
    for name in (
        "Albert",
        "Bart",
        "Barthez",
        "Bert",
        "BertGeneration",
        "BigBird",
        "Blenderbot",
        "Camembert",
        "CLIP",
        "CodeLlama",
        "Cohere",
        "Deberta",
        "DebertaV2",
        "Esmc",
        "FNet",
        "Funnel",
        "Gemma",
        "Herbert",
        "Lasr",
        "LayoutLM",
        "LayoutLMv2",
        "LayoutLMv3",
        "LayoutXLM",
        "LED",
        "Lxmert",
        "MarkupLM",
        "MBart",
        "MBart50",
        "MPNet",
        "Mvp",
        "Nllb",
        "Nougat",
        "OpenAIGPT",
        "Parakeet",
        "Pegasus",
        "PLBart",
        "Reformer",
        "RemBert",
        "Roberta",
        "RoFormer",
        "SeamlessM4T",
        "Siglip2",
        "Splinter",
        "T5",
        "Udop",
        "Whisper",
        "XGLM",
        "XLMRoberta",
        "XLNet",
    )
)
"""Classes that transformers rebuilds too, of kinds of models that are not read here."""

_QWEN = {
    "Qwen2Tokenizer": (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
    # marks belong to the letters that they follow
    "Qwen3_5Tokenizer": (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
        r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
}


def rebuild(name: str, data: dict[str, Any], file: Any, config: dict[str, Any]) -> Any:
    """A ``tokenizers.Tokenizer`` of the class: ``data`` is tokenizer.json, ``file`` the tokenizer
    that it makes, ``config`` tokenizer_config.json.
    """
    from tokenizers import (
        Regex,
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
    )

    vocabulary = data["model"]["vocab"]
    merges = [tuple(m.split(" ") if isinstance(m, str) else m) for m in data["model"]["merges"]]
    options: dict[str, Any] = {
        "continuing_subword_prefix": "",
        "end_of_word_suffix": "",
        "fuse_unk": False,
    }
    if name == "LlamaTokenizer":
        options = {"fuse_unk": True, "byte_fallback": True}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, dropout=None, **options))
    prefix = config.get("add_prefix_space")
    if name == "LlamaTokenizer":
        prefix = True if prefix is None else bool(prefix)
        scheme = "never" if not prefix else "always" if config.get("legacy") else "first"
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
        steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        made.decoder = decoders.Sequence(steps + ([decoders.Strip(" ", 1, 0)] if prefix else []))
    else:
        prefix = bool(prefix)
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
        made.decoder = decoders.ByteLevel()
    if name in (*_QWEN, "GPTNeoXTokenizer"):
        made.normalizer = normalizers.NFC()
    if name in _QWEN:
        made.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_QWEN[name]), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=False),
            ]
        )
    if file.post_processor is not None and name != "GPTNeoXTokenizer":
        made.post_processor = file.post_processor
    else:  # no token around a text
        made.post_processor = processors.TemplateProcessing(single="$A:0", special_tokens=[])
    return made
