"""What deltavc is measured against: PEFT, xor with zstd, and a plain copy.

Each peer gets its best setting. PEFT runs in a process of its own, so that its
imports and its memory are its own, and times its steps one by one.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from benchmarks.synthetic import open_tensors
from benchmarks.timing import Finished, run_process

__all__ = ["Packed", "PeftRun", "copy", "peft_merge", "xor_zstd"]

_Job = tuple[NDArray[Any], NDArray[Any] | None]  # bits of the checkpoint and of the base

_PIECE = 1 << 21  # elements of one frame pair: enough frames for two threads, no loss in size


@dataclass(frozen=True)
class Packed:
    """A checkpoint packed against its base, and how long that took.

    Attributes:
        model_bytes: Bytes of the checkpoint's tensors.
        packed_bytes: Bytes of all frames.
        encode_seconds: Wall seconds, files in the page cache.
        decode_seconds: Wall seconds to have every tensor's bits again in memory.
    """

    model_bytes: int
    packed_bytes: int
    encode_seconds: float
    decode_seconds: float

    @property
    def share(self) -> float:
        """Packed size as a share of the model's."""
        return self.packed_bytes / self.model_bytes


def xor_zstd(base: Path, tuned: Path, *, level: int = 1, threads: int = 2) -> Packed:
    """Packs a checkpoint as others do: xor with the base, byte planes, zstd.

    Tensors that the base holds with the same dtype and shape are combined with it by
    xor; those that come out as nothing but zeros are dropped. Each byte plane of two
    million elements is one zstd frame. The result is unpacked again and compared.

    Args:
        base: Safetensors file of the base.
        tuned: Safetensors file of the checkpoint.
        level: Of zstd; 1 is both the quickest and the smallest on such planes.
        threads: Frames packed at a time.

    Returns:
        Sizes and seconds.

    Raises:
        RuntimeError: Some tensor came back with other bits.
    """
    before, after = open_tensors(base), open_tensors(tuned)
    jobs: list[_Job] = []
    for name, (dtype, values) in after.items():
        own = _bits(values)
        known = before.get(name)
        same = known is not None and known[0] == dtype and known[1].shape == values.shape
        against = _bits(known[1]) if same and known is not None else None
        for first in range(0, own.size, _PIECE):
            part = slice(first, first + _PIECE)
            jobs.append((own[part], None if against is None else against[part]))
    with ThreadPoolExecutor(threads) as pool:
        started = time.perf_counter()
        packed = list(pool.map(lambda job: _pack(job, level), jobs))
        encoded = time.perf_counter()
        # Pieces are dropped as they come: keeping them would time the memory, not the coder.
        sizes = list(pool.map(lambda job, frames: _unpack(frames, job).size, jobs, packed))
        decoded = time.perf_counter()
        right = list(
            pool.map(lambda job, frames: np.array_equal(_unpack(frames, job), job[0]), jobs, packed)
        )
    if not all(right) or sum(sizes) != sum(own.size for own, _ in jobs):
        raise RuntimeError(f"{right.count(False)} pieces came back with other bits")
    return Packed(
        model_bytes=sum(own.nbytes for own, _ in jobs),
        packed_bytes=sum(len(frame) for frames in packed for frame in frames),
        encode_seconds=encoded - started,
        decode_seconds=decoded - encoded,
    )


def _bits(values: NDArray[Any]) -> NDArray[Any]:
    return values.reshape(-1).view(np.dtype(f"<u{values.dtype.itemsize}"))


def _pack(job: _Job, level: int) -> list[bytes]:
    """Returns one frame a byte plane; none if nothing differs."""
    own, base = job
    mixed = own if base is None else own ^ base
    if base is not None and not mixed.any():
        return []
    planes = np.ascontiguousarray(mixed.view(np.uint8).reshape(-1, mixed.itemsize).T)
    compressor = zstandard.ZstdCompressor(level=level)
    return [compressor.compress(plane.data) for plane in planes]


def _unpack(frames: list[bytes], job: _Job) -> NDArray[Any]:
    """Returns the bits of a piece; its own are looked at for size and dtype only."""
    own, base = job
    if not frames and base is not None:
        return base.copy()
    decompressor = zstandard.ZstdDecompressor()
    mixed = np.empty((own.size, own.itemsize), dtype=np.uint8)
    for index, frame in enumerate(frames):
        mixed[:, index] = np.frombuffer(decompressor.decompress(frame), dtype=np.uint8)
    bits = mixed.reshape(-1).view(own.dtype)
    if base is not None:
        np.bitwise_xor(bits, base, out=bits)
    return bits


@dataclass(frozen=True)
class PeftRun:
    """Seconds of PEFT's steps, and the process they ran in.

    Attributes:
        imports: torch, transformers and peft.
        load: ``from_pretrained`` of the base and of the adapter.
        merge: ``merge_and_unload``.
        save: ``save_pretrained``.
        cpu: CPU seconds of merge and save.
        finished: The whole process, with its peak of anonymous memory.
    """

    imports: float
    load: float
    merge: float
    save: float
    cpu: float
    finished: Finished

    @property
    def rebuild(self) -> float:
        """Seconds from a loaded model to files: what a checkout is compared with."""
        return self.merge + self.save


def peft_merge(base: Path, adapter: Path, out: Path, *, threads: int | None = None) -> PeftRun:
    """Merges an adapter with PEFT and saves the model, in a process of its own.

    Args:
        base: Folder of a causal language model.
        adapter: PEFT folder.
        out: Folder to write; replaced if it is there.
        threads: Threads of torch; None leaves its choice, the best when idle. One
            is better on a busy machine.

    Returns:
        Seconds of each step and peak memory.

    Raises:
        RuntimeError: PEFT failed.
    """
    shutil.rmtree(out, ignore_errors=True)
    env = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    if threads is not None:
        env["OMP_NUM_THREADS"] = str(threads)
    argv = [sys.executable, "-m", "benchmarks.peers", str(base), str(adapter), str(out)]
    finished = run_process(argv, env=env, cwd=Path(__file__).resolve().parents[1])
    return PeftRun(**finished.json(), finished=finished)


def copy(source: Path, target: Path) -> None:
    """Copies a file with ``cp``: the floor for anything that writes a model."""
    subprocess.run(["cp", "--", source, target], check=True)


def _merge_here(base: str, adapter: str, out: str) -> dict[str, float]:
    clock = [time.perf_counter()]
    os.environ["HF_HUB_OFFLINE"] = "1"
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    clock.append(time.perf_counter())
    plain = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
    model: Any = PeftModel.from_pretrained(plain, adapter)
    clock.append(time.perf_counter())
    cpu = time.process_time()
    merged = model.merge_and_unload()
    clock.append(time.perf_counter())
    merged.save_pretrained(out)
    clock.append(time.perf_counter())
    steps = [after - before for before, after in pairwise(clock)]
    names = ("imports", "load", "merge", "save")
    return {**dict(zip(names, steps, strict=True)), "cpu": time.process_time() - cpu}


if __name__ == "__main__":
    print(json.dumps(_merge_here(*sys.argv[1:4])))
