"""A teacher's logits on disk: a few at each token of the training text, in safetensors shards.

Shard i holds blocks i R .. (i + 1) R - 1 of the text in training order. A shard is whole or absent,
so a killed run goes on with the shards that are missing. A block is found by the hash of its
tokens, whatever batch or process asks for it. Blocks of each length have a cache of their own.
"""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional

from minipuzzle.artifacts import check_is_file, read_json, write_atomic, write_json
from minipuzzle.data import TokenBlocks
from minipuzzle.data.pieces import Pieces
from minipuzzle.errors import UserError
from minipuzzle.identity import Plain, fingerprint
from minipuzzle.model import HybridLM, mixed_precision
from minipuzzle.progress import SILENT, Progress
from minipuzzle.ranks import Ranks
from minipuzzle.training.keep import Keep, id_dtype
from minipuzzle.training.objectives import BatchLoss, Objective, marked, own_part
from minipuzzle.training.sparse import Entries, sparse_kl, teacher_entries

ABOUT = "about.json"
KEY_BYTES = 16
SHARD_BYTES = 1 << 26


class TeacherCache:
    """The cache in ``folder`` for one teacher and what ``positions`` of the stream of one text's
    blocks hold. Raises: UserError where it is another's.
    """

    def __init__(
        self,
        folder: Path,
        blocks: TokenBlocks | Pieces,
        keep: Keep,
        *,
        positions: range,
        teacher: str,
        vocabulary: int,
        seed: int,
        isolate: bool,
    ) -> None:
        if keep.count > vocabulary:
            raise UserError(
                "The teacher's vocabulary is smaller than that.",
                got=f"{keep.count:,}",
                allowed=f"at most {vocabulary:,}",
                next="Lower distill.teacher_keep.",
            )
        self.folder, self.blocks, self.keep, self.seed = folder, blocks, keep, seed
        self.isolate = isolate or blocks.spans
        self.vocabulary = vocabulary
        self.about: dict[str, Plain] = {
            "schema": 1,
            "teacher": teacher,
            "data": blocks.fingerprint,
            "block_length": blocks.block_length,
            "seed": seed,
            "isolate_documents": self.isolate,
            "keep": f"{'sampled' if keep.sample else 'top'}-{keep.count}",
            "vocabulary": vocabulary,
        }
        wanted = SHARD_BYTES // (keep.bytes_per_token(vocabulary) * blocks.block_length)
        self.rows = max(1, min(len(blocks), wanted))
        end = blocks.distinct(positions.stop)
        # beyond an epoch the same blocks come in another order
        self.wanted = range(positions.start if end == positions.stop else 0, end)
        self._check()
        self._where: dict[bytes, tuple[Path, int]] = {}

    def size(self) -> str:
        """What is wanted takes on disk, for people."""
        each = self.keep.bytes_per_token(self.vocabulary)
        total = self.disk_bytes()
        return f"{each:,} bytes a token, {total // each:,} tokens: {total / 1e9:,.3g} GB"

    def disk_bytes(self) -> int:
        """The same as a number."""
        each = self.keep.bytes_per_token(self.vocabulary)
        return each * len(self.wanted) * self.blocks.block_length

    def missing(self) -> list[int]:
        """The shards of what is wanted that are not there."""
        shards = range(self.wanted.start // self.rows, -(-self.wanted.stop // self.rows))
        return [i for i in shards if not self._path(i).exists()]

    def fill(
        self,
        teacher: HybridLM,
        missing: list[int],
        ranks: Ranks,
        batch: int,
        progress: Progress = SILENT,
    ) -> None:
        """Ask the teacher for the missing shards, each process for its share; ``progress`` is told
        of tokens. Raises: UserError when the disk is full.
        """
        if ranks.rank == 0:
            write_json(self.folder / ABOUT, self.about)
        device = next(teacher.parameters()).device
        for start in range(0, len(missing), ranks.world):
            place = start + ranks.rank
            index = missing[place] if place < len(missing) else missing[start]
            # a process that has none left computes one all the same: sharded weights are gathered
            # by all together
            tensors = self._ask(teacher, index, batch, device)
            if place < len(missing):
                about = json.dumps({"about": self.about, "shard": index})
                write_atomic(self._path(index), save(tensors, metadata={"minipuzzle": about}))
            tokens = self.rows * self.blocks.block_length
            progress.advance(tokens * min(ranks.world, len(missing) - start))
        ranks.together(lambda: None)

    def entries(self, tokens: Tensor, documents: Tensor | None) -> Entries:
        """What the teacher said to blocks of text, tokens [b, s]. Raises: UserError where they are
        not in the cache.
        """
        parts = []
        for row in range(len(tokens)):
            key = self._key(tokens[row], None if documents is None else documents[row])
            if key not in self._where:
                raise UserError(
                    "A block of text is not in the cache of teacher logits.",
                    got=f"{self.folder}",
                    allowed="the blocks of the text that it was made for",
                    next="Give the command again with training.tokens as before, or delete that"
                    " folder.",
                )
            file, at = self._where[key]
            parts.append({name: part[at] for name, part in _slices(file).items()})
        whole = {name: torch.cat([p[name] for p in parts]) for name in parts[0]}
        if whole["ids"].int().max() >= self.vocabulary or whole["log_p"].isnan().any():
            raise _damaged(file, "entries beyond the vocabulary, or no numbers")
        whole = {name: part.to(tokens.device) for name, part in whole.items()}
        return Entries(
            ids=whole["ids"].long(), log_p=whole["log_p"].float(), log_rest=whole.get("log_rest")
        )

    def _check(self) -> None:
        if not (self.folder / ABOUT).exists():
            return
        found = read_json(
            self.folder / ABOUT, dict[str, Any], next="Delete that folder; it is filled again."
        )
        other = [name for name, value in self.about.items() if found.get(name) != value]
        if other:
            raise UserError(
                f"The teacher logits in {self.folder} are not those of this run.",
                got=", ".join(f"{name} {found.get(name)}" for name in other),
                allowed=", ".join(f"{name} {self.about[name]}" for name in other),
                next="Name another folder with distill.teacher_logits; it is filled first.",
            )

    @torch.no_grad()
    def _ask(
        self, teacher: HybridLM, index: int, batch: int, device: torch.device
    ) -> dict[str, Tensor]:
        first, last = index * self.rows, self.blocks.distinct((index + 1) * self.rows)
        generator = torch.Generator(device) if self.keep.sample else None
        if generator is not None:
            generator.manual_seed(int(fingerprint(self.about, index), 16) >> 1)
        found: dict[str, list[Tensor]] = {"key": [], "ids": [], "log_p": [], "log_rest": []}
        for start in range(first, first + self.rows, batch):
            at = min(start, last - 1)  # every process makes the same number of passes
            tokens, documents = self.blocks.stream(range(at, min(at + batch, last)), self.seed)
            given, borders = (
                torch.from_numpy(tokens).to(device),
                torch.from_numpy(documents).to(device),
            )
            with mixed_precision(device):
                if self.blocks.spans:
                    borders, _ = marked(borders)
                hidden = teacher.hidden_states(given, borders if self.isolate else None)
                entries = teacher_entries(
                    hidden.flatten(0, 1), teacher.head_weight, self.keep.count, generator
                )
            if start >= last:
                continue
            shape = tokens.shape
            found["key"] += [
                torch.frombuffer(bytearray(self._key(t, d)), dtype=torch.uint8)
                for t, d in zip(torch.from_numpy(tokens), torch.from_numpy(documents), strict=True)
            ]
            found["ids"].append(entries.ids.unflatten(0, shape).to(id_dtype(self.vocabulary)).cpu())
            found["log_p"].append(entries.log_p.unflatten(0, shape).half().cpu())
            if entries.log_rest is not None:
                found["log_rest"].append(entries.log_rest.unflatten(0, shape).cpu())
        return {
            "key": torch.stack(found["key"]),
            **{n: torch.cat(found[n]) for n in ("ids", "log_p", "log_rest") if found[n]},
        }

    def index(self) -> None:
        """Learn which blocks are where. Raises: UserError where a shard is damaged."""
        for file in sorted(self.folder.glob("[0-9]*.safetensors")):
            keys = self._keys(file)
            self._where |= {
                bytes(key.numpy().tobytes()): (file, row) for row, key in enumerate(keys)
            }

    def _keys(self, file: Path) -> Tensor:
        """The keys [rows, 16] of a shard. Raises: UserError where it is damaged or of other
        shapes.
        """
        try:
            check_is_file(file, file.stat())
            with safe_open(file, framework="pt") as opened:
                keys: Tensor = opened.get_tensor("key")
                parts = {name: opened.get_slice(name) for name in opened.keys() if name != "key"}  # noqa: SIM118
                found = {
                    name: (tuple(part.get_shape()), part.get_dtype())
                    for name, part in parts.items()
                }
        except (SafetensorError, OSError, UserError) as error:
            raise _damaged(file, error) from error
        each = (len(keys), self.blocks.block_length)
        ids = "U16" if id_dtype(self.vocabulary) == torch.uint16 else "I32"
        wanted: dict[str, tuple[tuple[int, ...], str]]
        wanted = {
            "ids": ((*each, self.keep.count), ids),
            "log_p": ((*each, self.keep.count), "F16"),
        }
        wanted |= {} if self.keep.sample else {"log_rest": (each, "F32")}
        if found != wanted or keys.dtype != torch.uint8 or keys.shape[1:] != (KEY_BYTES,):
            raise _damaged(file, f"tensors {found}")
        return keys

    def _key(self, tokens: Tensor, documents: Tensor | None) -> bytes:
        digest = hashlib.blake2b(
            tokens.cpu().numpy().astype("int64").tobytes(), digest_size=KEY_BYTES
        )
        if self.isolate and documents is not None:
            digest.update(documents.cpu().numpy().astype("int32").tobytes())
        return digest.digest()

    def _path(self, index: int) -> Path:
        return self.folder / f"{index:08}.safetensors"


class _Stored(Objective):
    """Not capturable: each batch is read from disk."""

    def __init__(self, caches: dict[int, TeacherCache]) -> None:
        self.caches = caches

    def __call__(self, model: HybridLM, tokens: Tensor, documents: Tensor | None) -> BatchLoss:
        cache = self.caches[tokens.shape[1]]
        entries, part = cache.entries(tokens, documents), own_part(model, tokens)
        ours = torch.zeros_like(tokens, dtype=torch.bool)  # [b, s]
        ours[:, part] = True
        if cache.blocks.spans:
            documents, wanted = marked(documents)
            ours &= functional.pad(wanted, (0, 1))  # the last position predicts nothing
        hidden = model.hidden_states(tokens, documents)
        if model.parallel is None and not cache.blocks.spans:
            hidden = hidden.flatten(0, 1)
        else:
            hidden, entries = hidden[ours[:, part]], entries.at(ours.flatten())  # [wanted, d]
        total = sparse_kl(hidden, model.head_weight, entries)
        return BatchLoss(total=total, entropy=entries.entropy(), tokens=len(hidden))


def stored(*caches: TeacherCache) -> Objective:
    """KL from the stored logits, of blocks of each length from its own cache; the teacher is not
    needed. Raises: UserError where a shard is damaged.
    """
    for cache in caches:
        cache.index()
    return _Stored({cache.blocks.block_length: cache for cache in caches})


def _damaged(file: Path, got: object) -> UserError:
    return UserError(
        f"{file} is damaged.",
        got=got,
        allowed="a file that minipuzzle wrote",
        next="Delete it; it is made again.",
    )


@lru_cache(maxsize=64)
def _slices(file: Path) -> dict[str, Any]:
    opened = safe_open(file, framework="pt")
    return {name: opened.get_slice(name) for name in opened.keys() if name != "key"}  # noqa: SIM118
