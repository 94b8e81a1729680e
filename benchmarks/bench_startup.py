"""How soon a command that needs no tensors is there, and what it must not import."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.bench_rows import Lab, Row
from benchmarks.synthetic import LLAMA_1B, adapter, model
from benchmarks.timing import compare, process, results, run_process

__all__ = ["startup"]

COMMAND = Path(sys.executable).with_name("deltavc")
HEAVY = ("torch", "numpy", "sqlalchemy")
ENV = {"NO_COLOR": "1", "DELTAVC_HINTS": "0"}

_COMMITS = 10


def startup(lab: Lab) -> list[Row]:
    """Times whole processes against one that imports click, in a repository of ten commits."""
    folder = _repository(lab)
    commands = {
        "--help": (("--help",), 2.5),
        "log": (("log",), 8.0),
        "show": (("show", "HEAD"), 8.0),
        "status --no-hash": (("status", "--no-hash"), 8.0),
        "op log": (("op", "log"), 8.0),
    }
    lab.say("startup: whole processes")
    click = process("import click", [sys.executable, "-c", "import click"])
    timed = compare(
        [
            click,
            *(
                process(f"deltavc {name}", [COMMAND, *words], env=ENV, cwd=folder)
                for name, (words, _) in commands.items()
            ),
        ],
        rounds=lab.rounds(15),
    )
    print(results(timed), file=sys.stderr)
    rows = []
    for (name, (words, limit)), one in zip(commands.items(), timed[1:], strict=True):
        heavy = _imported(words, folder)
        rows += [
            Row(f"deltavc {name}, whole process", one.ratio, limit, "x import click",
                note=f"{one.wall * 1e3:.0f} ms, import click {timed[0].wall * 1e3:.0f} ms"),
            Row(f"… of {', '.join(HEAVY)} imported", len(heavy), 0, note=" ".join(heavy)),
        ]  # fmt: skip
    return rows


def _repository(lab: Lab) -> Path:
    """Returns a repository with commits and a workspace that is as checked out."""
    shape = LLAMA_1B.scaled(16, layers=2)
    base = model(shape)
    repo = lab.repository(base)
    for number in range(_COMMITS):
        lora = adapter(shape, rank=4, seed=number + 1)
        repo.commit(lora, message=f"version {number}", kpis={"accuracy": 0.8 + number / 100})
    repo.checkout("main")
    return repo.path


def _imported(words: Sequence[str], folder: Path) -> list[str]:
    """Returns the heavy modules that a command imports."""
    code = (
        "import sys\n"
        "from deltavc.cli.main import main\n"
        "code = main(sys.argv[2:])\n"
        "print('\\n' + ' '.join(m for m in sys.argv[1].split() if m in sys.modules))\n"
        "sys.exit(code)\n"
    )
    argv = [sys.executable, "-c", code, " ".join(HEAVY), *words]
    return run_process(argv, env=ENV, cwd=folder, sample_every=0).stdout.split("\n")[-2].split()
