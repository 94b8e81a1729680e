"""How small checkpoints are stored, exactly, and how fast they go in and come out.

The peer is what others do: xor with the base, byte planes, zstd. It works in memory;
deltavc's times are those of a whole commit, disk included, and of a rebuild of every
tensor from the stored objects.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from benchmarks.assets import MINILM, SRE
from benchmarks.bench_rows import Lab, Row, Template
from benchmarks.peers import Packed, xor_zstd
from benchmarks.synthetic import LLAMA_1B, Shape, adapter, merged, model
from benchmarks.timing import Sample, Timed, Touch, Variant, compare, results
from deltavc.api import Repository

__all__ = ["full_finetunes", "merged_loras"]

_WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class _Measured:
    """One checkpoint, stored by deltavc and by the peer.

    Attributes:
        share: Stored bytes over those of the model.
        encode: GB/s of model, a whole commit.
        decode: GB/s of model, every tensor rebuilt in memory.
        wrong: Tensors that came back with other bits.
        peer: What the peer made of it.
        smaller: How many times smaller than the peer.
    """

    share: float
    encode: float
    decode: float
    wrong: int
    peer: Packed
    smaller: float

    @property
    def note(self) -> str:
        """What the peer reached."""
        size = self.peer.model_bytes / 1e9
        return (
            f"peer {self.peer.share:.4f}, in {size / self.peer.encode_seconds:.2f} GB/s, "
            f"out {size / self.peer.decode_seconds:.2f} GB/s"
        )


def merged_loras(lab: Lab) -> list[Row]:
    """Stores checkpoints into which a LoRA was merged: they must be found out."""
    from benchmarks.tasks import Task
    from benchmarks.training import EVERY_MATRIX, bf16_base, merged_checkpoint, train_lora

    minilm = MINILM.folder()
    lora = train_lora(minilm, Task("failure"), rank=8, targets=EVERY_MATRIX).folder
    half = bf16_base(minilm)
    # As a 1B model: its widths, fewer layers, and as much less vocabulary.
    shape = replace(LLAMA_1B, layers=1 if lab.quick else 2, vocab=2000 if lab.quick else 4000)
    rows = []
    for name, base, tuned, limit in (
        ("LoRA r=8 merged into MiniLM, bf16", half, merged_checkpoint(half, lora), 0.05),
        ("LoRA r=8 merged into MiniLM, fp32", minilm, merged_checkpoint(minilm, lora), 0.03),
        _wide(shape, "BF16", 0.05),
        _wide(shape, "F32", 0.03),
    ):
        found = _measure(lab, name, base, tuned, rounds=3)
        rows += [
            Row(f"{name}: stored / model", found.share, limit, note=found.note),
            Row("… tensors with other bits", found.wrong, 0),
            Row("… encode", found.encode, None, "GB/s"),
            Row("… decode", found.decode, None, "GB/s"),
        ]
    return rows


def _wide(shape: Shape, dtype: str, limit: float) -> tuple[str, Path, Path, float]:
    sized = replace(shape, dtype=dtype)
    base = model(sized)
    name = f"LoRA r=16 merged into {sized.layers} layers as wide as 1B, {dtype.lower()}"
    return name, base, merged(base, adapter(sized)), limit


def full_finetunes(lab: Lab) -> list[Row]:
    """Stores real full fine-tunes."""
    from benchmarks.tasks import Task
    from benchmarks.training import train_bf16_full

    minilm = MINILM.folder()
    half, tuned = train_bf16_full(minilm, Task("failure"))
    rows = []
    for name, base, source, limit in (
        ("SRE full fine-tune of MiniLM, fp32", minilm, SRE.folder(), 1.04),
        ("full fine-tune of MiniLM, bf16", half, tuned.folder, 1.15),
    ):
        found = _measure(lab, name, base, source)
        rows += [
            Row(f"{name}: smaller than xor + planes + zstd-1", found.smaller, limit, "x",
                at_least=True, note=f"stored / model {found.share:.4f}, {found.note}"),
            Row("… with --effort max", found.peer.packed_bytes / _at_most_effort(lab, base, source),
                None, "x"),
            Row("… tensors with other bits", found.wrong, 0),
            Row("… encode, the whole commit", found.encode, 0.3, "GB/s", at_least=True),
            Row("… decode, every tensor", found.decode, 0.8, "GB/s", at_least=True),
        ]  # fmt: skip
    return rows


def _measure(lab: Lab, name: str, base: Path, tuned: Path, *, rounds: int = 7) -> _Measured:
    lab.say(name)
    size = (tuned / _WEIGHTS).stat().st_size
    template = Template(lab.repository(base))
    repos: list[Repository] = []
    packed: list[Packed] = []
    stored: list[int] = []

    def pack() -> Sample:
        packed.append(xor_zstd(base / _WEIGHTS, tuned / _WEIGHTS))
        return Sample(packed[-1].encode_seconds, 0.0)

    def record() -> None:
        stored.append(repos[-1].commit(tuned, message=name).bytes_stored)

    def rebuild_all() -> None:
        if _rebuild(repos[-1]) < 0.99 * size:
            raise RuntimeError("tensors are missing")

    timed = compare(
        [
            Variant("xor + planes + zstd-1, in memory", pack),
            Variant("commit", record, prepare=lambda: repos.append(template.fresh())),
            Variant("rebuild", rebuild_all),
        ],
        rounds=lab.rounds(rounds),
        touch=Touch(lab.folder, 64 << 20, 256 << 20),
    )
    print(results(timed), file=sys.stderr)
    peer = replace(
        packed[-1],
        encode_seconds=median(one.encode_seconds for one in packed),
        decode_seconds=median(one.decode_seconds for one in packed),
    )
    return _Measured(
        share=stored[-1] / size,
        encode=_speed(size, timed[1]),
        decode=_speed(size, timed[2]),
        wrong=_wrong(repos[-1], tuned),
        peer=peer,
        smaller=peer.packed_bytes / stored[-1],
    )


def _at_most_effort(lab: Lab, base: Path, tuned: Path) -> int:
    """Returns the bytes that a checkpoint takes when time does not matter."""
    return lab.repository(base).commit(tuned, message="smallest", effort="max").bytes_stored


def _speed(size: int, timed: Timed) -> float:
    return size / timed.wall / 1e9


def _rebuild(repo: Repository) -> int:
    """Rebuilds every tensor of HEAD in memory on two workers, one by one; returns their bytes."""
    from deltavc.repo.parallel import unordered
    from deltavc.repo.version import Part, open_version

    inner = repo._repo
    version = open_version(inner, inner.need_head(inner.state()))

    def one(part: Part) -> int:
        # Those of the base are copied, as the peer does: a view would cost nothing.
        if version.is_changed(part.param):
            return version.rebuild(part.param).tensor(threads=1).nbytes
        return len(bytes(version.tensor(part.param).raw()))

    known = version.base.checkpoint.entries
    sizes = {name: entry.nbytes for name, entry in known.items()}
    parts = sorted(version.parts(), key=lambda part: -sizes.get(part.param, 0))
    return sum(unordered(one, parts, 2))


def _wrong(repo: Repository, tuned: Path) -> int:
    """Counts tensors that are not those of the committed file, bit for bit."""
    import torch
    from safetensors.torch import load_file

    found, expected = repo.load("HEAD"), load_file(tuned / _WEIGHTS)
    return len(found.keys() ^ expected.keys()) + sum(
        found[name].dtype != value.dtype
        or not torch.equal(found[name].view(torch.uint8), value.view(torch.uint8))
        for name, value in expected.items()
        if name in found
    )
