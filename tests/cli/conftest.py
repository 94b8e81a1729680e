"""Fixtures of the command line's tests: a clean environment, runs in and out of process."""

from __future__ import annotations

import json
import os
import pty
import shutil
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

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

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


class ModelFolders:
    """Small models in the working folder, the same ones in every run: a base and what was trained.

    ``base``, ``other`` (its embedding differs), ``full`` (one weight is changed), PEFT folders
    ``adapter-1`` (rank 2), ``adapter-2`` (rank 2) and ``adapter-3`` (rank 3, query only).
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rng = np.random.default_rng(7)
        self.base = {
            "embed.weight": self._normal(10, 8),
            **{f"layers.{n}.{m}.weight": self._normal(8, 8) for n in (0, 1) for m in "qv"},
        }
        self.model("base", self.base)
        self.model("other", self.base | {"embed.weight": self._normal(10, 8)})
        weight = self.base["layers.1.v.weight"] + 0.01 * self._normal(8, 8)
        self.model("full", self.base | {"layers.1.v.weight": weight})
        self.adapter("adapter-1", 2, "layers.0.q", "layers.0.v", "layers.1.q", "layers.1.v")
        self.adapter("adapter-2", 2, "layers.0.q", "layers.0.v", "layers.1.q", "layers.1.v")
        self.adapter("adapter-3", 3, "layers.0.q")
        for path in folder.glob("*/*"):  # else too young to be known by size and time
            os.utime(path, (path.stat().st_mtime - 3600,) * 2)

    def _normal(self, *shape: int) -> NDArray[np.float32]:
        return self.rng.normal(size=shape).astype(np.float32)

    def model(self, name: str, tensors: dict[str, NDArray[Any]]) -> Path:
        """Writes a model folder."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "config.json").write_text('{"hidden_size": 8}')
        return folder

    def adapter(self, name: str, rank: int, *modules: str) -> Path:
        """Writes a PEFT LoRA folder."""
        folder = self.folder / name
        folder.mkdir()
        tensors = {}
        for module in modules:
            tensors[f"base_model.model.{module}.lora_A.weight"] = self._normal(rank, 8)
            tensors[f"base_model.model.{module}.lora_B.weight"] = 0.1 * self._normal(8, rank)
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        config = {
            "peft_type": "LORA",
            "r": rank,
            "lora_alpha": rank,
            "target_modules": ["q", "v"],
            "bias": "none",
            "base_model_name_or_path": "tiny",
        }
        (folder / "adapter_config.json").write_text(json.dumps(config))
        return folder


@pytest.fixture
def models(clean_environment: Path) -> ModelFolders:
    """Models in the working folder."""
    return ModelFolders(clean_environment)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., None]:
    """Builds the working folder by command lines; from the second time on it is copied."""
    kept: dict[tuple[str, ...], Path] = {}

    def build(lines: tuple[str, ...], deltavc: Callable[..., Ran]) -> None:
        here = Path.cwd()
        if lines in kept:
            shutil.copytree(kept[lines], here, dirs_exist_ok=True)
            return
        for line in lines:
            ran = deltavc(*line.split())
            assert ran.code == 0, ran.err
        kept[lines] = tmp_path_factory.mktemp("built") / "work"
        shutil.copytree(here, kept[lines])

    return build


TWO_REVISIONS = (
    "init",
    "base add tiny base",
    "commit adapter-1 -m first --kpi accuracy=0.853",
    "commit adapter-2 -m second --label data=october",
)
TWO_BRANCHES = (
    *TWO_REVISIONS,
    "commit full -m third",
    "switch -c side --start HEAD~2",
    "commit adapter-3 --stack -m fourth --kpi accuracy=0.9",
    "switch main",
)


@pytest.fixture
def repository(
    models: ModelFolders, deltavc: Callable[..., Ran], built: Callable[..., None]
) -> Callable[..., Ran]:
    """A repository in the working folder with the base ``tiny`` and two revisions on main."""
    built(TWO_REVISIONS, deltavc)
    return deltavc


@pytest.fixture
def branches(
    models: ModelFolders, deltavc: Callable[..., Ran], built: Callable[..., None]
) -> Callable[..., Ran]:
    """As ``repository``, and a third on main; side branched off after the first for a fourth."""
    built(TWO_BRANCHES, deltavc)
    return deltavc
