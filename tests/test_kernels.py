"""The reference kernels against plain recurrences in float64, written here."""

import json
import os
import sys
from importlib import import_module
from importlib.util import find_spec

import pytest
import torch
import torch.nn.functional as F

from minipuzzle.errors import UserError
from minipuzzle.kernels import choose, reference, tuning
from minipuzzle.kernels.part import import_parts_of


def recurrence(x, dt, a, b, c, d, documents=None, state=None):
    """state = state exp(dt a) + dt x B^T; y = state C + d x, one step after another, in float64."""
    batch, length, heads, width = x.shape
    ratio = heads // b.shape[2]
    state = x.new_zeros(batch, heads, width, b.shape[3]) if state is None else state
    rows = []
    for t in range(length):
        if documents is not None and t:
            state = state * (documents[:, t] == documents[:, t - 1]).double()[:, None, None, None]
        bt, ct = (m[:, t].repeat_interleave(ratio, 1) for m in (b, c))
        state = (
            state * (dt[:, t] * a).exp()[..., None, None]
            + (dt[:, t, :, None] * x[:, t])[..., None] * bt[:, :, None]
        )
        rows.append((state * ct[:, :, None]).sum(-1) + d[:, None] * x[:, t])
    return torch.stack(rows, 1), state


def inputs(length, heads=6, width=5, groups=3, size=7, seed=0):
    g = torch.Generator().manual_seed(seed)
    rand = lambda *s: torch.randn(*s, generator=g, dtype=torch.float64)  # noqa: E731
    return [
        rand(2, length, heads, width),
        F.softplus(rand(2, length, heads)),
        -rand(heads).exp(),
        rand(2, length, groups, size),
        rand(2, length, groups, size),
        rand(heads),
    ]


