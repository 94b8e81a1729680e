"""Runs what the documentation shows, and compares what happens with what the page says.

A page with the line ``<!-- runs -->`` is executed from top to bottom in a folder of its own:

- a ``console`` block: each line after ``$ `` is a command, what follows is its output;
- a ``python`` block is executed, all of a page in one namespace;
- a ``{code-block}`` with ``:caption: NAME`` is written to the file NAME;
- a block inside ``<!-- setup`` … ``-->`` runs without being shown; there ``make_models`` is the
  script of the tutorial.

Ids in a page are those of the run that wrote it. Another run has others, so ids are matched by
order of appearance, also inside commands; sizes and durations match any. A line ``...`` in an
output matches any lines. ``python tests/docs/pages.py PAGE…`` writes the outputs anew.
"""

from __future__ import annotations

import contextlib
import difflib
import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
TUTORIAL = DOCS / "tutorial" / "first-repository.md"
MARK = "<!-- runs -->"
BLOCK = re.compile(
    r"^(?P<fence>```+)(?P<info>[^\n]*)\n(?P<body>.*?)^(?P=fence)$|^<!-- setup\n(?P<setup>.*?)^-->$",
    re.DOTALL | re.MULTILINE,
)
ID = re.compile(r"\b(?:[0-9a-f]{64}|[0-9a-f]{10}|[0-9a-f]{8})\b(?!-)")
NUMBERS = (
    (re.compile(r"[\d.,]+ (?:B|KiB|MiB|GiB)\b(?:/s)?"), "SIZE"),
    (re.compile(r"\b[\d.]+ (?:ms|s|min)\b(?! ago)"), "SECONDS"),
    (re.compile(r"\bjust now\b|\b\d+ (?:s|min|h) ago\b"), "AGO"),
    (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d)?(?:\.\d+)?(?:Z| UTC)?"), "TIME"),
    (re.compile(r"\d+\.\d+(?:e-?\d+)?"), "NUMBER"),
    (re.compile(r"\bSHA256:[\w+/]{43}"), "FINGERPRINT"),
    (re.compile(r"'/[^' ]*/"), "'/PATH/"),
    (re.compile(r"  +"), " "),
)
ENVIRONMENT = {
    "DELTAVC_ACTOR": "Ada <ada@example.org>",
    "DELTAVC_PROGRESS": "0",
    "GIT_CONFIG_NOSYSTEM": "1",
    "TERM": "dumb",
    "COLUMNS": "100",
    "LC_ALL": "C.UTF-8",
}


@dataclass
class Step:
    """One thing to do: a command, Python code, or a file to write."""

    kind: str
    text: str
    expected: list[str] = field(default_factory=list)
    shown: bool = True
    span: tuple[int, int] = (0, 0)  # of the output, in the page


def pages() -> list[Path]:
    """Returns the pages that are run."""
    return [path for path in sorted(DOCS.rglob("*.md")) if MARK in path.read_text()]


def steps(text: str) -> Iterator[Step]:
    """Yields what a page does."""
    for block in BLOCK.finditer(text):
        if block["setup"] is not None:
            yield from _console(block["setup"], block.start("setup"), shown=False)
            continue
        info, body = block["info"].strip(), block["body"]
        if info == "console":
            yield from _console(body, block.start("body"), shown=True)
        elif info == "python":
            yield Step("python", body)
        elif info.startswith("{code-block}") and body.startswith(":caption: "):
            head, _, content = body.partition("\n\n")
            yield Step("file", content, [head.removeprefix(":caption: ")])


def _console(body: str, start: int, *, shown: bool) -> Iterator[Step]:
    step: Step | None = None
    at = start
    for line in body.splitlines(keepends=True):
        if line.startswith("$ "):
            if step is not None:
                yield step
            step = Step("command", line[2:].rstrip("\n"), shown=shown)
            step.span = (at + len(line), at + len(line))
        elif step is not None:
            if step.text.endswith("\\") and line.startswith("> "):
                step.text = step.text[:-1] + line[2:].rstrip("\n")
                step.span = (at + len(line), at + len(line))
            else:
                step.expected.append(line.rstrip("\n"))
                step.span = (step.span[0], at + len(line))
        at += len(line)
    if step is not None:
        while step.expected and not step.expected[-1]:
            step.expected.pop()
        yield step


class Ids:
    """Which id of a page is which of the run."""

    def __init__(self) -> None:
        self.actual: dict[str, str] = {}

    def learn(self, expected: str, found: str) -> None:
        for mine, theirs in zip(ID.findall(expected), ID.findall(found), strict=False):
            self.actual.setdefault(mine, theirs)

    def translate(self, text: str) -> str:
        """Returns a command or an output of the page with the ids of the run."""
        return ID.sub(lambda hit: self._find(hit[0]), text)

    def _find(self, oid: str) -> str:
        if oid in self.actual:
            return self.actual[oid]
        near = [theirs for mine, theirs in self.actual.items() if mine.startswith(oid)]
        return near[0][: len(oid)] if near else oid


