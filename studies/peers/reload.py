"""Does a checkpoint load in stock transformers, and with which logits? Writes them for the caller
to compare.

request: {"checkpoint", "tokens": .npy, "logits": where to write [b, s, vocabulary] float32,
"classes": bool}; with ``classes`` the model classes inside the checkpoint are used, and nothing
else of it is run.
"""

import numpy as np
import torch
from common import answer, batches, request
from transformers import AutoModelForCausalLM

asked = request()
model, report = AutoModelForCausalLM.from_pretrained(
    asked["checkpoint"],
    dtype=torch.float32,
    output_loading_info=True,
    trust_remote_code=asked["classes"],
)
lost = {
    key: sorted(report[key])[:5]
    for key in ("missing_keys", "unexpected_keys", "mismatched_keys")
    if report[key]
}
for layer in model.base_model.layers:
    if hasattr(layer.mixer, "time_step_limit"):
        layer.mixer.time_step_limit = (0.0, float("inf"))
with torch.no_grad():
    logits = model.eval()(batches(asked["tokens"])[0], use_cache=False).logits
np.save(asked["logits"], logits.numpy())
answer(("transformers",), lost=lost, parameters=sum(p.numel() for p in model.parameters()))
