"""Checkout of a whole model, and switching a workspace between two versions.

Outputs go to the page cache as those of ``cp`` do; memory is touched before each
timed call (see :mod:`benchmarks.timing`). What was written is checked against a
sum in float64 that shares no code with deltavc.
"""

from __future__ import annotations

import filecmp
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.bench_rows import Lab, Row
from benchmarks.peers import copy, peft_merge
from benchmarks.synthetic import (
    LLAMA_1B,
    Shape,
    adapter,
    linear_names,
    model,
    open_tensors,
    some,
    widen,
)
from benchmarks.timing import Sample, Touch, Variant, compare, results, run_process
from deltavc.api import Repository

__all__ = ["checkout", "switch"]

_WEIGHTS = "model.safetensors"
_CHECKED_ROWS = 256  # of each checked tensor; a sum in float64 of all takes longer than the bench


def _shape(lab: Lab) -> Shape:
    return LLAMA_1B.scaled(1, layers=2) if lab.quick else LLAMA_1B


def checkout(lab: Lab) -> list[Row]:
    """Rebuilds a 2 GB model: against ``cp``, against PEFT, and its memory."""
    import torch  # noqa: F401 - its import is not part of what is timed

    shape = _shape(lab)
    base, lora = model(shape), adapter(shape, dtype="BF16")
    size = (base / _WEIGHTS).stat().st_size
    lab.say(f"checkout: a model of {size / 1e9:.2f} GB, rank 16 on every linear layer")
    repo = lab.repository(base)
    repo.commit(lora, message="rank 16 on every linear layer")
    out = lab.scratch("out")
    touch = Touch(out, int(1.1 * size), 256 << 20)
    written = out / "rebuilt"
    wrong: list[int] = []

    def rebuild() -> None:
        repo.checkout("main", to=written)

    def check() -> None:
        if not wrong:
            wrong.append(_misrounded(base, lora, written))
        shutil.rmtree(written)

    def peft(threads: int) -> Variant:
        def merge() -> Sample:
            run = peft_merge(base, lora, out / "peft", threads=threads)
            return Sample(run.rebuild, run.cpu)

        name = f"PEFT merge and save, torch threads: {threads}"
        return Variant(name, merge, finish=_remover(out / "peft"))

    floor = _cp(base / _WEIGHTS, out / "copy")
    ours = Variant("deltavc checkout", rebuild, finish=check)
    # All cores are its best setting on an idle machine, one on a busy one: the better counts.
    theirs = [peft(threads) for threads in sorted({1, os.cpu_count() or 1})]
    _warm(base, lora)
    timed = compare([floor, ours], rounds=lab.rounds(), touch=touch)
    against = compare([ours, *theirs], rounds=1 if lab.quick else 3, touch=touch)
    print(results(timed), results(against), sep="\n", file=sys.stderr)
    best = min(against[1:], key=lambda one: one.wall)
    peak = _memory(repo, out / "child")
    gigabytes = f"{size / 1e9:.2f} GB"
    return [
        Row(f"checkout of {gigabytes} bf16, rank 16 everywhere, in process", timed[1].ratio, 2.5,
            "x cp", note=f"{timed[1].wall:.2f} s, cp {timed[0].wall:.2f} s"),
        Row("… against PEFT merge_and_unload + save_pretrained", best.ratio, 4, "x faster",
            at_least=True, note=f"PEFT {best.wall:.1f} s without imports and loading"),
        Row("… peak memory above import torch", peak / 1e9, 1.0, "GB"),
        Row("… elements that are not the rounded exact sum", wrong[0], 0,
            note="of those checked in float64"),
    ]  # fmt: skip


