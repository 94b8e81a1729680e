"""The incident: how soon an environment serves what it served before."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.bench_rows import Lab, Row, Template
from benchmarks.synthetic import LLAMA_1B, adapter, model
from benchmarks.timing import Variant, compare, process, results
from deltavc.api import Repository

__all__ = ["rollback"]

COMMAND = Path(sys.executable).with_name("deltavc")
ENV = {"NO_COLOR": "1", "DELTAVC_HINTS": "0", "DELTAVC_ACTOR": "Bench <bench@example.org>"}
ADAPTER_RANK = 96  # a file of 64 MiB, as in the peers' measurements


def rollback(lab: Lab) -> list[Row]:
    """Times whole rollbacks against importing click, and against git with the same bytes."""
    shape = LLAMA_1B.scaled(16, layers=2) if lab.quick else LLAMA_1B
    base = model(shape)
    loras = [adapter(shape, rank=4 if lab.quick else ADAPTER_RANK, seed=n) for n in (1, 2)]
    full = _environment(lab, base, loras, "full")
    peft = _environment(lab, base, loras, "peft")
    kept = Template(full)
    lab.say("rollback: whole processes")
    git = _git(lab, loras)
    click = process("import click", [sys.executable, "-c", "import click"])
    checkout = process(
        "git checkout of the adapter",
        ["git", "-C", str(git), "checkout", "-q", "v1"],
        prepare=lambda: _run("git", "-C", str(git), "checkout", "-q", "v2"),
    )
    variants = [
        click,
        _back("rollback, full model", full, kept),
        _back("rollback, full model, catalog gone", full, kept, without_catalog=True),
        checkout,
        _back("rollback, adapter", peft, Template(peft)),
    ]
    timed = compare(variants, rounds=lab.rounds(7))
    print(results(timed), file=sys.stderr)
    floor, whole, gone, checked_out, small = timed
    size = sum(f.stat().st_size for f in (full.path / "serve/current").iterdir())
    told = f"{whole.wall * 1e3:.0f} ms for {size / 1e9:.2f} GB, import click {floor.wall * 1e3:.0f}"
    pairs = sorted(a.wall / b.wall for a, b in zip(small.samples, checked_out.samples, strict=True))
    return [
        Row("rollback of a full model kept ready", whole.ratio, 8, "x import click", note=told),
        Row("… while the catalog is gone", gone.ratio, 8, "x import click"),
        Row(
            "rollback of an adapter",
            pairs[len(pairs) // 2],
            1.0,
            "x git checkout",
            note=f"{small.wall * 1e3:.0f} ms, git {checked_out.wall * 1e3:.0f} ms",
        ),
    ]


def _environment(lab: Lab, base: Path, loras: list[Path], form: str) -> Repository:
    """Returns a repository whose environment serves the second of two versions."""
    lab.say(f"rollback: an environment of {form} versions")
    repo = lab.repository(base)
    repo.define_environment("production", target="serve", form=form)
    for number, lora in enumerate(loras):
        commit = repo.commit(lora, message=f"version {number}").commit
        repo.deploy(str(commit), "production")
    return repo


def _back(
    name: str, repo: Repository, template: Template, *, without_catalog: bool = False
) -> Variant:
    link, spool = repo.path / "serve" / "current", repo.path / "serve" / ".deltavc-spool"
    before, empty = str(link.readlink()), spool.read_bytes()

    def prepare() -> None:
        template.fresh()
        spool.write_bytes(empty)
        if str(link.readlink()) != before:
            link.unlink()
            link.symlink_to(before)
        if without_catalog:
            for path in (repo.path / ".deltavc").glob("catalog.db*"):
                path.unlink()

    words = [COMMAND, "rollback", "production", "--yes", "--reason", "bench"]
    return process(name, words, env=ENV, cwd=repo.path, prepare=prepare)


def _git(lab: Lab, loras: list[Path]) -> Path:
    """Returns a git repository with the same adapters, the second one checked out."""
    folder = lab.scratch("git")
    run: Callable[..., None] = lambda *words: _run("git", "-C", str(folder), *words)  # noqa: E731
    run("init", "-q")
    run("config", "user.email", "bench@example.org")
    run("config", "user.name", "Bench")
    for number, lora in enumerate(loras, 1):
        for path in lora.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        run("add", "-A")
        run("commit", "-q", "-m", f"version {number}")
        run("tag", f"v{number}")
    return folder


def _run(*words: str) -> None:
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
