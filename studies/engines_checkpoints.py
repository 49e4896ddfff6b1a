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
from form_sizes import NEMOTRON
from quantised import beginnings
from random_checkpoint import write
from test_qwen3_5 import CLASSES, saved

from minipuzzle import embedded
from minipuzzle.arch import Architecture, Selection
from minipuzzle.checkpoint import Checkpoint, read_config
from minipuzzle.checkpoint.quantised import declared, form_of
from minipuzzle.cost.files import files_of
from minipuzzle.export.engines.base import apart
from minipuzzle.kinds import Attention, FeedForward, Mamba2
from minipuzzle.rundir import RunDir
from minipuzzle.runs.job import Job
from minipuzzle.runs.prune import run_prune
from minipuzzle.runs.quantize import run_quantize
from minipuzzle.runs.score import run_score
from minipuzzle.runs.search import run_search
from minipuzzle.settings import Data, ScoreSettings, SearchSettings
from minipuzzle.settings.bits import parse_bits
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
HYBRID = {
    **NEMOTRON,
    "vocab_size": VOCAB,
    "hidden_size": 128,
    "intermediate_size": 256,
    "head_dim": 32,
    "ssm_state_size": 16,
    "mamba_num_heads": 32,
}
"""Rows of every matrix are multiples of 32, and so is head_dim: what vLLM's CPU kernels of INT4 and
of a cache in FP8 take.
"""
QUANTISED = (
    *(("teacher", format, 0, "none") for format in ("fp8", "fp8-static", "nvfp4", "mxfp4")),
    ("teacher", "int4", 64, "none"),
    ("per-block", "fp8", 0, "none"),
    ("per-block", "nvfp4", 0, "none"),
    *(("llama, plain", format, 0, "none") for format in ("fp8", "nvfp4", "mxfp4")),
    ("llama, plain", "int4", 32, "none"),
    ("teacher", "fp8", 0, "fp8"),
    ("llama, plain", "fp8", 0, "fp8"),
    ("hybrid", "fp8", 0, "none"),
    ("hybrid", "fp8", 0, "fp8"),
    ("hybrid", "int4", 32, "none"),
)
"""(checkpoint, format, group of int4, format of keys and values)."""
MIXES = (
    ("teacher", "fp8,bf16"),
    ("teacher", "int4-64,fp8"),
    ("teacher", "nvfp4,fp8"),
    ("hybrid", "int4-32,fp8"),
)
"""(checkpoint, what search may choose from, block by block)."""


@dataclass(frozen=True, kw_only=True)
class Served:
    """A checkpoint; ``format``: that of its matrices as ``form_of`` names it, None if whole."""

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


def searched(checkpoint: Path, formats: str, folder: Path) -> Path:
    """The checkpoint with the formats that search chooses for its blocks, nothing cut: halfway
    between the bytes of all in the narrowest and all in the widest.
    """
    texts = beginnings(folder, 4000)
    data = Data(length=256, calibration="embedded", validation=str(texts))
    job = Job(RunDir(folder / "run"), checkpoint=checkpoint, data=data, device="cpu")
    names = parse_bits(formats)
    files, model = files_of(job.parent, names), job.parent.architecture
    assert files is not None
    size = sum(files.bytes(model, bits) for bits in (min(names), max(names))) // 2
    measured = ",".join(name for name in names.values() if name != "bf16")
    run_score(job, ScoreSettings(samples=4, block_samples=4, bits=measured, curves=False))
    whole = [f"{what}=100%" for what in ("mamba", "attention", "others", "width", "hidden")]
    settings = SearchSettings(
        budget=(f"memory={size // 1000}.{size % 1000:03}kB",),
        bits=formats,
        context=1,
        method="solver",
        min_keep=tuple(whole),
        candidates=2,
        refine=0,
        validation_blocks=4,
        top=1,
    )
    run_search(job, settings)
    return next(iter(run_prune(job).values())).path


def _smaller(architecture: Architecture) -> Selection:
    """Three quarters of FFN channels and of experts."""
    kept = []
    for block in architecture.blocks:
        axes = {"intermediate", "experts"} & block.sizes.keys()
        kept.append({axis: tuple(range(block.sizes[axis] * 3 // 4)) for axis in axes})
    return Selection(blocks=tuple(kept))


def _tiny(family: str, form: str, groups: int, folder: Path) -> Checkpoint:
    parent = folder / "parent"
    if form == "hybrid":
        theirs_of(family, HYBRID, seed=3).save_pretrained(parent)
    elif family in CLASSES:
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
        "hybrid": partial(_tiny, "nemotron_h", "hybrid", 1),
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
    calibration = Data(calibration="embedded")
    for name, format, group, kv in QUANTISED:
        label = f"{name}, {format}" + (f" {group}" if group else "")
        label += f", {kv} keys and values" if kv != "none" else ""
        path = folder / label
        if not path.exists():
            run_quantize(
                made[name],
                path,
                format,
                group or 128,
                kv=kv,
                data=calibration,
                samples=16,
                device="cpu",
            )
        yield Served(name=label, path=path, format=format)
    for name, formats in MIXES:
        label = f"{name}, mix of {formats}"
        path = folder / label
        if not path.exists():
            chosen = searched(made[name], formats, folder / f"{label}, search")
            run_quantize(chosen, path, "auto", 128)
        yield Served(name=label, path=path, format=form_of(declared(path, read_config(path)[0])))
