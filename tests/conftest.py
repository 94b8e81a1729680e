"""Whole commands in processes of their own, and small models for them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from safetensors.numpy import load_file, save_file

from deltavc.delta import native

# Examples may be slow on a shared machine. CI draws the same ones each time, people new ones.
settings.register_profile("people", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "people")

SERVER = Path(__file__).with_name("command_server.py")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--pure", action="store_true", help="do as if there were no native code")


def pytest_configure(config: pytest.Config) -> None:
    """Takes the native libraries away from this process where the other way is to be tested."""
    if config.getoption("--pure"):
        off = ExitStack()
        off.enter_context(native.without())
        config.add_cleanup(off.close)


@dataclass(frozen=True)
class Outcome:
    """What one command line came to."""

    code: int
    out: str
    err: str
    steps: int

    @property
    def document(self) -> Any:
        """The document on stdout."""
        return json.loads(self.out)

    @property
    def data(self) -> Any:
        """The answer in the document."""
        return self.document["data"]


class Running:
    """A process that runs command lines one after the other."""

    def __init__(self, server: str, request: dict[str, Any]) -> None:
        self._results = Path(request["results"])
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(server)
        self._stream = self._socket.makefile("rw")
        self._stream.write(json.dumps(request) + "\n")
        self._stream.flush()
        self.pid = int(self._stream.readline())
        self.status: int | None = None

    def wait(self, timeout: float = 30.0) -> list[Outcome]:
        """Waits for its end; the outcomes of a killed process lack the command that it ran."""
        self._socket.settimeout(timeout)
        try:
            self.status = int(self._stream.readline())
        except TimeoutError:  # it waits for something that will never come
            os.kill(self.pid, signal.SIGKILL)
            raise
        self._stream.close()
        self._socket.close()
        lines = self._results.read_text().splitlines() if self._results.exists() else []
        self._results.unlink(missing_ok=True)
        return [Outcome(*json.loads(line)) for line in lines]


class Commands:
    """Starts processes that run command lines."""

    def __init__(self, server: str, scratch: Path) -> None:
        self._server = server
        self._scratch = scratch
        self._count = 0
        self._lock = threading.Lock()

    def start(
        self,
        cwd: Path,
        steps: Sequence[Sequence[str] | dict[str, Any]],
        *,
        env: Mapping[str, str] | None = None,
        root: Path | None = None,
        **limits: Any,
    ) -> Running:
        """Starts a process; a step is a command line, or one with orders for its death."""
        with self._lock:
            self._count += 1
            number = self._count
        home = str(self._scratch / "home")
        request = {
            "cwd": str(cwd),
            "root": str(root or cwd),
            "steps": [s if isinstance(s, dict) else {"argv": list(s)} for s in steps],
            "env": {
                "HOME": home, "XDG_CONFIG_HOME": home, "GIT_CONFIG_NOSYSTEM": "1",
                "DELTAVC_ACTOR": "Ada <ada@example.org>", "DELTAVC_THREADS": "2",
                "PATH": os.environ["PATH"], **(env or {}),
            },
            "results": str(self._scratch / f"results-{number}"),
            **limits,
        }  # fmt: skip
        return Running(self._server, request)

    def run(self, cwd: Path, *argv: object, **options: Any) -> Outcome:
        """Runs one command line to its end."""
        running = self.start(cwd, [[str(word) for word in argv]], **options)
        outcomes = running.wait()
        assert running.status == 0, running.status
        return outcomes[0]

    def ok(self, cwd: Path, *argv: object, **options: Any) -> Outcome:
        """Runs one command line, which must succeed."""
        outcome = self.run(cwd, *argv, **options)
        assert outcome.code == 0, (argv, outcome)
        return outcome


@pytest.fixture(scope="session")
def commands() -> Iterator[Commands]:
    """The process that forks commands; one for all tests of a worker."""
    scratch = Path(tempfile.mkdtemp(prefix="dvc-"))  # a short path, as sockets need
    path = str(scratch / "socket")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, str(SERVER), path], stdout=subprocess.PIPE, text=True, env=environment
    ) as server:
        assert server.stdout is not None
        try:
            assert server.stdout.readline() == "ready\n"
            yield Commands(path, scratch)
        finally:
            server.kill()
            shutil.rmtree(scratch, ignore_errors=True)


class Models:
    """Small real models and adapters on disk."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self.folder = folder
        self.rng = np.random.default_rng(seed)
        self._count = 0
        self.tensors = {
            "emb.weight": self.rng.normal(size=(12, 8)).astype("f4"),
            "layers.0.q.weight": self.rng.normal(size=(8, 8)).astype("f4"),
            "layers.0.v.weight": self.rng.normal(size=(8, 8)).astype("f2"),
            "layers.0.v.bias": self.rng.normal(size=(8,)).astype("f4"),
            "position_ids": np.arange(4, dtype="i8"),
        }

    def place(self) -> Path:
        """A folder that is not there yet."""
        self._count += 1
        return self.folder / f"source-{self._count}"

    def base(self, **files: str) -> Path:
        """The base's folder."""
        return self.model(self.tensors, self.folder / "base", **files)

    def model(self, tensors: Mapping[str, Any], folder: Path | None = None, **files: str) -> Path:
        """A model folder."""
        folder = folder or self.place()
        folder.mkdir(parents=True, exist_ok=True)
        save_file(dict(tensors), folder / "model.safetensors", metadata={"format": "pt"})
        for name, text in {"config.json": '{"hidden_size": 8}', **files}.items():
            (folder / name).write_text(text)
        return folder

    def checkpoint(self, *changed: str) -> Path:
        """A full checkpoint in which some tensors differ from the base's."""
        tensors = {name: value.copy() for name, value in self.tensors.items()}
        for name in changed or ("layers.0.q.weight",):
            noise = self.rng.normal(size=tensors[name].shape)
            tensors[name] = (tensors[name] + 0.1 * noise).astype(tensors[name].dtype)
        return self.model(tensors)

    def adapter(self, *modules: str, factors: Any = None, **config: Any) -> Path:
        """A PEFT LoRA folder."""
        folder = self.place()
        folder.mkdir(parents=True)
        modules = modules or ("layers.0.q", "layers.0.v")
        tensors = {}
        for module in modules:
            key = f"base_model.model.{module}"
            tensors[f"{key}.lora_A.weight"] = self.rng.normal(size=(2, 8)).astype("f4")
            tensors[f"{key}.lora_B.weight"] = (0.1 * self.rng.normal(size=(8, 2))).astype("f4")
        if factors:
            factors(tensors)
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        settings = {
            "peft_type": "LORA", "r": 2, "lora_alpha": 4, "bias": "none", "task_type": None,
            "target_modules": sorted({m.rpartition(".")[2] for m in modules}),
            "modules_to_save": None, "base_model_name_or_path": "tiny", **config,
        }  # fmt: skip
        (folder / "adapter_config.json").write_text(json.dumps(settings))
        return folder


