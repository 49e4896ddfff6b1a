"""What studies/engines.py serves: the embedded teacher, students of it, tiny models of every family
with three quarters of their FFN channels or experts, and some of these quantised.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from conftest import VOCAB
from family_models import FORMS, theirs_of
from random_checkpoint import write
from test_qwen3_5 import CLASSES, saved

from minipuzzle import embedded
from minipuzzle.arch import Architecture, Selection
from minipuzzle.checkpoint import Checkpoint, read_config
from minipuzzle.export.engines.base import apart
from minipuzzle.kinds import Attention, FeedForward, Mamba2
from minipuzzle.runs.quantize import run_quantize
from minipuzzle.surgery import cut

WIDTHS = (896, 832, 704, 640, 800, 512)
UNIFORM = (640,) * 6
LARGER = {
    "vocab_size": VOCAB,
    "hidden_size": 128,
    "intermediate_size": 256,
    "head_dim": 32,
    "shared_intermediate_size": 256,
    "moe_intermediate_size": 64,
    "shared_expert_intermediate_size": 128,
    "mamba_d_head": 32,
    "mamba_d_state": 32,
    "state_size": 32,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
}
"""Fields of the forms in tests/family_models.py, in sizes for which engines have kernels."""
LARGER_KINDS = {
    "M": Mamba2(hidden=768, heads=24, head_dim=64, groups=1, state=128),
    "-": FeedForward(hidden=768, intermediate=3072),
    "*": Attention(hidden=768, q_heads=12, kv_heads=4, attn_head_dim=64),
}
GROUPS = {"mamba2": "n_groups", "bamba": "mamba_n_groups", "granitemoehybrid": "mamba_n_groups"}
QUANTISED = (
    *(("teacher", format, 0) for format in ("fp8", "fp8-static", "nvfp4", "mxfp4")),
    ("teacher", "int4", 64),
    ("per-block", "fp8", 0),
    ("per-block", "nvfp4", 0),
    *(("llama, plain", format, 0) for format in ("fp8", "nvfp4", "mxfp4")),
    ("llama, plain", "int4", 32),
)
"""(checkpoint, format, group of int4)."""


@dataclass(frozen=True, kw_only=True)
class Served:
    """A checkpoint; ``format``: that of ``minipuzzle quantize``, where it has one."""

    name: str
    path: Path
    format: str | None = None

    @property
    def family(self) -> str:
        """Its model_type."""
        return str(read_config(self.path)[0]["model_type"])

    @property
    def experts(self) -> list[str] | None:
        """As in export/ran.json."""
        found = apart(read_config(self.path)[1])
        return None if found is None else sorted(found)


def student(folder: Path, widths: tuple[int, ...] = WIDTHS, dropped: int | None = 11) -> Checkpoint:
    """The embedded teacher with an FFN width for each of its feed-forward blocks, without the block
    ``dropped``.
    """
    parent, own = Checkpoint.open(embedded.teacher_path()), iter(widths)
    kept = [
        {"intermediate": tuple(range(next(own)))} if b.kind == "mlp" else {}
        for b in parent.architecture.blocks
    ]
    blocks = [None if i == dropped else one for i, one in enumerate(kept)]
    return cut(parent, Selection(blocks=tuple(blocks)), folder / "student")


def larger(folder: Path) -> tuple[Checkpoint, Checkpoint]:
    """A hybrid of 77 M parameters with random weights, and a student of it of 67 %: an FFN width a
    block, four of 18 blocks gone.
    """
    model = Architecture(
        vocab_size=VOCAB, hidden=768, blocks=tuple(LARGER_KINDS[kind] for kind in "M-M-M*-M-" * 2)
    )
    write(model, folder / "parent", "cpu")
    parent = Checkpoint.open(folder / "parent")
    shares = iter((0.9, 0.7, 0.5, 0.8, 0.6, 0.9, 0.5, 0.7))
    kept: list[dict[str, tuple[int, ...]] | None] = [
        {"intermediate": tuple(range(int(3072 * next(shares)) // 64 * 64))}
        if block.kind == "mlp"
        else {}
        for block in model.blocks
    ]
    for gone in (2, 3, 10, 11):
        kept[gone] = None
    return parent, cut(parent, Selection(blocks=tuple(kept)), folder / "student")


def _smaller(architecture: Architecture) -> Selection:
    """Three quarters of FFN channels and of experts."""
    kept = []
    for block in architecture.blocks:
        axes = {"intermediate", "experts"} & block.sizes.keys()
        kept.append({axis: tuple(range(block.sizes[axis] * 3 // 4)) for axis in axes})
    return Selection(blocks=tuple(kept))


def _tiny(family: str, form: str, groups: int, folder: Path) -> Checkpoint:
    parent = folder / "parent"
    if family in CLASSES:
        saved(parent, family, vocab_size=VOCAB)
    else:
        fields = dict(FORMS[family][form])
        fields |= {name: size for name, size in LARGER.items() if name in fields}
        if family in GROUPS:
            fields |= {GROUPS[family]: groups}
        if family == "mamba2":
            fields |= {"head_dim": 32}
        theirs_of(family, fields, seed=3).save_pretrained(parent)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(embedded.teacher_path() / name, parent)
    opened = Checkpoint.open(parent)
    return cut(opened, _smaller(opened.architecture), folder / "student")


def makers() -> dict[str, Callable[[Path], Checkpoint]]:
    """Name -> what makes it in a folder."""
    found: dict[str, Callable[[Path], Checkpoint]] = {
        "uniform": partial(student, widths=UNIFORM),
        "per-block": student,
    }
    for family, forms in FORMS.items():
        if family == "nemotron_h":
            found["nemotron_h, experts"] = partial(_tiny, family, "experts", 1)
            continue
        form = next(iter(forms))
        found[f"{family}, {form}"] = partial(_tiny, family, form, 1)
        if family in GROUPS:
            found[f"{family}, two groups"] = partial(_tiny, family, form, 2)
    found["granitemoehybrid, experts"] = partial(_tiny, "granitemoehybrid", "experts", 1)
    found["granitemoehybrid, rope"] = partial(_tiny, "granitemoehybrid", "rope, tied", 1)
    found |= {f"{family}, vision": partial(_tiny, family, "", 1) for family in CLASSES}
    return found


def checkpoints(folder: Path) -> Iterator[Served]:
    """Every checkpoint that is served, made where it is missing."""
    made = {"teacher": embedded.teacher_path()}
    yield Served(name="teacher", path=made["teacher"])
    for name, make in makers().items():
        made[name] = folder / name / "student"
        if not made[name].exists():
            make(folder / name)
        yield Served(name=name, path=made[name])
    for name, format, group in QUANTISED:
        label = f"{name}, {format}" + (f" {group}" if group else "")
        path = folder / label
        if not path.exists():
            run_quantize(made[name], path, format, group or 128, samples=16, device="cpu")
        yield Served(name=label, path=path, format=format)
