"""Deltas that keep tensors in blobs of their own: loading, fsck, and a blob that is gone."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import deltavc
from deltavc.delta import kinds
from deltavc.delta.tensor import Tensor
from deltavc.delta.vector import Vector
from deltavc.errors import ObjectMissing
from deltavc.ids import BaseId, BlobId
from deltavc.repo.objects import ObjectSink
from deltavc.repo.record import About, record_version


def f32(values: object) -> Tensor:
    return Tensor.from_array(np.asarray(values, dtype=np.float32))


def version_with_shared(root: Path) -> tuple[deltavc.Repository, dict[str, BlobId], np.ndarray]:  # type: ignore[type-arg]
    """Commits a VeRA delta by hand; returns the ids of its blobs and the weights that it gives."""
    (root / "base").mkdir()
    save_file({"w": torch.ones(3, 4)}, root / "base" / "model.safetensors")
    repo = deltavc.init(root / "repo", actor="Ada <ada@example.org>")
    repo.add_base("base", root / "base")
    shared = {"a": f32(np.arange(12).reshape(2, 6)), "b": f32(np.arange(10).reshape(5, 2))}
    tensors = shared | {"lambda_b": f32([1, 2, 3]), "lambda_d": f32([1, -1])}
    inner = repo._repo
    record = inner.base_names(inner.state())["base"]
    with inner.change("commit") as change:
        with inner.store.pack() as first:
            sink = ObjectSink(inner.store, first)
            ids = {name: sink.blob(bytes(tensor.raw())) for name, tensor in shared.items()}
            first.finish()
        delta = kinds.product("vera", tensors, Fraction(1, 2), shape=(3, 4), shared=ids)
        with inner.store.pack() as second:
            sink = ObjectSink(inner.store, second)
            params = {"w": {sink.delta(delta)[0]: Fraction(1)}}
            vector = Vector(BaseId(record.base), params, {})
            record_version(inner, change, sink, vector, About("by hand"))
            second.finish()
    left, right = delta.matrices()
    return repo, ids, 1 + left @ right / 2


def test_a_version_with_shared_tensors_is_rebuilt_and_whole(tmp_path: Path) -> None:
    repo, _, wanted = version_with_shared(tmp_path)
    assert np.array_equal(repo.load("HEAD")["w"].numpy(), wanted.astype(np.float32))
    assert repo.fsck().ok
    assert repo.fsck(quick=True).ok


def test_fsck_misses_a_blob_that_only_a_delta_refers_to(tmp_path: Path) -> None:
    repo, ids, _ = version_with_shared(tmp_path)
    store = repo._repo.store
    packs = repo.path / ".deltavc" / "objects" / "packs"
    (gone,) = [
        pack for pack in packs.iterdir() if bytes.fromhex(ids["a"]) in pack.read_bytes()[-600:]
    ]
    gone.unlink()
    store.packs.refresh()
    again = deltavc.open(repo.path)
    found = {f.subject for f in again.fsck(quick=True).findings if f.code == "object-missing"}
    assert found == set(ids.values())
    with pytest.raises(ObjectMissing):
        again.load("HEAD")
