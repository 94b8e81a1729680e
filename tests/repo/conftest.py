"""Small real models for tests of the repository: bases, checkpoints and PEFT folders on disk."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

import deltavc

Arrays = dict[str, NDArray[Any]]


def write_model(folder: Path, tensors: Mapping[str, NDArray[Any]], **files: str) -> Path:
    """Writes a Hugging Face-like folder with the safetensors package."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    save_file(arrays, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(files.pop("config", '{"hidden_size": 8}'))
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def write_adapter(
    folder: Path,
    factors: Mapping[str, tuple[NDArray[Any], NDArray[Any]]],
    *,
    alpha: float = 4.0,
    saved: Mapping[str, NDArray[Any]] | None = None,
    **config: Any,
) -> Path:
    """Writes a PEFT LoRA folder: module name to (B, A)."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors: Arrays = {}
    for module, (b, a) in factors.items():
        tensors[f"base_model.model.{module}.lora_B.weight"] = np.ascontiguousarray(b)
        tensors[f"base_model.model.{module}.lora_A.weight"] = np.ascontiguousarray(a)
    for name, value in (saved or {}).items():
        tensors[f"base_model.model.{name}"] = np.ascontiguousarray(value)
    rank = next(iter(factors.values()))[1].shape[0]
    settings = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": sorted({m.rpartition(".")[2] for m in factors}),
        "modules_to_save": sorted({n.rpartition(".")[0] for n in saved}) if saved else None,
        "bias": "none",
        "task_type": None,
        "base_model_name_or_path": "tiny",
    } | config
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder


def bits(tensors: Mapping[str, Any]) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Returns dtype, shape and bytes of each tensor, of torch or NumPy."""
    found = {}
    for name, value in tensors.items():
        if hasattr(value, "detach"):
            import torch

            raw = value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
            found[name] = (str(value.dtype).removeprefix("torch."), tuple(value.shape), raw)
        else:
            found[name] = (str(value.dtype), value.shape, np.ascontiguousarray(value).tobytes())
    return found


def read_model(folder: Path) -> Arrays:
    """Reads a folder with the safetensors package."""
    return load_file(folder / "model.safetensors")


class Lab:
    """A repository with a small base, and ways to make things to commit."""

    def __init__(self, root: Path, seed: int = 0) -> None:
        self.root = root
        self.rng = np.random.default_rng(seed)
        self.now = 1_700_000_000_000
        self.base: Arrays = {
            "emb.weight": self.rng.normal(size=(12, 8)).astype("f4"),
            "layers.0.q.weight": self.rng.normal(size=(8, 8)).astype("f4"),
            "layers.0.v.weight": self.rng.normal(size=(8, 8)).astype("f2"),
            "layers.0.v.bias": self.rng.normal(size=(8,)).astype("f4"),
            "position_ids": np.arange(4, dtype="i8"),
        }
        self.base_folder = write_model(root / "base", self.base)
        self.repo = deltavc.init(root / "repo", actor="Ada <ada@example.org>", clock=self.clock)
        self.repo.add_base("tiny", self.base_folder)
        self._count = 0

    def clock(self) -> int:
        self.now += 1000
        return self.now

    def reopen(self) -> deltavc.Repository:
        self.repo = deltavc.open(
            self.root / "repo", actor="Ada <ada@example.org>", clock=self.clock
        )
        return self.repo

    def folder(self) -> Path:
        self._count += 1
        return self.root / f"source-{self._count}"

    def lora(self, *modules: str, rank: int = 2, size: float = 0.1, saved: Any = None) -> Path:
        modules = modules or ("layers.0.q", "layers.0.v")
        factors = {
            m: (
                (size * self.rng.normal(size=(8, rank))).astype("f4"),
                self.rng.normal(size=(rank, 8)).astype("f4"),
            )
            for m in modules
        }
        return write_adapter(self.folder(), factors, saved=saved)

    def checkpoint(self, change: Callable[[Arrays], None], **files: str) -> Path:
        tensors = {name: value.copy() for name, value in self.base.items()}
        change(tensors)
        return write_model(self.folder(), tensors, **files)

    def commit(self, source: Path, message: str = "a change", **options: Any) -> str:
        done = self.repo.commit(source, message=message, **options)
        assert done.commit is not None
        return done.commit

    def bits(self, rev: str = "HEAD") -> dict[str, tuple[str, tuple[int, ...], bytes]]:
        return bits(self.repo.load(rev))


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)
