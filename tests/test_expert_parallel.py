"""Experts divided among processes (gloo, on the CPU) give the losses and gradients of whole
ones.
"""

from dataclasses import replace
from functools import cache, partial
from itertools import combinations

import pytest
import torch
from conftest import tiny
from context_world import same_steps, steps
from launched import together
from safetensors.torch import load_file, save_file

from minipuzzle.arch import Architecture
from minipuzzle.cost.distill_plan import DistillPlan
from minipuzzle.cost.exchange import weight_bytes
from minipuzzle.errors import UserError
from minipuzzle.kinds import Experts
from minipuzzle.memory.division import Division
from minipuzzle.memory.optimizers import stacked
from minipuzzle.model import HybridLM
from minipuzzle.ranks import Ranks, alone, ranks
from minipuzzle.runs.checks import check_adapter
from minipuzzle.settings import AdapterSettings, Training
from minipuzzle.training.parallel import check_groups, shard
from minipuzzle.training.prepare import step_peak

CPU, LENGTH = torch.device("cpu"), 16


def even() -> Architecture:
    """As many experts in each block, of which two processes have as many; a shared one."""
    return tiny("M-E*E", hidden=16, vocab=61)


def uneven() -> Architecture:
    """Blocks as cuts leave them: other numbers of experts and choices, each kind of router, a
    latent size; one of a single expert, of which a process has none.
    """
    made, b = even(), Experts(hidden=16, experts=5, top_k=3, expert_width=12, latent=8)
    gated = replace(b, experts=7, router="softmax", gated=True, activation="silu", latent=0)
    shared = replace(gated, experts=3, top_k=2, shared_width=8, shared_gate=True)
    one = replace(b, experts=1, top_k=1, router="chosen_softmax", latent=0)
    return replace(made, blocks=(made.blocks[0], b, gated, made.blocks[3], shared, one))


CASES = {
    "even": {"shape": even},
    "uneven": {"shape": uneven},
    "recomputed": {"shape": uneven, "activation_checkpointing": "on", "micro_batch": 1, "count": 2},
}
ALONE = cache(lambda name: steps(alone(CPU), LENGTH, 1, **CASES[name]))


def divided(folder, size, names, parts):
    with ranks(CPU) as group:
        for name in names:
            found = steps(group, LENGTH, parts, expert_parallel=size, **CASES[name])
            if group.rank == 0:
                save_file(found, folder / f"{name}.safetensors")
        settings = Training(expert_parallel=size)
        model = HybridLM(uneven(), device="meta")
        shard(model, group, settings)
        for block in model.blocks if group.rank == 0 else []:
            own = sum(p.to_local().numel() for n, p in block.named_parameters() if "experts." in n)
            assert own == stacked(block.block, 1, size)  # what estimates count


@pytest.mark.parametrize(
    ("processes", "parts", "names"),
    [(2, 1, ["even", "uneven", "recomputed"]), (4, 2, ["recomputed"])],
)
def test_divided_experts_equal_whole_ones(tmp_path, processes, parts, names):
    """Losses with a teacher, whose experts are divided too, and gradients, over steps of AdamW. Of
    four processes two have the same experts, and two a part each of the same sequences.
    """
    together(processes, divided, tmp_path, 2, names, parts)
    for name in names:
        same_steps(name, ALONE(name), load_file(tmp_path / f"{name}.safetensors"))


def test_what_cannot_be_divided_is_refused():
    group = Ranks(rank=0, world=4, device=CPU)
    check_groups(group, Training(expert_parallel=4), [even()])  # 4 experts, 7 or 1: any number
    with pytest.raises(UserError, match="groups that share experts") as error:
        check_groups(group, Training(expert_parallel=3), [even()])
    assert error.value.got == "4 processes, training.expert_parallel 3"
    with pytest.raises(UserError, match="no experts to share"):
        check_groups(group, Training(expert_parallel=2), [tiny("M-*")])
    with pytest.raises(UserError, match="stay on their GPUs"):
        check_groups(group, Training(expert_parallel=2, offload=True), [even()])
    with pytest.raises(UserError, match="An adapter is trained where all experts are"):
        check_adapter(Training(expert_parallel=2), AdapterSettings(kind="lora"), [even()])


def test_tokens_that_are_sent_by_brute_force():
    """Every set of choices is as frequent."""
    for experts, top_k, size in ((5, 3, 2), (7, 2, 3), (9, 4, 8), (4, 4, 2)):
        block = Experts(hidden=10, experts=experts, top_k=top_k, expert_width=4)
        each = -(-experts // size)
        sets = list(combinations(range(experts), top_k))
        reached = sum(len({choice // each for choice in chosen}) for chosen in sets) / len(sets)
        assert block.sent_values(size) == pytest.approx(10 * reached)


def test_plan_by_pencil():
    """Experts are neither gathered nor summed; tokens go and come, in four passes of the student
    and two of the teacher.
    """
    teacher = tiny("ME-E", hidden=32)
    block = replace(teacher.blocks[1], experts=3)
    student = replace(teacher, blocks=(*teacher.blocks[:3], block))
    plan = partial(DistillPlan, student=student, teacher=teacher, tokens=1, length=100)
    divided = plan(links=(4e9, 2e9), expert_parallel=2)
    of_teacher, of_student = (2 * 16 * 32 * sum(counts) for counts in ((4, 4), (4, 3)))
    # 2 of 4 experts, as 2 of 3, are in one process for a third of all choices, else in both
    assert divided.sent == 100 * 2 * 32 * (4 + 2) * 2 * 5 // 3 // 2
    gathered = (2 * (of_student + of_teacher) + 4 * of_student) / 2
    held = Division(gathered=True)  # of a student; a teacher's experts are divided too
    assert {divided.division(n) for n in (2, 32)} == {held}
    whole = partial(weight_bytes, student, teacher, together=1, division=held)
    assert divided.exchanged(2) - divided.sent == whole(gpus=2) - gathered
    # of 32 GPUs 16 have the same experts, whose gradients they add up
    alike = 2 * 4 * of_student // 2 * 15 // 16
    far = whole(gpus=32) - round(2 * gathered * 31 / 32) + alike
    assert divided.exchanged(32) - divided.sent == pytest.approx(far, abs=4)
    assert divided.exchange(32) == pytest.approx(far / 2e9 + divided.sent / 4e9)
    assert [row.gpus for row in divided.rows][:3] == [2, 4, 8]
    terms = divided.peak(8, checkpointing=False).terms
    extra = 4 * (2 * 16 * 32 * (2 + 2) - of_student / 8)  # blocks of 4 and of 3, two of each here
    assert terms["student, FP32 masters"] == pytest.approx(4 * student.parameters / 8 + extra)
    checked = step_peak(
        HybridLM(student, device="meta"),
        Training(batch=8, expert_parallel=2),
        100,
        8,
        teacher,
        division=Division(gathered=True),
    )
    assert checked.terms == terms
