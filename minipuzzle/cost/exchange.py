"""What GPUs that share a student and a teacher send each other for a micro-batch."""

from __future__ import annotations

from minipuzzle.arch import Architecture
from minipuzzle.memory.division import Division
from minipuzzle.memory.optimizers import stacked
from minipuzzle.memory.training import BF16, GRADIENT


def weight_bytes(
    student: Architecture, teacher: Architecture, gpus: int, together: int, division: Division
) -> int:
    """Bytes that each GPU sends of weights and of gradients: BF16 weights of the student, gathered
    once or in both passes, and of a teacher in shards in its one; FP32 gradients, summed. Of each
    the share that it has not itself, (n - 1) / n. Final norm and head stay gathered
    (``training.parallel.shard``): the student's between its passes, the teacher's for good.

    Experts that ``together`` GPUs share are not gathered: the gradients of those that several
    groups have are summed by all of these (twice (n - 1) / n).
    """
    experts = _divided(student, together)
    trained = student.parameters - experts
    gathered = trained
    if not division.gathered:
        gathered += trained - _staying(student)
    if not division.whole_teacher:
        gathered += teacher.parameters - _divided(teacher, together) - _staying(teacher)
    each = BF16 * gathered + GRADIENT * trained
    groups = max(1, gpus // together)
    alike = 2 * GRADIENT * (experts // together) * (groups - 1) // groups
    return each * (gpus - 1) // gpus + alike


def sent_bytes(student: Architecture, teacher: Architecture, tokens: float, together: int) -> int:
    """Bytes of BF16 activations of ``tokens`` tokens that each GPU sends to experts and back, and
    as many gradients the other way, where every expert is chosen as often.
    """
    passes = ((student, 4), (teacher, 2))
    values = sum(n * block.sent_values(together) for m, n in passes for block in m.blocks)
    return round(BF16 * tokens * values * (1 - 1 / together))


def _divided(model: Architecture, together: int) -> int:
    """Parameters of experts that are divided."""
    return sum(map(stacked, model.blocks)) if together > 1 else 0


def _staying(model: Architecture) -> int:
    """Parameters of final norm and head."""
    return (model.vocab_size + 1) * model.hidden