@pytest.mark.parametrize("length", [1, 2, 7, 8, 9, 29])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("groups", [1, 3, 6])
def test_scan(length, packed, groups):
    exact = inputs(length, groups=groups)
    documents = (
        (torch.tensor([0, 0, 1, 2, 2, 2, 2, 3, 3, 4, *[4] * 10, *[5] * 9])[:length].expand(2, -1))
        if packed
        else None
    )
    start = torch.randn(2, 6, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    doubles = [t.clone().requires_grad_() for t in exact]
    singles = [t.float().requires_grad_() for t in exact]
    want, last = recurrence(*doubles, documents=documents, state=start)
    got, state = reference.scan(
        *singles, chunk_size=8, documents=documents, initial_state=start.float()
    )
    assert (got - want).abs().max() < 1e-4 * max(1.0, want.abs().max().item())
    assert (state - last).abs().max() < 1e-4 * max(1.0, last.abs().max().item())
    weights = torch.linspace(-1, 1, want.numel(), dtype=torch.float64).view_as(want)
    ((want * weights).sum() + last.sum()).backward()
    ((got * weights.float()).sum() + state.sum()).backward()
    for single, double in zip(singles, doubles, strict=True):
        scale = double.grad.norm().clamp(min=1e-3)
        assert (single.grad - double.grad).norm() / scale < 1e-3


def test_scan_step_goes_on_from_the_scan():
    exact = inputs(12)
    want, last = recurrence(*exact)
    x, dt, a, b, c, d = (t.float() for t in exact)
    _, state = reference.scan(x[:, :9], dt[:, :9], a, b[:, :9], c[:, :9], d, chunk_size=4)
    for t in range(9, 12):
        y = reference.scan_step(x[:, t], state, dt[:, t], a, b[:, t], c[:, t], d)
        assert (y - want[:, t]).abs().max() < 1e-4 * want.abs().max()
    assert (state - last).abs().max() < 1e-4 * last.abs().max()


@pytest.mark.parametrize("length", [1, 2, 3, 11])
def test_conv(length):
    x, weight, bias = torch.randn(2, length, 6), torch.randn(6, 4), torch.randn(6)
    want = F.silu(
        F.conv1d(F.pad(x.transpose(1, 2), (3, 0)), weight[:, None], bias, groups=6)
    ).transpose(1, 2)
    assert torch.allclose(reference.causal_conv(x, weight, bias, None), want, atol=1e-5)
    one_document = torch.zeros(2, length, dtype=torch.int32)
    assert torch.allclose(reference.causal_conv(x, weight, bias, one_document), want, atol=1e-5)
    documents = (torch.arange(length) // 3).expand(2, -1)
    apart = [reference.causal_conv(part, weight, bias, None) for part in x.split(3, 1)]
    assert torch.allclose(
        reference.causal_conv(x, weight, bias, documents), torch.cat(apart, 1), atol=1e-5
    )
    window = torch.zeros(2, 6, 4)
    steps = [reference.causal_conv_step(x[:, t], window, weight, bias) for t in range(length)]
    assert torch.allclose(torch.stack(steps, 1), want, atol=1e-5)


def test_gated_norm():
    y, z, weight = (torch.randn(3, 12, dtype=torch.float64) for _ in range(3))
    weight = weight[0]
    gated = y * F.silu(z)
    want = (
        torch.cat(
            [g / (g.square().mean(-1, keepdim=True) + 1e-5).sqrt() for g in gated.split(4, -1)], -1
        )
        * weight
    )
    assert (reference.gated_norm(y, z, weight, 3, 1e-5) - want).abs().max() < 1e-5
    kept = torch.tensor([1, 1, 0, 0] * 3, dtype=torch.bool)
    cut = reference.gated_norm(y[:, kept], z[:, kept], weight[kept], 3, 1e-5)
    masked = reference.gated_norm(y, z, weight, 3, 1e-5, kept)
    assert (masked[:, kept] - cut).abs().max() < 1e-6
    assert (masked[:, ~kept] == 0).all()


def test_choose_says_why_and_refuses_what_cannot_run():
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    chosen = choose(torch.device("cpu"))
    assert (chosen.name, chosen.reason) == ("reference", "no CUDA device")
    with pytest.raises(UserError, match="cannot run here") as error:
        choose(torch.device("cpu"), "mamba-ssm")
    assert error.value.got == "no CUDA device"


def test_tuning_is_kept_from_before_kernels_are_imported(tmp_path, monkeypatch):
    """Triton reads TRITON_CACHE_AUTOTUNING where a kernel is declared (triton 3.6,
    runtime/autotuner.py). fla's kernels, which few models need, are not imported.
    """
    (tmp_path / "fla").mkdir()
    (tmp_path / "fla/__init__.py").write_text("raise ImportError('fla')")
    (tmp_path / "fla_core-0.6.0.dist-info").mkdir()
    (tmp_path / "fla_core-0.6.0.dist-info/METADATA").write_text("Name: fla-core\nVersion: 0.6.0")
    for name in ("mamba_ssm", "causal_conv1d"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(
            "import os\n"
            'raise ImportError(f\'{os.getenv("TRITON_CACHE_AUTOTUNING")}'
            ' {os.getenv("TRITON_CACHE_DIR")}\')'
        )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("minipuzzle.kernels.grouped.why_never", lambda device: "asks the device")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name in ("TRITON_CACHE_AUTOTUNING", "TRITON_CACHE_DIR"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    choose(torch.device("cpu"))
    assert "TRITON_CACHE_AUTOTUNING" not in os.environ
    folder = tmp_path / "minipuzzle/triton"
    with pytest.raises(ImportError, match=f"^1 {folder}$"):
        choose(torch.device("cuda"))
    assert {str(f.relative_to(folder)) for f in folder.rglob("*.json")} == set(tuning.shipped())
    monkeypatch.setenv("TRITON_CACHE_AUTOTUNING", "0")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "elsewhere"))
    with pytest.raises(ImportError, match=f"^0 {tmp_path}/elsewhere$"):
        choose(torch.device("cuda"))
    assert not (tmp_path / "elsewhere").exists()


def test_a_part_of_a_package_does_not_import_all_of_it(tmp_path, monkeypatch):
    """As mamba-ssm is laid out; whoever wants the package itself gets all of it."""
    (tmp_path / "whole/ops").mkdir(parents=True)
    (tmp_path / "whole/ops/__init__.py").touch()
    (tmp_path / "whole/ops/scan.py").write_text("from whole.utils import two\nfour = two + two")
    (tmp_path / "whole/utils.py").write_text("two = 2")
    (tmp_path / "whole/__init__.py").write_text("import whole_models\n__version__ = '1'")
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    import_parts_of("whole")
    assert import_module("whole.ops.scan").four == 4
    assert find_spec("whole").origin == str(tmp_path / "whole/__init__.py")
    whole = import_module("whole")
    assert not hasattr(whole, "__wrapped__")
    (tmp_path / "whole_models.py").write_text("")
    assert "whole_models" not in sys.modules
    assert whole.__version__ == "1"
    assert "whole_models" in sys.modules
    assert whole.ops.scan.four == 4
    with pytest.raises(AttributeError):
        getattr(whole, "nothing")  # noqa: B009
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_what_was_tuned_elsewhere_is_in_tritons_form(tmp_path):
    """As ``Autotuner.check_disk_cache`` of triton 3.6 reads it; what a user's Triton found stays,
    and a folder that nobody can write is left alone.
    """
    takes = {"kwargs", "num_warps", "num_ctas", "num_stages", "maxnreg", "pre_hook", "ir_override"}
    place, *_ = tuning.shipped()
    (tmp_path / place).parent.mkdir()
    (tmp_path / place).write_text("theirs")
    tuning.begin(tmp_path)
    assert (tmp_path / place).read_text() == "theirs"
    (tmp_path / place).unlink()
    tuning.begin(tmp_path)
    for file in tmp_path.rglob("*.autotune.json"):
        ((config, timing),) = json.loads(file.read_text())["configs_timings"]
        assert set(config) == takes  # Config's parameters
        assert config["pre_hook"] is None  # check_disk_cache gives up on others
        assert 0 < min(timing) < 100
    (tmp_path / "file").touch()
    tuning.begin(tmp_path / "file")
