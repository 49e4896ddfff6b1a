"""Greedy tokens of a checkpoint in mlx-lm on a CPU, with log probabilities of all words: see
served.py. Quantised checkpoints keep their own dtype.
"""

from importlib.metadata import version
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model
from served import serve


def answered(asked):
    mx.set_default_device(mx.cpu)
    model, config = load_model(Path(asked["checkpoint"]))
    if "quantization" not in config:
        model.set_dtype(getattr(mx, asked["dtype"]))
    cache = make_prompt_cache(model)
    fed, tokens, rows = asked["prompt"], [], []
    for _ in range(asked["steps"]):
        logits = model(mx.array([fed]), cache=cache)[0, -1].astype(mx.float32)
        rows.append(np.array(logits - mx.logsumexp(logits)))
        fed = [int(rows[-1].argmax())]
        tokens += fed
    np.save(asked["log_p"], np.stack(rows))
    said = f"mlx-lm {version('mlx-lm')} (mlx {version('mlx')}, CPU)"
    return {"version": said, "tokens": tokens}


if __name__ == "__main__":
    serve(answered)
