"""Commit of an adapter, and of a checkpoint in which nothing changed."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from benchmarks.bench_rows import Lab, Row, Template
from benchmarks.peers import copy
from benchmarks.synthetic import LLAMA_1B, adapter, model
from benchmarks.timing import Touch, Variant, compare, results
from deltavc.api import Repository
from deltavc.repo.results import Committed

__all__ = ["commit"]


def commit(lab: Lab) -> list[Row]:
    """Commits the adapter of a 1B model in two dtypes, and an unchanged checkpoint."""
    import torch  # noqa: F401 - its import is not part of what is timed

    shape = LLAMA_1B.scaled(1, layers=2) if lab.quick else LLAMA_1B
    base = model(shape)
    repo = lab.repository(base)
    template = Template(repo)
    rows = []
    for dtype, share in (("F32", 0.95), ("BF16", 1.0)):
        lora = adapter(shape, dtype=dtype)
        rows += _adapter(lab, template, lora, dtype, share)
    return rows + _unchanged(lab, template, base)


def _adapter(lab: Lab, template: Template, lora: Path, dtype: str, share: float) -> list[Row]:
    file = lora / "adapter_model.safetensors"
    size = file.stat().st_size
    lab.say(f"commit: an adapter of {size / 1e6:.1f} MB, {dtype}")
    timed, done = _commits(lab, template, lora, file)
    name = f"commit of a rank-16 adapter, {size / 1e6:.1f} MB {dtype}, in process"
    return [
        Row(name, timed, 0.5, "s"),
        Row("… stored / adapter's file", done.bytes_stored / size, share),
    ]


def _unchanged(lab: Lab, template: Template, base: Path) -> list[Row]:
    source = lab.scratch("checkpoint") / "same"
    shutil.copytree(base, source)
    file = source / "model.safetensors"
    size = file.stat().st_size
    lab.say(f"commit: a checkpoint of {size / 1e9:.2f} GB, nothing changed")
    seconds, done = _commits(lab, template, source, file)
    shutil.rmtree(source)
    return [
        Row("commit of a full checkpoint, nothing changed", size / seconds / 1e9, 1.0, "GB/s",
            at_least=True, note=f"{seconds:.2f} s for {size / 1e9:.2f} GB"),
        Row("… bytes stored for its tensors", sum(row.stored for row in done.kinds), 0),
    ]  # fmt: skip


def _commits(lab: Lab, template: Template, source: Path, file: Path) -> tuple[float, Committed]:
    """Commits the same source again and again to a repository that has not seen it."""
    repos: list[Repository] = []
    done: list[Committed] = []
    out = lab.scratch("copy") / file.name
    timed = compare(
        [
            Variant("cp of the file", lambda: copy(file, out), finish=out.unlink),
            Variant(
                "commit",
                lambda: done.append(repos[-1].commit(source, message="a version")),
                prepare=lambda: repos.append(template.fresh()),
            ),
        ],
        rounds=lab.rounds(7),
        touch=Touch(out.parent, 64 << 20, 256 << 20),
    )
    print(results(timed), file=sys.stderr)
    if not all(one.changed for one in done):
        raise RuntimeError("a commit was found to be nothing new")
    return timed[1].wall, done[-1]
