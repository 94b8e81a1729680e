"""A small torch module, versions of it, and ways to see which version it holds."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

import deltavc

LAYERS = ("first", "second")


class Net(torch.nn.Module):
    """Two linear layers and an embedding in float32, a half-precision one, an integer buffer."""

    def __init__(self, *, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(12, 8, dtype=dtype)
        self.first = torch.nn.Linear(8, 8, dtype=dtype)
        self.second = torch.nn.Linear(8, 8, dtype=dtype)
        self.half = torch.nn.Linear(8, 8, bias=False, dtype=torch.float16)
        self.register_buffer("steps", torch.zeros(3, dtype=torch.int64))
        self.register_buffer("scratch", torch.zeros(2), persistent=False)


class Wrapped(torch.nn.Module):
    """The same below another name."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Net()


def state(module: torch.nn.Module) -> dict[str, bytes]:
    """Returns the bytes of each tensor that a module would save."""
    return {name: raw(tensor) for name, tensor in module.state_dict().items()}


def raw(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def digest(module: torch.nn.Module) -> str:
    return hashlib.sha256(b"".join(value for _, value in sorted(state(module).items()))).hexdigest()


class Studio:
    """A repository on that module's weights, with adapters and checkpoints to commit."""

    def __init__(self, root: Path, seed: int = 0, *, alike: bool = False) -> None:
        self.root = root
        self.rng = np.random.default_rng(seed)
        self.now = 1_700_000_000_000
        self._count = 0
        torch.manual_seed(seed)
        self.weights = {n: t.numpy().copy() for n, t in Net().state_dict().items()}
        if alike:
            self.weights["second.weight"] = self.weights["first.weight"]
        self.base = self.folder()
        save_file(self.weights, self._in(self.base, "model.safetensors"))
        self.repo = deltavc.init(root / "repo", actor="Ada <ada@example.org>", clock=self.clock)
        self.repo.add_base("net", self.base)

    def clock(self) -> int:
        self.now += 1000
        return self.now

    def folder(self) -> Path:
        self._count += 1
        return self.root / f"folder-{self._count}"

    def _in(self, folder: Path, name: str) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        return folder / name

    def reopen(self) -> deltavc.Repository:
        self.repo = deltavc.open(self.root / "repo", actor="Ada <ada@example.org>")
        return self.repo

    def lora(self, *layers: str, saved: dict[str, NDArray[Any]] | None = None) -> str:
        """Commits a LoRA on some layers; returns the commit."""
        import json

        folder, tensors = self.folder(), {}
        for layer in layers or LAYERS:
            for letter, shape in (("A", (2, 8)), ("B", (8, 2))):
                key = f"base_model.model.{layer}.lora_{letter}.weight"
                tensors[key] = self.rng.normal(size=shape).astype("f4")
        for name, value in (saved or {}).items():
            tensors[f"base_model.model.{name}"] = value
        save_file(tensors, self._in(folder, "adapter_model.safetensors"))
        config = {
            "peft_type": "LORA", "r": 2, "lora_alpha": 4, "bias": "none",
            "target_modules": list(layers or LAYERS),
            "modules_to_save": sorted({n.rpartition(".")[0] for n in saved or {}}) or None,
        }  # fmt: skip
        (folder / "adapter_config.json").write_text(json.dumps(config))
        return self.commit(folder)

    def checkpoint(self, **changes: NDArray[Any] | None) -> str:
        """Commits full weights with some tensors replaced, added, or (None) left out."""
        folder = self.folder()
        tensors = {**self.weights}
        for name, value in changes.items():
            if value is None:
                del tensors[name.replace("__", ".")]
            else:
                tensors[name.replace("__", ".")] = value
        save_file(tensors, self._in(folder, "model.safetensors"))
        return self.commit(folder)

    def noisy(self) -> str:
        """Commits a checkpoint in which every float differs."""
        changed = {
            name.replace(".", "__"): (v + 0.01 * self.rng.normal(size=v.shape)).astype(v.dtype)
            for name, v in self.weights.items()
            if v.dtype.kind == "f"
        }
        return self.checkpoint(**changed)

    def commit(self, folder: Path) -> str:
        done = self.repo.commit(folder, message="a change")
        assert done.commit is not None
        return done.commit

    def written(self, rev: str) -> dict[str, bytes]:
        """Returns the bytes of each tensor that checkout writes, read by another library."""
        out = self.folder()
        self.repo.checkout(rev, to=out)
        return {n: v.tobytes() for n, v in load_file(out / "model.safetensors").items()}


@pytest.fixture
def alike(tmp_path: Path) -> Studio:
    """A base in which two weights have the same bits."""
    return Studio(tmp_path, alike=True)


@pytest.fixture
def studio(tmp_path: Path) -> Studio:
    return Studio(tmp_path)
