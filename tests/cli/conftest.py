"""Fixtures of the command line's tests: a clean environment, runs in and out of process."""

from __future__ import annotations

import json
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fcntl import ioctl
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from deltavc.cli.main import main
from deltavc.cli.verb import Verb
from deltavc.cli.verbs import VERBS, VerbRow, module_of

REMOVED = ("NO_COLOR", "FORCE_COLOR", "PAGER", "CI", "EDITOR", "VISUAL", "SOURCE_DATE_EPOCH")
NOW = 1_800_000_000


@dataclass
class Ran:
    """Outcome of one command line."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one document on stdout."""
        lines = self.out.splitlines()
        assert len(lines) == 1, self.out
        return json.loads(lines[0])


@pytest.fixture(autouse=True)
def clean_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder and home, and no variable that changes the output."""
    home = tmp_path / "home"
    work = tmp_path / "work"
    home.mkdir()
    work.mkdir()
    for name in list(os.environ):
        if name.startswith(("DELTAVC_", "GIT_", "_DELTAVC")) or name in REMOVED:
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / ".config"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", str(NOW))
    monkeypatch.setenv("DELTAVC_ACTOR", "Ada <ada@example.org>")
    monkeypatch.chdir(work)
    return work


@pytest.fixture
def deltavc(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Runs a command line in this process."""

    def run(*argv: object) -> Ran:
        capsys.readouterr()
        code = main([str(word) for word in argv])
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return run


@pytest.fixture
def deltavc_process() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a command line in a process of its own."""

    def run(*argv: object, **kwargs: Any) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", "from deltavc.cli.main import run; run()"]
        settings = {"capture_output": True, "text": True, "timeout": 60, "check": False, **kwargs}
        return subprocess.run([*command, *map(str, argv)], **settings)

    return run


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Verb], None]]:
    """Adds a verb to the table, the way that verbs are added."""

    def add(command: Verb) -> None:
        assert command.name is not None
        module = ModuleType(module_of(command.name))
        module.command = command  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(VERBS, command.name, VerbRow("Help", command.summary()))

    return add


@pytest.fixture
def on_terminal() -> Callable[..., Ran]:
    """Runs a command line with a terminal of a given size on all three streams."""

    def run(
        *argv: object, rows: int = 24, columns: int = 80, typed: str = "", code: str = ""
    ) -> Ran:
        controller, terminal = pty.openpty()
        ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        program = f"{code}\nfrom deltavc.cli.main import run; run()"
        process = subprocess.Popen(
            [sys.executable, "-c", program, *map(str, argv)],
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            close_fds=True,
        )
        os.close(terminal)
        if typed:
            os.write(controller, typed.encode())
        chunks = []
        while True:
            try:
                chunk = os.read(controller, 65536)
            except OSError:  # Linux: the other side has closed
                break
            if not chunk:
                break
            chunks.append(chunk)
        os.close(controller)
        text = b"".join(chunks).decode().replace("\r\n", "\n")
        return Ran(process.wait(timeout=30), text, "")

    return run
