"""Merging: two adapters by their sum, and two full fine-tunes element by element.

The sum is timed in process. For the other, mergekit's command merges the same
files: the shape of a small Llama, 200.8 million parameters in bfloat16, one file
of 402 MB. Both commands run as people run them, from start to exit; mergekit
without the network and its card. CPU seconds are compared: wall time on a busy
machine is that of the others.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from statistics import median

from benchmarks.bench_rows import Lab, Row, Template
from benchmarks.synthetic import LLAMA_1B, Shape, adapter, model, tuned
from benchmarks.timing import Finished, Variant, compare, results, run_process
from deltavc.api import Repository
from deltavc.repo.results import Merged

__all__ = ["sums", "ties"]

LLAMA_200M = Shape(hidden=1024, inner=2816, layers=12, kv=1024, vocab=45568)
DENSITY = 0.5


def sums(lab: Lab) -> list[Row]:
    """Merges two rank-16 adapters of a 1B model by their sum; nothing is computed but a plan."""
    import torch  # noqa: F401 - its import is not part of what is timed

    shape = LLAMA_1B.scaled(1, layers=2) if lab.quick else LLAMA_1B
    repo = lab.repository(model(shape))
    adapters = [adapter(shape, seed=seed) for seed in (1, 2)]
    repo.commit(model(shape), message="the base itself")
    repo.switch("other", create=True)
    repo.commit(adapters[0], message="one")
    repo.switch("main")
    repo.commit(adapters[1], message="other")
    template = Template(repo)
    repos: list[Repository] = []
    done: list[Merged] = []
    timed = compare(
        [
            Variant(
                "merge",
                lambda: done.append(repos[-1].merge(["other"], strategy="sum")),
                prepare=lambda: repos.append(template.fresh()),
            )
        ],
        rounds=lab.rounds(7),
    )
    print(results(timed), file=sys.stderr)
    factors = sum((folder / "adapter_model.safetensors").stat().st_size for folder in adapters)
    parameters = sum(row.outcome == "sum" for row in done[-1].rows)
    return [
        Row("merge of two rank-16 adapters of a 1B model by sum, in process",
            timed[0].wall, 1.0, "s", note=f"{parameters} parameters added up"),
        Row("… stored beyond the factors, share of them", done[-1].bytes_stored / factors, 0.05),
    ]  # fmt: skip


def ties(lab: Lab) -> list[Row]:
    """Merges two full fine-tunes with ties at density 0.5."""
    shape = LLAMA_200M.scaled(4, layers=2) if lab.quick else LLAMA_200M
    base = model(shape)
    sides = [tuned(base, seed=seed) for seed in (1, 2)]
    repo = _repository(lab, base, sides)
    size = (base / "model.safetensors").stat().st_size
    recipe = lab.scratch("mergekit") / "recipe.json"  # JSON is YAML
    recipe.write_text(json.dumps(_recipe(base, sides)))
    own, peer = [], []
    for number in range(lab.rounds(3)):
        peer.append(_mergekit(recipe))
        own.append(_deltavc(repo))
        lab.say(f"round {number + 1}: mergekit {_told(peer[-1])}, deltavc {_told(own[-1])}")
    cpu = [median(run.sample.cpu for run in runs) for runs in (own, peer)]
    wall = [median(run.sample.wall for run in runs) for runs in (own, peer)]
    peak = [median(run.peak_bytes for run in runs) for runs in (own, peer)]
    return [
        Row(
            "merge ties: CPU of mergekit over ours",
            cpu[1] / cpu[0],
            None if lab.quick else 3,
            "x",
            at_least=True,
            note=f"{cpu[1]:.1f} and {cpu[0]:.1f} CPU s; wall {wall[1]:.1f} and {wall[0]:.1f} s",
        ),
        Row(
            "merge ties: peak memory over the model's size",
            peak[0] / size,
            None if lab.quick else 0.25,
            "x",
            note=f"{peak[0] / 1e6:.0f} MB, mergekit {peak[1] / 1e6:.0f} MB; model {size / 1e6:.0f}",
        ),
    ]


def _repository(lab: Lab, base: Path, sides: list[Path]) -> Path:
    """Returns a repository with the base and, on two branches, the fine-tunes."""
    repo = lab.repository(base)
    folder = Path(repo.path)
    for argv in (
        ["commit", base, "-m", "the base itself"],
        ["branch", "other"],
        ["commit", sides[0], "-m", "one"],
        ["switch", "other"],
        ["commit", sides[1], "-m", "other"],
        ["switch", "main"],
    ):
        run_process([_command("deltavc"), *argv], cwd=folder, sample_every=0)
    shutil.copytree(folder / ".deltavc", folder / "template")
    return folder


def _deltavc(repo: Path) -> Finished:
    shutil.rmtree(repo / ".deltavc")
    shutil.copytree(repo / "template", repo / ".deltavc")
    argv = ["merge", "other", "-s", "ties", "--density", str(DENSITY), "-m", "merged"]
    return run_process([_command("deltavc"), *argv], cwd=repo)


def _mergekit(recipe: Path) -> Finished:
    out = recipe.with_name("out")
    shutil.rmtree(out, ignore_errors=True)
    argv = [recipe, out, "--no-write-model-card", "--no-copy-tokenizer"]
    env = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}  # more threads only spin on two cores
    return run_process([_command("mergekit-yaml"), *argv], env=env)


def _recipe(base: Path, sides: list[Path]) -> dict[str, object]:
    parameters = {"density": DENSITY, "weight": 1.0}
    return {
        "merge_method": "ties",
        "base_model": str(base),
        "dtype": "bfloat16",
        "models": [{"model": str(side), "parameters": parameters} for side in sides],
    }


def _command(name: str) -> Path:
    return Path(sys.executable).with_name(name)


def _told(run: Finished) -> str:
    return f"{run.sample.cpu:.1f} CPU s, {run.peak_bytes / 1e6:.0f} MB"
