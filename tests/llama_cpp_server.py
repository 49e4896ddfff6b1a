"""llama.cpp serving a GGUF file on the CPU of this machine, through the server in the xllamacpp
wheel.
"""

import json
import subprocess
import sys
import urllib.request


def serve(path):
    """Serve until standard input ends, in FP32 throughout; the address is printed first."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = path
    params.n_ctx, params.n_parallel, params.warmup, params.verbosity = 2048, 1, False, -1
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = (
        xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    )  # it rounds to FP16
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    sys.stdin.read()


class LlamaCpp:
    """A server in a process of its own: llama.cpp aborts on a file it dislikes. A context; its
    endpoints are methods.
    """

    def __init__(self, path):
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._address = self._process.stdout.readline().strip()
        assert self._address.startswith("http"), f"llama.cpp did not load {path}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.communicate()

    def tokenize(self, text, special=False):
        """Tokens of a text; ``special``: also those around it, and those that stand in it."""
        return self._post(
            "/tokenize", {"content": text, "add_special": special, "parse_special": special}
        )["tokens"]

    def greedy(self, prompt, count, words=40):
        """(tokens [count], the ``words`` likeliest words of each step: [{word: log probability}]).

        The server says none of a token that ends within a character: nothing stands there.
        """
        answer = self._post(
            "/completion",
            {
                "prompt": prompt,
                "n_predict": count,
                "temperature": 0,
                "n_probs": words,
                "return_tokens": True,
                "ignore_eos": True,
                "cache_prompt": False,
            },
        )
        steps, shown = [], answer.get("completion_probabilities", [])
        for token in answer["tokens"]:
            known = shown and shown[0]["id"] == token
            likeliest = shown.pop(0)["top_logprobs"] if known else []
            steps.append({w["id"]: w["logprob"] for w in likeliest})
        assert not shown
        return answer["tokens"], steps

    def _post(self, path, body):
        data = json.dumps(body).encode()
        request = urllib.request.Request(
            self._address + path, data, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)


def largest_difference(steps, log_probabilities):
    """Of the server's log probabilities from ours, ``log_probabilities`` [steps, vocab]."""
    return max(
        abs(p - log_probabilities[i, word].item())
        for i, step in enumerate(steps)
        for word, p in step.items()
    )


if __name__ == "__main__":
    serve(sys.argv[1])
