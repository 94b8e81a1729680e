"""Switching a model that is resident in memory.

The floor is checkout's arithmetic alone: the same tensors from sums that are prepared
already, by as many threads, into a buffer that stays in the cache. Peers move the
same model the ways that they have: PEFT takes one adapter out and merges another, and
a reload reads the rebuilt file and copies it over.
"""

from __future__ import annotations

import gc
import itertools
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bench_rows import Lab, Row
from benchmarks.synthetic import LLAMA_1B, Shape, adapter, linear_names, model, some
from benchmarks.timing import Timed, Variant, compare, results
from deltavc.api import Repository

__all__ = ["live"]

_WEIGHTS = "model.safetensors"
_THREADS = 2
_BLOCK = 1 << 21  # elements that a thread takes at a time
_SEEDS = {"one": 1, "two": 3, "three": 5}


def live(lab: Lab) -> list[Row]:
    """Switches a live 1B-shaped model among rank-16 LoRAs on every linear layer."""
    shape = LLAMA_1B.scaled(1, layers=2) if lab.quick else LLAMA_1B
    base = model(shape)
    size = (base / _WEIGHTS).stat().st_size
    lab.say(f"live: a resident model of {size / 1e9:.2f} GB, rank 16 on every linear layer")
    loras = {name: adapter(shape, dtype="BF16", seed=seed) for name, seed in _SEEDS.items()}
    loras["few"] = adapter(shape, dtype="BF16", changed=some(linear_names(shape), 0.10))
    repo = lab.repository(base)
    for name, lora in loras.items():
        repo.commit(lora, message=name)
        repo.tag(name)
    rows, switch = _ours(lab, repo, shape, lab.scratch("out"))
    gc.collect()
    peft = _peft(lab, base, loras["one"], loras["two"])
    return [
        *rows,
        Row("… against PEFT unmerge_adapter + merge_adapter", peft / switch, None, "x faster",
            note=f"PEFT {peft:.2f} s, which drifts"),
    ]  # fmt: skip


def _ours(lab: Lab, repo: Repository, shape: Shape, out: Path) -> tuple[list[Row], float]:
    from deltavc.integrations.transformers import load_pretrained

    resident = repo.live(load_pretrained(repo, "one"), "one")
    # Three versions in turn: what lies ready from the last switch is never what is asked for.
    turn = itertools.cycle(["two", "three", "one"])
    for _ in range(3):  # memory to build in is touched once, as in any process that serves
        resident.switch(next(turn))
    waits: list[float] = []

    def go() -> None:
        done = resident.switch(next(turn))
        waits.append(done.held)
        if done.computed != len(linear_names(shape)):
            raise RuntimeError("a switch did not compute every tensor")

    timed = compare(
        [
            Variant("checkout's arithmetic, to the cache", _arithmetic(repo)),
            Variant("live switch, beside", go),
        ],
        rounds=lab.rounds(7),
    )
    # By itself: it takes fresh memory for a whole model, which the others would pay for.
    reload = compare(
        [Variant("reload: load_file and copy", _reload(repo, out))], rounds=lab.rounds()
    )[0]
    resident.switch("few")
    resident.switch("one")
    small = compare(
        [
            Variant("back to the version before", lambda: _moved(resident.switch("few"))),
            Variant("there again", lambda: _moved(resident.switch("one"))),
        ],
        rounds=lab.rounds(),
    )
    part = _part(lab, resident)
    differ = resident.verify().differing
    print(results([*timed, reload, *small, part]), file=sys.stderr)
    switch = timed[1]
    changed = sum(a * b for a, b in shape.linear().values()) * 2
    return [
        Row(f"live switch of {changed / 1e9:.2f} GB bf16, rank 16 everywhere, of the speed of"
            " checkout's arithmetic", 1 / switch.ratio, 0.7, "x", at_least=True,
            note=f"{switch.wall:.2f} s, arithmetic {timed[0].wall:.2f} s, CPU {switch.cpu:.2f} s"),
        Row("… speed", changed / switch.wall / 1e9, None, "GB/s"),
        Row("… no request is served for", 1e3 * max(waits), None, "ms"),
        Row("… a switch of a tenth of the layers", 1e3 * part.wall, None, "ms"),
        Row("… rollback while the version before lies ready", 1e3 * small[0].wall, None, "ms"),
        Row("… against load_file and copy of the rebuilt file", reload.wall / switch.wall, None,
            "x faster", note=f"{reload.wall:.2f} s, without rebuilding the file"),
        Row("… tensors that are not the version's bits afterwards", len(differ), 0),
    ], switch.wall  # fmt: skip


def _moved(done: Any) -> None:
    if done.computed:
        raise RuntimeError("a version that lay ready was computed")


def _part(lab: Lab, resident: Any) -> Timed:
    """Times a switch of a tenth of the layers, computed each time."""
    turn = itertools.cycle(["few", "one"])
    resident.switch("one")

    def go() -> None:
        if not resident.switch(next(turn)).computed:
            raise RuntimeError("nothing was computed")

    variant = Variant("a tenth of the layers", go, prepare=resident.release)
    return compare([variant], rounds=lab.rounds())[0]


def _arithmetic(repo: Repository) -> Any:
    """Returns what computes every changed tensor of a version into a buffer, prepared before."""
    from deltavc.delta.blas import one_blas_thread
    from deltavc.repo.living import RepositorySource

    version = RepositorySource(repo._repo).open("two")
    sums = [version.rebuild(param) for param in version.params]
    tasks = []
    for one in sums:
        step = max(1, _BLOCK // one.columns)
        tasks += [(one, at, min(at + step, one.rows)) for at in range(0, one.rows, step)]

    def share(number: int) -> None:
        buffer = np.empty(_BLOCK, dtype=np.uint16)
        for one, start, stop in tasks[number::_THREADS]:
            one.compute(start, stop, buffer[: (stop - start) * one.columns])

    def compute() -> None:
        with one_blas_thread(), ThreadPoolExecutor(_THREADS) as pool:
            list(pool.map(share, range(_THREADS)))

    return compute


def _reload(repo: Repository, out: Path) -> Any:
    """Returns what reads a rebuilt file and copies it over a module of its own."""
    import torch
    from safetensors.torch import load_file

    repo.checkout("one", to=out / "one")
    path = out / "one" / _WEIGHTS
    target = {name: torch.empty_like(t) for name, t in load_file(path).items()}

    def reload() -> None:
        for name, tensor in load_file(path).items():
            target[name].copy_(tensor)

    return reload


def _peft(lab: Lab, base: Path, one: Path, two: Path) -> float:
    """Returns the seconds that PEFT takes from one merged adapter to another."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
    resident: Any = PeftModel.from_pretrained(plain, one, adapter_name="one")
    resident.load_adapter(two, adapter_name="two")
    resident.merge_adapter(adapter_names=["one"])
    turn = itertools.cycle(["two", "one"])
    usual = torch.get_num_threads()

    def go(threads: int) -> None:
        torch.set_num_threads(threads)
        resident.unmerge_adapter()
        resident.merge_adapter(adapter_names=[next(turn)])

    # All cores are its best setting on an idle machine, one on a busy one: the better counts.
    counts = sorted({1, os.cpu_count() or 1})
    timed = compare(
        [Variant(f"PEFT, torch threads: {n}", lambda n=n: go(n)) for n in counts],  # type: ignore[misc]
        rounds=lab.rounds(2),
    )
    torch.set_num_threads(usual)
    print(results(timed), file=sys.stderr)
    return min(one.wall for one in timed)