def matches(expected: list[str], found: list[str], ids: Ids) -> bool:
    """Tells whether an output is what the page says, and learns the ids in it."""
    if not expected:
        return not found
    if expected[0] == "...":
        return any(matches(expected[1:], found[i:], ids) for i in range(len(found) + 1))
    if not found:
        return False
    trial = Ids()
    trial.actual = dict(ids.actual)
    trial.learn(expected[0], found[0])
    if plain(trial.translate(expected[0])) != plain(found[0]):
        return False
    before, ids.actual = ids.actual, trial.actual
    if matches(expected[1:], found[1:], ids):
        return True
    ids.actual = before
    return False


def plain(line: str) -> str:
    """Returns a line without what differs from run to run."""
    for pattern, word in NUMBERS:
        line = pattern.sub(word, line)
    return line.strip()


class Runner:
    """Executes the steps of a page in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ids = Ids()
        self.names: dict[str, object] = {"__name__": "page"}

    def run(self, step: Step) -> list[str]:
        """Does a step; returns the lines of its output."""
        if step.kind == "file":
            (self.folder / step.expected[0]).write_text(step.text)
            return []
        if step.kind == "python":
            output = io.StringIO()
            with contextlib.redirect_stdout(output), contextlib.chdir(self.folder):
                exec(compile(step.text, "page", "exec"), self.names)
            return output.getvalue().splitlines()
        return self.command(self.ids.translate(step.text)).splitlines()

    def command(self, line: str) -> str:
        if line == "make_models":
            script = next(step for step in steps(TUTORIAL.read_text()) if step.kind == "file")
            self.run(script)
            return self.command(f"python {script.expected[0]}")
        if line.startswith("deltavc ") and not re.search(r"[|<>;&]", line):
            return self._deltavc(line)
        binaries = str(Path(sys.executable).parent)
        path = f"{binaries}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=self.folder,
            env={**os.environ, **ENVIRONMENT, "PATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=100,
        )
        return done.stdout

    def _deltavc(self, line: str) -> str:
        """Runs the command line in this process: starting one takes 20 times as long."""
        import shlex

        from deltavc.cli.main import main

        stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
        stdin = io.TextIOWrapper(io.BytesIO())
        kept = sys.stdin
        with (
            environment(),
            contextlib.chdir(self.folder),
            contextlib.redirect_stdout(stream),
            contextlib.redirect_stderr(stream),
        ):
            sys.stdin = stdin
            try:
                main(shlex.split(line)[1:])
            finally:
                sys.stdin = kept
        return stream.buffer.getvalue().decode()  # type: ignore[attr-defined]


@contextlib.contextmanager
def environment() -> Iterator[None]:
    """Sets the variables that a page is run with, and takes the person's away."""
    before = dict(os.environ)
    for name in list(os.environ):
        if name.startswith(("DELTAVC_", "GIT_")) or name in ("NO_COLOR", "FORCE_COLOR", "PAGER"):
            del os.environ[name]
    os.environ.update(ENVIRONMENT)
    os.environ["XDG_CONFIG_HOME"] = "/nonexistent"
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def check(page: Path, folder: Path) -> list[str]:
    """Runs a page; returns what differs, as lines for people."""
    runner, wrong = Runner(folder), []
    for step in steps(page.read_text()):
        found = runner.run(step)
        if step.kind == "command" and step.shown and not matches(step.expected, found, runner.ids):
            wrong += [f"$ {step.text}"]
            ours = runner.ids.translate("\n".join(step.expected)).splitlines()
            wrong += list(difflib.unified_diff(ours, found, "page", "run", lineterm=""))
        if wrong:
            break  # what follows only repeats it
    return wrong


def update(page: Path, folder: Path) -> None:
    """Writes the outputs of a page anew; an output with a line ``...`` stays."""
    text, runner = page.read_text(), Runner(folder)
    shift = 0
    for step in list(steps(text)):
        found = runner.run(step)
        if step.kind != "command" or not step.shown:
            continue
        if matches(step.expected, found, runner.ids) or "..." in step.expected:
            continue
        back = {theirs: mine for mine, theirs in runner.ids.actual.items()}
        found = [ID.sub(lambda hit, back=back: back.get(hit[0], hit[0]), line) for line in found]
        new = "".join(f"{line}\n" for line in found)
        start, end = (at + shift for at in step.span)
        if text[start:end].endswith("\n\n") and new:
            new += "\n"
        text = text[:start] + new + text[end:]
        shift += len(new) - (end - start)
        for oid in ID.findall(new):
            runner.ids.actual.setdefault(oid, oid)
    page.write_text(text)


if __name__ == "__main__":
    import tempfile

    for name in sys.argv[1:] or [str(path) for path in pages()]:
        with tempfile.TemporaryDirectory() as made:
            update(Path(name).resolve(), Path(made))
