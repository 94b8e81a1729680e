"""What a merge of full checkpoints holds in memory: not the parameters."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np

import deltavc

from .conftest import write_model  # type: ignore[import-not-found]

ROWS, COLUMNS = 4096, 4096  # 32 MiB in float16, beyond the size from which buffers are files


def test_a_merge_of_full_checkpoints_holds_no_parameter(tmp_path: Path) -> None:
    draw = np.random.default_rng(5)
    base = draw.standard_normal((ROWS, COLUMNS), dtype="f4")
    name = "emb.weight"
    repo = deltavc.init(tmp_path / "repo", actor="Ada <ada@example.org>", threads=2)
    repo.add_base("wide", write_model(tmp_path / "base", {name: base.astype("f2")}))
    repo.commit(tmp_path / "base", message="the base itself")
    repo.switch("side", create=True)
    for branch in ("side", "main"):
        repo.switch(branch)
        move = draw.standard_normal((ROWS, 1), dtype="f4") * np.float32(0.01)
        folder = write_model(tmp_path / branch, {name: (base + move * base).astype("f2")})
        repo.commit(folder, message=branch)
    tracemalloc.start()
    try:
        done = repo.merge(["side"], strategy="ties")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert done.rows[0].outcome == "ties"
    assert peak < base.nbytes // 2  # the parameter's size, of which five buffers are needed
