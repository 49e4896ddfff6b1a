"""The training state on disk: a folder a save, with safetensors shards of torch's distributed checkpoints (DCP).

Every process writes its own shards in a thread beside the training, reads them back and compares; only then does the
folder take its name, and the last two stay. Any number of processes goes on from what any other number wrote.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minipuzzle.artifacts import disk_error, read_json, write_json
from minipuzzle.checkpoint.header import read_header
from minipuzzle.errors import UserError
from minipuzzle.ranks import Ranks, alone

ABOUT = "state.json"
MOMENTS = ("exp_avg", "exp_avg_sq")
KEPT = 2
DONT_NEED = getattr(os, "POSIX_FADV_DONTNEED", None)


class States:
    """The saved states of one run in ``folder``. ``identity`` says of which run; ``say`` tells people what happened."""

    def __init__(self, folder: Path, identity: str, ranks: Ranks, say: Callable[[str], None] = lambda text: None) -> None:
        self.folder, self.identity, self.ranks, self.say = folder, identity, ranks.aside(), say
        self._thread = ThreadPoolExecutor(1, initializer=_on_device, initargs=(_numbered(ranks.device),))
        self._writing: Future[None] | None = None
        self._newest = -1

    def load(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any] | None:
        """Restore the newest whole state and return its progress; None where nothing was saved yet.

        Raises: UserError where the states belong to another run, or every one of them is damaged.
        """
        found = list_states(self.folder)
        for path in found:
            about = self._about(path)
            if about is None:
                continue
            tensors = trained_tensors(model)
            for name, parameter in trainable(model):
                if f"{MOMENTS[0]}.{name}" in about["tensors"]:
                    moments = {key: torch.zeros_like(parameter, requires_grad=False) for key in MOMENTS}
                    step = torch.tensor(float(about["progress"]["updates"]), device=_step_device(optimizer, parameter))
                    optimizer.state[parameter] = {"step": step, **moments}
                    tensors |= {f"{key}.{name}": value for key, value in moments.items()}
            _read(path, tensors, self.ranks)
            progress: dict[str, Any] = about["progress"]
            self._newest = progress["tokens"]
            return progress
        if found:
            raise UserError(
                f"No saved state in {self.folder} can be read.", got=f"{len(found)} damaged", allowed="one that is whole",
                next="Restore that folder from a copy, or delete it to start anew.",
            )  # fmt: skip
        return None

    def save(self, model: nn.Module, optimizer: torch.optim.Optimizer, progress: dict[str, Any]) -> None:
        """Copy the state and write it in a thread, once the save before has been written.

        Raises: UserError where the save before failed (a full disk); what was saved earlier is untouched.
        """
        self.wait()
        if progress["tokens"] == self._newest:
            return
        self._newest = progress["tokens"]
        tensors = trained_tensors(model)
        for name, parameter in trainable(model):
            moments = optimizer.state.get(parameter, {})
            tensors |= {f"{key}.{name}": moments[key] for key in MOMENTS if key in moments}
        copies = {name: tensor.to("cpu", copy=True) for name, tensor in tensors.items()}
        self._writing = self._thread.submit(self._write, copies, progress)

    def wait(self) -> None:
        """Until the last save is on disk. Raises: as ``save``."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def settle(self) -> None:
        """Until nothing is written any more, whatever came of it: for who stops because of another error."""
        with suppress(Exception):
            self.wait()

    def _write(self, tensors: dict[str, Tensor], progress: dict[str, Any]) -> None:
        path = self.folder / f"{progress['tokens']:015}"
        temporary = self.folder / f".{path.name}.writing"
        try:
            self.ranks.together(lambda: self._begin(temporary))
            hashes = self.ranks.together(lambda: self._write_mine(temporary, tensors))
            files = {name: digest for part in hashes for name, digest in part.items()}
            about = {"schema": 1, "identity": self.identity, "progress": progress, "files": files,
                     "tensors": sorted(tensors)}  # fmt: skip
            self.ranks.together(lambda: self._finish(temporary, path, about))
        except BaseException:
            if self.ranks.rank == 0:
                shutil.rmtree(temporary, ignore_errors=True)
            raise

    def _begin(self, temporary: Path) -> None:
        if self.ranks.rank == 0:
            for left in self.folder.glob(".*.writing"):  # of a run that was killed
                shutil.rmtree(left)
            try:
                temporary.mkdir(parents=True)
            except OSError as error:
                raise disk_error(temporary, error) from error

    def _write_mine(self, temporary: Path, tensors: dict[str, Tensor]) -> dict[str, str]:
        """Write this process's shards; the hashes of its files after comparing them with what is in memory."""
        from torch.distributed.checkpoint.api import CheckpointException
        from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
        from torch.distributed.checkpoint.state_dict_saver import save

        writer = HuggingFaceStorageWriter(str(temporary), save_distributed=True)
        try:
            with _one_process_is_meant():
                save(tensors, storage_writer=writer, process_group=self.ranks.group, no_dist=self.ranks.world == 1)
        except (CheckpointException, OSError) as error:
            raise _could_not_write(temporary, error) from error
        files = sorted(temporary.glob(f"shard-{self.ranks.rank + 1:05}-*.safetensors"))
        return {file.name: _verified(file, tensors) for file in files}

    def _finish(self, temporary: Path, path: Path, about: dict[str, Any]) -> None:
        if self.ranks.rank != 0:
            return
        write_json(temporary / ABOUT, about)
        try:
            os.replace(temporary, path)
        except OSError as error:
            raise disk_error(path, error) from error
        for old in list_states(self.folder)[KEPT:]:
            shutil.rmtree(old)

    def _about(self, path: Path) -> dict[str, Any] | None:
        """What is said about a state, None (and a word to the user) where its files are not what was written."""
        try:
            about: dict[str, Any] = read_json(path / ABOUT)
        except UserError:
            about = {"identity": self.identity, "files": {ABOUT: "JSON"}}
        if about["identity"] != self.identity:
            raise UserError(
                f"{self.folder} holds the training state of another run.", got=f"identity {about['identity']}",
                allowed=f"identity {self.identity} (same model, teacher, data and settings)",
                next="Repeat the command with the settings it was started with, or delete that folder to start anew.",
            )  # fmt: skip
        mine = sorted(about["files"])[self.ranks.rank :: self.ranks.world]
        damaged = [name for name in mine if _sha256(path / name) != about["files"][name]]
        if self.ranks.least(-len(damaged)) == 0:
            return about
        self.say(f"the saved state {path} is damaged ({', '.join(damaged) or 'on another process'}): trying the one before")
        if self.ranks.rank == 0:
            path.rename(path.with_suffix(".damaged"))  # so that it does not count among those that are kept
        return None


