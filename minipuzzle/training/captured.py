"""A batch's forward and backward pass, on GPUs replayed as a CUDA graph: launched one by one,
kernels wait for Python.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

import torch
from torch import Tensor

from minipuzzle.model import HybridLM, gather_ahead, in_shards, mixed_precision, reshard
from minipuzzle.model.context_parallel import ContextParallel
from minipuzzle.model.masks import meanwhile
from minipuzzle.ranks import Ranks
from minipuzzle.settings import Training
from minipuzzle.training.adamw import Copies, local_part
from minipuzzle.training.objectives import BatchLoss, Objective
from minipuzzle.training.update import no_gradient, own_rows
from minipuzzle.units import bytes_

log = logging.getLogger(__name__)

EAGER = 3
"""Batches before the capture, which compile and tune the kernels: neither can be captured."""
POOL = 1.25
"""A graph's memory over several GPUs, of what the allocator held for the batches before it, since
streams share none: 1.09 was measured (docs/decisions/captured-step.md).
"""


class Backward:
    """Gives the model's parameters the gradients of a batch's summed loss.

    With ``captures`` batches after the first EAGER of a shape replay a graph. It sets gradients, so
    that a step must be one batch; where a step ``adds`` those of several, it adds to buffers that
    are set to 0 by the first one, before which no parameter has a gradient. What is then returned
    is overwritten by the next call. With ``parallel`` batches are divided along their sequences.
    The model computes with the ``copies`` of its parameters, which get their gradients. Of a model
    in shards the graph holds gathers and sums too; each process captures its own.
    """

    def __init__(
        self,
        model: HybridLM,
        objective: Objective,
        *,
        captures: bool,
        adds: bool = False,
        copies: Copies | None = None,
        parallel: ContextParallel | None = None,
    ) -> None:
        self.model, self.objective, self.parallel = model, objective, parallel
        self.captures, self.adds = captures, adds
        self.copies = copies or {}
        self.tokens = torch.empty(0, dtype=torch.int64)
        self.seen = 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self.loss: BatchLoss
        self.gradients: list[tuple[torch.nn.Parameter, Tensor]] = []
        self.given: list[torch.nn.Parameter] = []

    def __call__(self, tokens: Tensor, documents: Tensor | None) -> BatchLoss:
        """Raises: UserError where the loss depends on no trained parameter."""
        if not self.captures or documents is not None:
            return self._run(tokens, documents)
        if tokens.shape != self.tokens.shape:
            self.tokens, self.seen, self.graph, self.gradients = tokens.clone(), 0, None, []
        self.seen += 1
        first = all(p.grad is None for p in self.model.parameters())
        if self.seen > EAGER and self.graph is None:
            self.captures = self._has_room()
            if self.captures:
                self._capture()
        if self.graph is None:
            return self._run(tokens, None)
        self.tokens.copy_(tokens)
        if self.adds and first:
            torch._foreach_zero_([local_part(gradient) for _, gradient in self.gradients])
        self.graph.replay()
        for parameter, gradient in self.gradients:
            parameter.grad = gradient
        return self.loss

    def _run(self, tokens: Tensor, documents: Tensor | None) -> BatchLoss:
        gather_ahead(self.model)
        copies = [(parameter, "data", copy) for parameter, copy in self.copies.items()]
        with meanwhile([(self.model, "parallel", self.parallel), *copies]):
            with mixed_precision(tokens.device):
                batch = self.objective(self.model, tokens, documents)
            if not batch.total.requires_grad:
                raise no_gradient("a loss that depends on no trained parameter")
            batch.total.backward()
        self.given = [p for p in self.model.parameters() if p.grad is not None]
        return replace(batch, total=batch.total.detach())

    def _has_room(self) -> bool:
        """Whether the memory of a graph is there, where a capture that fails for want of it could
        not be taken back: in the midst of what FSDP2 gathers.
        """
        device = self.model.device
        if not in_shards(self.model) or device.type != "cuda":
            return True
        held = torch.cuda.memory_allocated(device)
        needed = POOL * (torch.cuda.max_memory_reserved(device) - held)
        free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - held
        if needed > free:
            log.warning(
                "training steps are launched kernel by kernel, not as a CUDA graph, which would"
                f" take about {bytes_(needed)}: {bytes_(free)} are free"
            )
        return needed <= free

    def _capture(self) -> None:
        reshard(self.model)  # so that the graph gathers all it reads, wherever that will lie
        before = [(p, p.grad) for p in self.model.parameters()]
        for parameter in self.given if self.adds else ():  # added to, not made by the graph
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        try:
            graph = torch.cuda.CUDAGraph()
            with _capturing(graph):
                self.loss = self._run(self.tokens, None)
        except RuntimeError as error:
            self.captures = False
            log.warning(
                "training steps are launched kernel by kernel, not as a CUDA graph:"
                f" {str(error).splitlines()[0]}"
            )
            for parameter, gradient in before:
                parameter.grad = gradient
            return
        self.graph = graph
        self.gradients = [(p, p.grad) for p in self.model.parameters() if p.grad is not None]


def backward_of(
    model: HybridLM,
    objective: Objective,
    settings: Training,
    ranks: Ranks,
    parallel: ContextParallel | None,
    copies: Copies,
) -> Backward:
    """That of the steps of these ``settings``, captured where it can be."""
    rows = own_rows(settings, ranks)
    captures = len({len(each) for each in rows}) == 1  # a graph is of one shape
    captures = captures and ranks.device.type == "cuda" and parallel is None
    captures = captures and not settings.offload  # FSDP waits for copies on the CPU
    captures = captures and objective.capturable and model.capturable
    adds = len(rows) > 1
    return Backward(
        model, objective, captures=captures, adds=adds, copies=copies, parallel=parallel
    )


@contextmanager
def _capturing(graph: torch.cuda.CUDAGraph) -> Iterator[None]:
    """Capture what is launched. What PyTorch leaves behind where that fails is undone: the
    capture's stream as the current one, memory that comes from its pool, and a generator that takes
    itself for captured and refuses to make numbers.
    """
    pool, stream = torch.cuda.graph_pool_handle(), torch.cuda.current_stream()
    try:
        # what other threads ask of CUDA meanwhile, as those that write a checkpoint do, is not
        # captured and no error
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            yield
    except RuntimeError:
        torch.cuda.set_stream(stream)
        with suppress(RuntimeError):  # where the capture itself had ended well
            torch._C._cuda_endAllocateToPool(stream.device.index, pool)
        generator = torch.cuda.default_generators[stream.device.index]
        generator.graphsafe_set_state(generator.clone_state())
        raise
