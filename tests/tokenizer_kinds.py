"""Tokenizers of the kinds that checkpoints have, trained on a few lines by ``tokenizers``."""

import json

from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

CORPUS = [
    "The quick brown fox jumps over the lazy dog.",
    "def f(x):\n    return x + 1\n\n    # a comment\n",
    "Fellow citizens, it was a dark night; isn't it so? I'm not sure we've seen it!",
    "naïve café résumé — ünïcode 天地 👩‍👧",
    "Question: what is two and two? Answer: four",
] * 20
SPECIALS = ["<unk>", "<s>", "</s>"]
NAMES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def _begins_with_bos(made):
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", made.token_to_id("<s>"))]
    )
    return made


def llama2(strip=True):
    """BPE over whole texts with bytes for what is unknown, as Llama 2 and Mistral have it."""
    first = dict.fromkeys([*SPECIALS, *(f"<0x{i:02X}>" for i in range(256))])
    made = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    # characters outside of the alphabet become bytes
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=list(first), show_progress=False, limit_alphabet=60
    )
    made.train_from_iterator(CORPUS, trainer)
    data = json.loads(made.to_str())
    data["added_tokens"] = data["added_tokens"][:3]
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    made = Tokenizer.from_str(json.dumps(data))
    made.decoder = decoders.Sequence(steps + ([decoders.Strip(" ", 1, 0)] if strip else []))
    return _begins_with_bos(made)


def unigram(scheme="always"):
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    made.decoder = decoders.Metaspace(prepend_scheme=scheme)
    trainer = trainers.UnigramTrainer(
        vocab_size=300, special_tokens=SPECIALS, unk_token="<unk>", show_progress=False
    )
    made.train_from_iterator(CORPUS, trainer)
    return made


def wordpiece(cleanup=True):
    made = Tokenizer(models.WordPiece(unk_token="<unk>"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece(cleanup=cleanup)
    trainer = trainers.WordPieceTrainer(
        vocab_size=300, special_tokens=SPECIALS, show_progress=False
    )
    made.train_from_iterator(CORPUS, trainer)
    return made


def bytelevel(template=True, prefix=False):
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=SPECIALS,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    made.train_from_iterator(CORPUS, trainer)
    return _begins_with_bos(made) if template else made


def suffixed():
    """BPE whose words end with a mark, as GPT 1 has it."""
    made = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.BPEDecoder()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIALS, end_of_word_suffix="</w>", show_progress=False
    )
    made.train_from_iterator(CORPUS, trainer)
    return made


def with_added(made):
    """Added tokens that take the white space on one side, and one that is no special token."""
    from tokenizers import AddedToken

    made.add_special_tokens(
        [AddedToken("<|left|>", lstrip=True), AddedToken("<|right|>", rstrip=True)]
    )
    made.add_tokens([AddedToken("<think>", normalized=False), AddedToken("  ", normalized=False)])
    return made


KINDS = {
    "llama2": llama2,
    "llama2 no strip": lambda: llama2(False),
    "unigram always": unigram,
    "unigram first": lambda: unigram("first"),
    "unigram never": lambda: unigram("never"),
    "wordpiece": wordpiece,
    "wordpiece, spaced": lambda: wordpiece(False),
    "byte level": bytelevel,
    "byte level, prefix": lambda: bytelevel(prefix=True),
    "suffixed": suffixed,
    "llama2 added": lambda: with_added(llama2()),
    "byte level added": lambda: with_added(bytelevel()),
    "unigram added": lambda: with_added(unigram()),
}


def put(folder, made, names=None, **files):
    """The files of a tokenizer: tokenizer.json, tokenizer_config.json, and others by their name."""
    folder.mkdir(exist_ok=True, parents=True)
    made.save(str(folder / "tokenizer.json"))
    names = {"tokenizer_class": "PreTrainedTokenizerFast", **NAMES} if names is None else names
    for name, value in {"tokenizer_config": names, **files}.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return folder
