"""How the demo is told: commands that are typed and shown, checks that are counted."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors import safe_open

from benchmarks.outcomes import Outcomes, outcomes
from benchmarks.tasks import Task
from benchmarks.training import Score

__all__ = [
    "ADA",
    "COMMAND",
    "FAILURE",
    "RECEIPT",
    "SYSTEM",
    "Answer",
    "Story",
    "Version",
    "differing_files",
    "differing_tensors",
]

COMMAND = Path(sys.executable).with_name("deltavc")
ADA = "Ada <ada@example.org>"
"""Who types, where nobody else is named."""

RECEIPT = "deltavc.json"
"""What deltavc leaves in a folder that it writes: which version it is, and since when."""

FAILURE = Task("failure")
SYSTEM = Task("system")


@dataclass
class Version:
    """One row of the last table.

    Attributes:
        name: The revision's name.
        what: What was committed.
        accuracy: On task failure, measured on the rebuilt model.
        system: On task system, where that is the point.
        commit_seconds: Of the command that recorded it, start to exit.
        checkout_seconds: Of the command that rebuilt it, start to exit.
    """

    name: str
    what: str
    commit_seconds: float
    accuracy: float = 0.0
    system: float | None = None
    checkout_seconds: float = 0.0


@dataclass(frozen=True)
class Answer:
    """What came of a command.

    Attributes:
        seconds: From start to exit.
        text: What it printed.
    """

    seconds: float
    text: str


@dataclass
class Story:
    """Runs commands, shows them, and keeps the outcome of the checks."""

    folder: Path
    versions: dict[str, Version] = field(default_factory=dict)
    answered: dict[tuple[str, str], Outcomes] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    checked: int = 0

    def chapter(self, title: str, text: str = "") -> None:
        """Begins a part of the story."""
        print(f"\n== {title} ==", flush=True)
        if text:
            print(text, flush=True)

    def run(self, *words: str, folder: str = "orders", answer: int = 0, actor: str = ADA) -> Answer:
        """Runs deltavc in a folder, shows command and answer.

        Args:
            *words: What follows ``deltavc``.
            folder: Where to run it.
            answer: The exit code that is right; another one ends the story.
            actor: Who types it.

        Returns:
            What it printed, and how long it took.
        """
        before = [] if actor == ADA else [f"DELTAVC_ACTOR={shlex.quote(actor)}"]
        typed = " ".join([*before, shlex.join(["deltavc", *words])])
        print(f"\n{folder}$ {typed}", flush=True)
        started = time.perf_counter()
        done = subprocess.run(
            [COMMAND, *words],
            cwd=self.folder / folder,
            env={**os.environ, "DELTAVC_ACTOR": actor, "NO_COLOR": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        seconds = time.perf_counter() - started
        print(done.stdout.rstrip("\n"), flush=True)
        if done.returncode != answer:
            raise SystemExit(f"the command ended with {done.returncode}; the demo stops here")
        return Answer(seconds, done.stdout)

    def commit(self, name: str, what: str, *words: str) -> None:
        """Runs a command that records a version, and tags it."""
        done = self.run(*words)
        self.run("tag", name)
        self.versions[name] = Version(name, what, done.seconds)

    def rebuild(self, name: str, *words: str) -> Path:
        """Checks a version out into a folder beside the repository."""
        done = self.run("checkout", name, "--to", f"../rebuilt/{name}", *words)
        self.versions[name].checkout_seconds = done.seconds
        return self.rebuilt(name)

    def rebuilt(self, name: str) -> Path:
        """Returns where a version was checked out to."""
        return self.folder / "rebuilt" / name

    def check(self, what: str, wrong: object) -> None:
        """Notes whether a claim holds; ``wrong`` says what does not, and is empty if it does."""
        self.checked += 1
        print(f"  {'FAILED' if wrong else 'ok'}  {what}{f': {wrong}' if wrong else ''}", flush=True)
        if wrong:
            self.failed.append(what)

    def answers(self, name: str, task: Task) -> Outcomes:
        """Returns which orders a rebuilt model gets right; each is asked once."""
        known = self.answered.get((name, task.name))
        if known is None:
            head = "system" if task is SYSTEM else "head"
            known = outcomes(self.rebuilt(name), task, base=self.folder / "minilm", head=head)
            self.answered[name, task.name] = known
        return known

    def measure(self, name: str, expected: Score | None, task: Task = FAILURE) -> None:
        """Measures a rebuilt model, and compares with what was measured when it was trained."""
        found = self.answers(name, task).score
        if task is FAILURE:
            self.versions[name].accuracy = found.accuracy
        else:
            self.versions[name].system = found.accuracy
        if expected is not None:
            same = found == expected
            self.check(
                f"{name} rebuilt: accuracy on task {task.name} {found.accuracy:.4f}, as trained",
                "" if same else f"{expected.accuracy:.4f} was measured then",
            )


def differing_tensors(left: Path, right: Path) -> list[str]:
    """Returns the names of tensors that two folders do not hold with the same form and bits."""
    one, other = _tensors(left), _tensors(right)
    return sorted(name for name in {*one, *other} if one.get(name) != other.get(name))


def _tensors(folder: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="np") as file:
            for name in file.keys():  # noqa: SIM118 - not a mapping
                value = np.ascontiguousarray(file.get_tensor(name))
                found[name] = (str(value.dtype), value.shape, value.tobytes())
    return found


def differing_files(left: Path, right: Path) -> list[str]:
    """Returns the paths of files that are not in both folders with the same bytes.

    The receipt on top of a folder does not count: it tells when the folder was written.
    """
    names = {p.relative_to(top) for top in (left, right) for p in top.rglob("*") if p.is_file()}
    return sorted(
        str(n) for n in names if str(n) != RECEIPT and not _same_bytes(left / n, right / n)
    )


def _same_bytes(left: Path, right: Path) -> bool:
    return left.is_file() and right.is_file() and left.read_bytes() == right.read_bytes()