def switch(lab: Lab) -> list[Row]:
    """Switches a workspace between two versions that differ in a tenth of the tensors."""
    import torch  # noqa: F401

    shape = _shape(lab)
    base = model(shape)
    changed = some(linear_names(shape), 0.10)
    one, two = adapter(shape, dtype="BF16"), adapter(shape, dtype="BF16", changed=changed)
    size = (base / _WEIGHTS).stat().st_size
    lab.say(f"switch: {len(changed)} of {len(linear_names(shape))} layers differ")
    repo = lab.repository(base)
    for name, lora in (("one", one), ("two", two)):
        repo.commit(lora, message=name)
        repo.tag(name)
    repo.checkout("one")
    out = lab.scratch("out")
    turn = ["one", "two"]

    def go() -> None:
        turn.reverse()
        if not repo.checkout(turn[0]).in_place:
            raise RuntimeError("the workspace was written anew")

    def stat() -> None:
        if repo.status().clean is not True:
            raise RuntimeError("a workspace just written is not clean")

    floor = _cp(base / _WEIGHTS, out / "copy")
    touch = Touch(out, int(1.1 * size), 256 << 20)
    timed = compare([floor, Variant("switch", go)], rounds=lab.rounds(), touch=touch)
    looked = compare([Variant("status, nothing changed", stat)], rounds=lab.rounds())
    print(results([*timed, *looked]), file=sys.stderr)
    repo.checkout(turn[0], to=out / "fresh")
    same = filecmp.cmp(repo.path / "model" / _WEIGHTS, out / "fresh" / _WEIGHTS, shallow=False)
    return [
        Row(f"switch of {len(changed)} of {len(shape.tensors())} tensors of {size / 1e9:.2f} GB",
            timed[1].ratio, 0.35, "x cp", note=f"{timed[1].wall * 1e3:.0f} ms"),
        Row("… files that differ from a fresh checkout", 0 if same else 1, 0),
        Row("status after a switch, in process", looked[0].wall, None, "s"),
        Row("status of a workspace with another time, hashed", _status_hashed(repo, size), None,
            "GB/s"),
    ]  # fmt: skip


def _status_hashed(repo: Repository, size: int) -> float:
    """Returns the speed of a status that must look at every tensor."""
    (repo.path / "model" / _WEIGHTS).touch()
    found: list[bool | None] = []
    timed = compare([Variant("status", lambda: found.append(repo.status().clean))], rounds=3)
    if found != [True] * 3:
        raise RuntimeError("the workspace is not what was checked out")
    return size / timed[0].wall / 1e9


def _cp(source: Path, target: Path) -> Variant:
    return Variant("cp", lambda: copy(source, target), finish=_remover(target))


def _remover(path: Path) -> Any:
    return lambda: shutil.rmtree(path) if path.is_dir() else path.unlink()


def _warm(*folders: Path) -> None:
    for folder in folders:
        for path in folder.glob("*.safetensors"):
            with path.open("rb", buffering=0) as stream:
                while stream.read(8 << 20):
                    pass


def _memory(repo: Repository, out: Path) -> float:
    """Returns the bytes of anonymous memory that a checkout takes above ``import torch``."""
    code = (
        "import json, sys, torch, deltavc\n"
        "lines = open('/proc/self/status').read().splitlines()\n"
        "before = int(next(l for l in lines if l.startswith('RssAnon:')).split()[1]) << 10\n"
        "deltavc.open(sys.argv[1]).checkout('main', to=sys.argv[2])\n"
        "print(json.dumps(before))\n"
    )
    run = run_process([sys.executable, "-c", code, repo.path, out])
    shutil.rmtree(out)
    return float(run.peak_bytes - run.json())


def _misrounded(base: Path, lora: Path, rebuilt: Path) -> int:
    """Counts elements that are not base + scale * B @ A, summed in float64 and rounded once."""
    weights = open_tensors(base / _WEIGHTS)
    factors = open_tensors(lora / "adapter_model.safetensors")
    found = open_tensors(rebuilt / _WEIGHTS)
    wrong = 0 if weights.keys() == found.keys() else 1
    for name, (dtype, values) in weights.items():
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        rows = slice(0, _CHECKED_ROWS)
        expected = widen(dtype, values[rows]).astype(np.float64)
        if f"{stem}.lora_A.weight" in factors:
            b = widen(*factors[f"{stem}.lora_B.weight"])[rows].astype(np.float64)
            a = widen(*factors[f"{stem}.lora_A.weight"]).astype(np.float64)
            expected = _to_bfloat16(expected + 2.0 * (b @ a))
        wrong += int(np.count_nonzero(widen(*found[name])[rows] != expected))
    return wrong


def _to_bfloat16(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rounds float64 values in bfloat16's normal range to 8 significant bits, ties to even."""
    drop = np.uint64(52 - 7)
    bits = values.view(np.uint64)
    odd = (bits >> drop) & np.uint64(1)
    half = np.uint64((1 << 44) - 1)
    return ((bits + half + odd) >> drop << drop).view(np.float64)
