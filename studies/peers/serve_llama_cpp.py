"""Greedy tokens of a GGUF file in llama.cpp, with log probabilities of all words (NaN where the
server says none): see served.py. tests/llama_cpp_server.py must be in sight.
"""

from importlib.metadata import version

import numpy as np
from llama_cpp_server import LlamaCpp
from served import serve


def answered(asked):
    with LlamaCpp(asked["checkpoint"]) as server:
        tokens, steps = server.greedy(asked["prompt"], asked["steps"], words=asked["vocabulary"])
    log_p = np.full((len(steps), asked["vocabulary"]), np.nan, np.float32)
    for row, step in zip(log_p, steps, strict=True):
        row[list(step)] = list(step.values())
    np.save(asked["log_p"], log_p)
    return {"version": f"xllamacpp {version('xllamacpp')} (llama.cpp)", "tokens": tokens}


if __name__ == "__main__":
    serve(answered)
