"""Tiny checkpoints and texts that tests build on. Nothing is fetched."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import gc
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

if not torch.cuda.is_available():
    import shape_checks  # and beartype, which a GPU machine need not have

    shape_checks.install()

from minipuzzle import embedded
from minipuzzle.arch import Architecture
from minipuzzle.checkpoint import write_checkpoint
from minipuzzle.families import nemotron_h
from minipuzzle.kinds import Attention, DeltaNet, Experts, FeedForward, Mamba2
from minipuzzle.model import init_model
from minipuzzle.space import Bounds, Level, Shape

VOCAB = 4096
BEGAN = pytest.StashKey[float]()
settings.register_profile(
    "derived", derandomize=True
)  # examples follow from the test's own text, in every run the same
settings.load_profile("derived")


@pytest.fixture(autouse=True)
def seeded():
    """Every test begins at the same random state, whichever ran before it in this process."""
    random.seed(0)
    np.random.seed(0)
    # without CUDA torch.manual_seed keeps the call for later, with its stack: 1 ms a test
    (torch.manual_seed if torch.cuda.is_available() else torch.default_generator.manual_seed)(0)


def tiny(
    pattern="M-M*-M-",
    *,
    hidden=32,
    heads=8,
    head_dim=8,
    groups=2,
    state=8,
    intermediate=64,
    q_heads=4,
    kv_heads=2,
    vocab=VOCAB,
    chunk_size=16,
):
    kinds = {
        "M": Mamba2(
            hidden=hidden,
            heads=heads,
            head_dim=head_dim,
            groups=groups,
            state=state,
            chunk_size=chunk_size,
        ),
        "-": FeedForward(hidden=hidden, intermediate=intermediate),
        "*": Attention(hidden=hidden, q_heads=q_heads, kv_heads=kv_heads, attn_head_dim=8),
        "D": DeltaNet(
            hidden=hidden, key_groups=3, group_heads=2, key_dim=8, value_dim=12, beta_scale=2.0
        ),
        "E": Experts(hidden=hidden, experts=4, top_k=2, expert_width=16, shared_width=16),
    }
    return Architecture(vocab_size=vocab, hidden=hidden, blocks=tuple(kinds[c] for c in pattern))


@torch.no_grad()
def shaken(architecture: Architecture, seed=0):
    """A model in which every parameter matters: no zero biases, no norms of one."""
    model = init_model(architecture, seed).eval()
    generator = torch.Generator().manual_seed(seed + 1)
    for parameter in model.parameters():
        scale = 0.3 if parameter.ndim == 1 else 0.1
        parameter.add_(torch.randn(parameter.shape, generator=generator) * scale)
    for buffer in model.buffers():
        buffer.add_(torch.randn(buffer.shape, generator=generator) * 0.1)
    return model


def save(model, path: Path, tokenizer=True):
    values = model.state_dict()
    config, extra = (
        nemotron_h.config(model.architecture, {}),
        nemotron_h.extra_files(model.architecture),
    )
    write_checkpoint(
        path,
        model.architecture,
        lambda n: values[n].contiguous(),
        source=None,
        config=config,
        extra=extra,
    )
    if tokenizer:
        for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
            shutil.copy(embedded.teacher_path() / name, path / name)
    return path


def pytest_collection_modifyitems(items):
    """GPU tests are skipped where there is no CUDA device, with that reason."""
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(
                pytest.mark.filterwarnings("default")
            )  # torch's compiler and the built kernels warn, not we
            if not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason="no CUDA device here"))


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """The garbage collector, 9 % of the processor time otherwise, waits until all modules are there
    and does not look at what they hold.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(10_000, 20, 20)
        gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """A test that takes more processor seconds than MINIPUZZLE_TIME_LIMIT fails, its fixtures and
    the processes that it started included. Waiting does not count: a busy machine fails no test.
    """
    item.stash[BEGAN] = sum(os.times()[:4])
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    limit = float(os.environ.get("MINIPUZZLE_TIME_LIMIT", "inf"))
    if report.when == "call" and report.passed:
        seconds = sum(os.times()[:4]) - item.stash[BEGAN]
        if seconds > limit:
            report.outcome = "failed"
            report.longrepr = f"{item.nodeid} took {seconds:.0f} s of a processor, over {limit:g}"
    return report


@pytest.fixture
def said():
    """What minipuzzle logs in the test, message by message."""
    from helpers import heard

    with heard() as messages:
        yield messages


@pytest.fixture
def checkpoint(tmp_path):
    """A tiny checkpoint on disk with the embedded tokenizer."""
    return save(shaken(tiny()), tmp_path / "ckpt56b")


@pytest.fixture(scope="session")
def searched(tmp_path_factory):
    """A run directory after search, to be copied; its parent is ckpt beside it."""
    from searched_runs import search_into

    return search_into(tmp_path_factory.mktemp("searched"))


@pytest.fixture
def remote_code(tmp_path, monkeypatch):
    """transformers keeps the classes that a checkpoint carries here, and forgets them
    afterwards.
    """
    import transformers.dynamic_module_utils as remote

    monkeypatch.setattr(remote, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    for name in [n for n in sys.modules if n.split(".")[0] == "transformers_modules"]:
        monkeypatch.delitem(sys.modules, name)
    yield tmp_path / "modules"
    for name in [n for n in sys.modules if n.split(".")[0] == "transformers_modules"]:
        del sys.modules[name]


@pytest.fixture
def small_disk(tmp_path, request):
    """A folder on a disk of the given size ("4m"), soon full."""
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={request.param}", "tmpfs", disk]
    mounted = subprocess.run(command, capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"cannot mount a tmpfs here: {mounted.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", disk], check=True)


def shape_of(*, attention, mlp, mamba, intermediate, heads, hidden):
    """A shape of the three kinds, by their names and those of their axes."""
    counts = {"attention": attention, "mlp": mlp, "mamba": mamba}
    return Shape.of(counts, {"intermediate": intermediate, "heads": heads}, hidden)


def space_of(*, attention, mlp, mamba, intermediate, heads, hidden):
    """The bounds of a grid of the three kinds."""
    counts = {"attention": attention, "mlp": mlp, "mamba": mamba}
    return Bounds(
        counts=counts, sizes={"intermediate": intermediate, "heads": heads}, hidden=hidden
    )


def level_of(*, attention, others, width, hidden):
    """A level of the three kinds."""
    blocks = {"attention": attention, "mlp": others, "mamba": others}
    return Level(blocks=blocks, width=width, hidden=hidden)
