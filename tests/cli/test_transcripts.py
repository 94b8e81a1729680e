"""Console transcripts against the program: command, stdout, then stderr, then the exit code.

The ``console`` blocks of ``cases/*.md`` run in one folder that holds the models of
``conftest.ModelFolders``. A line ``[exit N]`` ends a command that does not exit 0.
A word in brackets is a placeholder: in capitals it stands for one id, shortened or
not, and for the same one each time; in small letters for any words of one line.
Runs of spaces count as one where a line holds a placeholder, since widths vary with it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

CASES = sorted(Path(__file__).with_name("cases").glob("*.md"))
PLACEHOLDER = re.compile(r"\[([A-Z]+|[a-z]+)\]")
EXIT = re.compile(r"\[exit (\d+)\]\Z")


@dataclass
class Step:
    """One command of a transcript and what it is to say."""

    command: str
    lines: list[str] = field(default_factory=list)
    code: int = 0


def steps_of(text: str) -> list[Step]:
    """Reads the commands of a Markdown file's console blocks."""
    steps: list[Step] = []
    for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                steps.append(Step(line.removeprefix("$ deltavc ")))
            elif found := EXIT.match(line):
                steps[-1].code = int(found[1])
            else:
                steps[-1].lines.append(line)
    return steps


class Bindings:
    """What the placeholders in capitals stand for."""

    def __init__(self) -> None:
        self._ids: dict[str, str] = {}

    def fits(self, expected: str, line: str) -> bool:
        """Tells whether a line is as expected, and remembers new ids."""
        if PLACEHOLDER.search(expected) is None:
            return expected == line
        names = PLACEHOLDER.findall(expected)
        literals = [re.escape(part) for part in PLACEHOLDER.split(expected)[::2]]
        groups = [r"([0-9a-f]{8,64})" if name.isupper() else r"(\S.*?)" for name in names]
        pattern = "".join(a + b for a, b in zip(literals, [*groups, ""], strict=True))
        found = re.fullmatch(re.sub(r"(\\ )+", " +", pattern), line.rstrip())
        if found is None:
            return False
        ids = [(n, v) for n, v in zip(names, found.groups(), strict=True) if n.isupper()]
        return all(self._same(name, value) for name, value in ids)

    def _same(self, name: str, value: str) -> bool:
        known = self._ids.setdefault(name, value)
        if len(value) > len(known):
            self._ids[name] = value
        return known.startswith(value) or value.startswith(known)


@pytest.mark.usefixtures("models")
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_the_program_says_what_the_transcript_says(path: Path, deltavc: Callable[..., Any]) -> None:
    steps = steps_of(path.read_text(encoding="utf-8"))
    assert len(steps) > 5
    bindings = Bindings()
    for step in steps:
        ran = deltavc(*shlex.split(step.command))
        lines = (ran.out + ran.err).splitlines()
        told = "\n".join([f"$ deltavc {step.command}", *lines, f"[exit {ran.code}]"])
        assert ran.code == step.code, told
        assert len(lines) == len(step.lines), told
        for expected, line in zip(step.lines, lines, strict=True):
            assert bindings.fits(expected, line), f"expected: {expected}\n{told}"


def test_placeholders() -> None:
    bindings = Bindings()
    assert bindings.fits("[main [A]] x", "[main 0123456789] x")
    assert bindings.fits("[A]  took [time]", "01234567  took 3 min 05 s")
    assert not bindings.fits("[A]", "9123456789")
    assert not bindings.fits("[A] x", "0123456789")
    assert not bindings.fits("plain  words", "plain words")