def list_states(folder: Path) -> list[Path]:
    """The saved states in a folder, newest first."""
    return sorted((path.parent for path in folder.glob(f"*/{ABOUT}") if path.parent.name.isdigit()), reverse=True)


def load_parameters(folder: Path, model: nn.Module, ranks: Ranks | None = None) -> None:
    """Restore only the parameters of the newest state, for a run that goes on from another run's result."""
    _read(list_states(folder)[0], trained_tensors(model), ranks or alone(torch.device("cpu")))


def trainable(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The named parameters that are trained: only they, and what the optimiser knows of them, are saved."""
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]


def trained_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The trained parameters by their names in a state, without gradients."""
    return {f"model.{name}": parameter.detach() for name, parameter in trainable(model)}


def _read(path: Path, tensors: dict[str, Tensor], ranks: Ranks) -> None:
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    with _one_process_is_meant():
        load(tensors, storage_reader=HuggingFaceStorageReader(str(path)), process_group=ranks.group,
             no_dist=ranks.world == 1)  # fmt: skip


@contextmanager
def _one_process_is_meant() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def _numbered(device: torch.device) -> torch.device:
    return torch.device("cuda", torch.cuda.current_device()) if device.type == "cuda" else device


def _on_device(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.set_device(device)  # a new thread would begin on the first GPU


def _step_device(optimizer: torch.optim.Optimizer, parameter: Tensor) -> torch.device:
    on_device = optimizer.defaults.get("fused") or optimizer.defaults.get("capturable")
    return parameter.device if on_device else torch.device("cpu")


def _verified(file: Path, tensors: dict[str, Tensor]) -> str:
    """A written file's hash. Raises: UserError where it does not hold the tensors that were given."""
    with file.open("rb") as opened:
        if DONT_NEED is not None:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, DONT_NEED)  # read it from the disk, not from memory
        for name, entry in read_header(file).items():
            value: Any = tensors[name]
            local = (value.to_local() if hasattr(value, "to_local") else value).contiguous()
            opened.seek(entry.start)
            want = memoryview(local.reshape(-1).view(torch.uint8).numpy()) if local.numel() else memoryview(b"")
            if opened.read(entry.nbytes) != want:
                raise UserError(
                    f"{file} does not hold what was written.", got=f"other bytes in {name}", allowed="the tensor in memory",
                    next="Check that disk; the states saved before are untouched.",
                )  # fmt: skip
    return _sha256(file)


def _sha256(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except FileNotFoundError:
        return "missing"


def _could_not_write(path: Path, error: BaseException) -> UserError:
    """A full disk, found among what DCP collected from all processes."""
    failures = getattr(error, "failures", None)
    cause = error if not failures else next(iter(failures.values()))[0]
    return disk_error(path, cause if isinstance(cause, OSError) else OSError(str(cause)))
