"""Our model behind the interface of lm-eval (EleutherAI's lm-evaluation-harness), whose tasks and
numbers people compare.

Texts are split, joined and cut as its ``HFLM`` does it, so that the same weights give the same
numbers there and here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from torch import Tensor

from minipuzzle.bars import progress_bar
from minipuzzle.data import Tokenizer
from minipuzzle.errors import UserError
from minipuzzle.generation import stream
from minipuzzle.model import HybridLM
from minipuzzle.model.head import matmul_fp32

MOST_NEW_TOKENS = 256
Pair = tuple[Any, list[int], list[int]]
"""(anything, tokens of the context, tokens of the continuation), as lm-eval has them."""


class HarnessLM(TemplateLM):
    """A model and its tokenizer as an ``lm_eval.api.model.LM``: scores continuations and generates
    greedily.
    """

    def __init__(
        self,
        model: HybridLM,
        tokenizer: Tokenizer,
        *,
        name: str,
        batch: int = 8,
        max_length: int | None = None,
    ) -> None:
        """``max_length`` is the context in tokens, the model's own where None."""
        super().__init__()
        self.model = model
        self.text_tokenizer = tokenizer
        self.name = name
        self.batch = batch
        self.max_length = max_length or model.architecture.max_positions
        self._device = model.embeddings.weight.device

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return self.text_tokenizer.eos_id

    @property
    def prefix_token_id(self) -> int:
        """What stands for an empty context."""
        return (
            self.text_tokenizer.eos_id
            if self.text_tokenizer.bos_id is None
            else self.text_tokenizer.bos_id
        )

    @property
    def tokenizer_name(self) -> str:
        """For lm-eval's cache of requests."""
        return self.text_tokenizer.fingerprint

    def get_model_info(self) -> dict[str, Any]:
        """What lm-eval writes about the model into its results."""
        weights = self.model.embeddings.weight
        mixed = torch.is_autocast_enabled(weights.device.type)
        dtype = torch.get_autocast_dtype(weights.device.type) if mixed else weights.dtype
        return {
            "model": self.name,
            "model_num_parameters": self.model.architecture.parameters,
            "model_dtype": str(dtype).removeprefix("torch."),
        }

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Tokens of a text, with the special ones of tokenizer.json unless the text begins with
        one.
        """
        if add_special_tokens is None:
            add_special_tokens = not string.startswith(
                self.text_tokenizer.decode([self.prefix_token_id])
            )
        return self.text_tokenizer.encode(string, special_tokens=add_special_tokens)

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = True
    ) -> list[tuple[float, bool]]:
        """(log probability in nats, whether greedy decoding says it) of each continuation after its
        context.

        Raises: UserError for a continuation without tokens, or longer than the context.
        """
        pairs: list[Pair] = []
        for context, continuation in (request.args for request in requests):
            if context:
                pairs.append(((context, continuation), *self._encode_pair(context, continuation)))
                continue
            tokens = self.tok_encode(continuation, add_special_tokens=False)
            begun = tokens[:1] == [self.prefix_token_id]
            pairs.append(
                ((context, continuation), [self.prefix_token_id], tokens[1:] if begun else tokens)
            )
        return self._loglikelihood_tokens(pairs)

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = True
    ) -> list[float]:
        """The log probability of each whole text, in windows of ``max_length`` where it is
        longer.
        """
        pairs: list[Pair] = []
        owner: list[int] = []
        for i, request in enumerate(requests):
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            for window in map(make_disjoint_window, windows):
                pairs.append((None, *window))
                owner.append(i)
        sums = [0.0] * len(requests)
        for i, (log_p, _) in zip(owner, self._loglikelihood_tokens(pairs), strict=True):
            sums[i] += log_p
        return sums

    @torch.no_grad()
    def _loglikelihood_tokens(self, requests: Sequence[Pair], **_: Any) -> list[tuple[float, bool]]:
        """As ``loglikelihood``, of tokens. Requests that differ in the last token only (the choices
        A, B, C, D after one question) share one forward.
        """
        shared: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for i, (about, context, continuation) in enumerate(requests):
            if not 0 < len(continuation) <= self.max_length:
                raise UserError(
                    "A continuation of this task cannot be scored.",
                    allowed=f"1 to {self.max_length:,}, the context",
                    got=f"{about!r:.80}: {len(continuation)} tokens",
                    next="Leave the task out of eval.tasks.",
                )
            context = context or [self.prefix_token_id]  # white space may have no tokens
            shared[tuple((context + continuation)[-(self.max_length + 1) :][:-1])].append(i)
        answers: list[tuple[float, bool]] = [(0.0, True)] * len(requests)
        # the longest first: memory runs out at once or never
        rows = sorted(shared, key=len, reverse=True)
        with progress_bar("loglikelihood", len(rows), "texts") as bar:
            for start in range(0, len(rows), self.batch):
                part = rows[start : start + self.batch]
                for row, hidden in zip(part, self._hidden(part), strict=True):
                    for i in shared[row]:
                        answers[i] = self._score(hidden, requests[i][2])
                bar.advance(len(part))
        return answers

    def _hidden(self, rows: list[tuple[int, ...]]) -> Iterator[Tensor]:
        """The states before the head [length, hidden] of each row; what is behind its end changes
        nothing before it.
        """
        tokens = torch.zeros(len(rows), len(rows[0]), dtype=torch.long)
        for i, row in enumerate(rows):
            tokens[i, : len(row)] = torch.tensor(row)
        hidden = self.model.hidden_states(tokens.to(self._device))
        return (hidden[i, : len(row)] for i, row in enumerate(rows))

    def _score(self, hidden: Tensor, continuation: list[int]) -> tuple[float, bool]:
        target = torch.tensor(continuation[-len(hidden) :], device=hidden.device)
        before = hidden[len(hidden) - len(target) :]
        log_p = self.model_logits(before).log_softmax(-1)
        log_p_of_target = log_p.gather(1, target[:, None])
        return float(log_p_of_target.double().sum()), bool((log_p.argmax(-1) == target).all())

    def model_logits(self, hidden: Tensor) -> Tensor:
        """Logits [n, vocab] float32 of states before the head [n, hidden]."""
        return matmul_fp32(hidden, self.model.head_weight.to(hidden.dtype).t())

    @torch.no_grad()
    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """The greedy continuation of each context up to the first stop text, the end token or
        ``max_gen_toks``.

        Raises: UserError for a task that samples.
        """
        groups: dict[tuple[int, int], list[tuple[int, list[int], list[str]]]] = defaultdict(list)
        for i, request in enumerate(requests):
            context, until, count = self._generation(*request.args)
            # equal lengths are read at once
            groups[len(context), count].append((i, context, until))
        answers = [""] * len(requests)
        with progress_bar("generate", len(requests), "texts") as bar:
            for (_, count), group in groups.items():
                for start in range(0, len(group), self.batch):
                    part = group[start : start + self.batch]
                    texts = self._generate([c for _, c, _ in part], [u for _, _, u in part], count)
                    for (i, _, _), text in zip(part, texts, strict=True):
                        answers[i] = text
                    bar.advance(len(part))
        return answers

    def _generation(self, text: str, options: dict[str, Any]) -> tuple[list[int], list[str], int]:
        """Tokens of the context, cut on the left to leave room; the texts to stop at; how many
        tokens to generate.
        """
        until, count = generation(options, self.max_length)
        tokens = self.tok_encode(text)[-(self.max_length - count) :] or [self.prefix_token_id]
        return tokens, [*until, self.text_tokenizer.decode([self.eot_token_id])], count

    def _generate(self, contexts: list[list[int]], until: list[list[str]], count: int) -> list[str]:
        generated: list[list[int]] = [[] for _ in contexts]
        done = [False] * len(contexts)
        for step in stream(self.model, contexts, count, ends=self.text_tokenizer.ends):
            for i, token in enumerate(step):
                if done[i] or token is None:
                    continue
                done[i] = token in self.text_tokenizer.ends
                generated[i] += [] if done[i] else [token]
                # with its special tokens, at which a task may stop
                text = self.text_tokenizer.decode(generated[i])
                done[i] |= any(stop in text for stop in until[i] if stop)
            if all(done):
                break
        texts = (self.text_tokenizer.decode(tokens, special_tokens=False) for tokens in generated)
        return [
            postprocess_generated_text(t, stop=u, think_end_token=None)
            for t, u in zip(texts, until, strict=True)
        ]


def generation(options: dict[str, Any], max_length: int) -> tuple[list[str], int]:
    """(texts to stop at, how many tokens to generate) of a task's ``generation_kwargs``.

    Raises: UserError for a task that samples, or generates more than a context of ``max_length``
    tokens holds.
    """
    plain: dict[str, Any] = dict(normalize_gen_kwargs(options, MOST_NEW_TOKENS))
    if plain.get("do_sample") or plain.get("temperature"):
        raise UserError(
            "This task samples, and we generate greedily.",
            got=options,
            allowed="do_sample: false",
            next="Leave the task out of eval.tasks.",
        )
    count = int(plain["max_gen_toks"])
    if count >= max_length:
        raise UserError(
            "This task generates more than the model's context holds.",
            got=f"max_gen_toks {count}",
            allowed=f"below {max_length}",
            next="Leave the task out of eval.tasks.",
        )
    return list(plain["until"]), count
