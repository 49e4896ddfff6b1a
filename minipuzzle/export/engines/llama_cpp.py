"""llama.cpp: the GGUF file that ``minipuzzle export --gguf`` writes, the tokenizer included."""

from __future__ import annotations

from minipuzzle.data import Tokenizer
from minipuzzle.errors import UserError
from minipuzzle.export.engines.base import (
    DELTA_NETS,
    EVERYWHERE,
    HYBRIDS,
    Answer,
    Asked,
    Engine,
    no,
    yes,
)
from minipuzzle.export.gguf import layout_of
from minipuzzle.export.gguf_tokenizer import described


def _rule(asked: Asked) -> Answer:
    try:
        layout_of(asked.family, asked.architecture)
        described(Tokenizer.load(asked.path))
    except UserError as error:
        return no(f"{error.what} {error.got}; allowed: {error.allowed}")
    return yes("as a GGUF file")


ENGINE = Engine(
    label="llama.cpp",
    place=4,
    serve="minipuzzle export {path} --gguf {gguf} && llama-server -m {gguf}",
    read="llama.cpp, src/models, convert_hf_to_gguf.py, conversion/qwen.py",
    families=(*HYBRIDS, *EVERYWHERE, *DELTA_NETS),
    rule=_rule,
    others=_rule,
    gguf=True,
)