@pytest.fixture(scope="session")
def models_in() -> type[Models]:
    """Makes models in a given folder."""
    return Models


@pytest.fixture
def models(tmp_path: Path) -> Models:
    """Models in a folder of the test's own."""
    return Models(tmp_path / "models")


def tree_digest(folder: Path) -> dict[str, str]:
    """Returns what each entry of a folder holds, by relative path."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[name] = f"link {os.readlink(path)}"
        elif path.is_file():
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            found[name] = "folder"
    return found


@pytest.fixture(scope="session")
def digest_of() -> Any:
    """:func:`tree_digest`."""
    return tree_digest


@pytest.fixture(scope="session")
def weights_of() -> Any:
    """Reads a model folder as bytes by tensor, with the safetensors package."""

    def read(folder: Path) -> dict[str, tuple[str, bytes]]:
        tensors = load_file(folder / "model.safetensors")
        return {name: (str(t.dtype), t.tobytes()) for name, t in tensors.items()}

    return read


class Child:
    """A forked process that runs one function."""

    def __init__(self, function, args):
        with warnings.catch_warnings():
            # Python 3.12 warns of forks beside threads; the child runs our code alone.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
        self.status = None
        if self.pid == 0:
            code = 1
            try:
                function(*args)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)

    def alive(self):
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.status = status if pid else None
        return self.status is None

    def join(self):
        """Returns the exit code, negative for a signal."""
        if self.status is None:
            _, self.status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(self.status)

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)
        return self.join()


@pytest.fixture
def start():
    """Starts child processes; those still there at the end are killed."""
    children = []

    def begin(function, *args):
        children.append(Child(function, args))
        return children[-1]

    yield begin
    for child in children:
        if child.alive():
            child.kill()
