"""The workspace switched in place and used as a source, and the base that moves or changes."""

from __future__ import annotations

import json
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

import deltavc
from deltavc.errors import (
    BaseMismatch,
    BaseUnavailable,
    NameTaken,
    Protected,
    UnknownRevision,
    UsageError,
    WorkspaceDirty,
)
from deltavc.repo import bases

from .conftest import Lab, bits, read_model, write_model  # type: ignore[import-not-found]


def files(folder: Path) -> dict[str, bytes]:
    """Returns what a folder holds beside the receipt, which has the time in it."""
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and p != folder / "deltavc.json"
    }


@pytest.fixture
def versions(lab: Lab) -> Lab:
    """Six versions of every sort: adapters, sparse, files, another layout, the base."""
    lab.commit(lab.base_folder, "root")
    lab.commit(lab.lora(), "lora")
    lab.commit(lab.lora(rank=3, size=2.0), "stack", stack=True)

    def sparse(t: dict[str, Any]) -> None:
        t["emb.weight"][2, 3] = -0.0
        t["layers.0.v.bias"][0] = np.nan

    lab.commit(lab.checkpoint(sparse, tokenizer="new"), "sparse")
    lab.commit(
        lab.checkpoint(lambda t: t.update({"head.weight": np.ones((2, 8), "f4")})), "new head"
    )
    lab.commit(lab.checkpoint(lambda t: t.update({"emb.weight": t["emb.weight"] * 5})), "last")
    for i, row in enumerate(reversed(lab.repo.log())):
        lab.repo.tag(f"v{i}", row.commit)
    return lab


class TestInPlace:
    def test_any_switch_gives_a_fresh_checkouts_bytes(self, versions: Lab) -> None:
        lab, fresh = versions, {}
        for i in range(6):
            lab.repo.checkout(f"v{i}", to=lab.root / f"fresh{i}")
            fresh[i] = files(lab.root / f"fresh{i}")
        order = [0, 1, 2, 3, 4, 5, 0, 3, 1, 5, 4, 2, 0, 5, 3, 2, 4, 1, 3, 0, 4, 0, 2, 5, 1, 4, 3, 5]
        in_place = 0
        for i in order:
            done = lab.repo.checkout(f"v{i}", verify=True)
            in_place += done.in_place
            assert files(lab.root / "repo/model") == fresh[i]
            assert lab.repo.status().clean
        assert in_place > len(order) / 2
        assert lab.repo.checkout("v5").tensors_written == 0

    def test_unrecorded_edits_are_refused_and_kept(self, versions: Lab) -> None:
        lab = versions
        lab.repo.checkout("v1")
        model = lab.root / "repo/model"
        path = model / "model.safetensors"

        def edit_weights() -> None:
            tensors = load_file(path)
            tensors["emb.weight"] += 1
            save_file(tensors, path, metadata={"format": "pt"})

        edits = {
            "weights": edit_weights,
            "config": lambda: (model / "config.json").write_text('{"hidden_size": 9}'),
            "added": lambda: (model / "notes.txt").write_text("mine"),
            "removed": lambda: (model / "config.json").unlink(),
            "checkpoint": lambda: (model / "optimizer.pt").write_bytes(b"state"),
        }
        for name, edit in edits.items():
            edit()
            mine = files(model)
            with pytest.raises(WorkspaceDirty) as caught:
                lab.repo.checkout("v2")
            assert caught.value.exit_code == 31, name
            assert files(model) == mine, name
            if name != "checkpoint":  # what no version holds is no difference of versions
                assert lab.repo.status().clean is False, name
            lab.repo.checkout("v1", force=True)
            assert lab.repo.status().clean
        lab.repo.checkout("v2")

    def test_a_folder_that_is_not_ours_is_refused(self, versions: Lab) -> None:
        target = versions.root / "elsewhere"
        target.mkdir()
        (target / "thesis.txt").write_text("years of work")
        with pytest.raises(WorkspaceDirty, match="did not write"):
            versions.repo.checkout("v1", to=target)
        assert (target / "thesis.txt").exists()
        versions.repo.checkout("v1", to=target, force=True)
        assert files(target).keys() == {"model.safetensors", "config.json"}
        versions.repo.checkout("v2", to=target)  # ours now
        assert bits(read_model(target)) == versions.bits("v2")

    def test_touched_or_copied_files_with_the_same_bits_are_no_edits(self, versions: Lab) -> None:
        lab = versions
        lab.repo.checkout("main")
        model = lab.root / "repo/model"
        shutil.copytree(model, lab.root / "copy")
        shutil.rmtree(model)
        (lab.root / "copy").rename(model)
        assert lab.repo.status().clean
        lab.repo.checkout("v1")
        assert bits(read_model(model)) == lab.bits("v1")

    def test_a_switch_that_was_cut_off_is_done_again(self, versions: Lab) -> None:
        lab = versions
        lab.repo.checkout("v1")

        class Killed(BaseException):
            pass

        calls = 0

        def progress(what: str, done: int, total: int) -> None:
            nonlocal calls
            calls += what == "rebuild"
            if calls > 1:
                raise Killed

        dying = deltavc.open(lab.root / "repo", progress=progress, threads=1, clock=lab.clock)
        with pytest.raises(Killed):
            dying.checkout("v2")
        lab.reopen()
        assert lab.repo.status().interrupted
        lab.repo.checkout("v2", verify=True)
        assert bits(read_model(lab.root / "repo/model")) == lab.bits("v2")
        assert lab.repo.status().clean
        assert not lab.repo.status().interrupted


class TestSource:
    def test_edit_status_commit_switch(self, lab: Lab) -> None:
        lab.commit(lab.lora())
        first = lab.bits()
        lab.repo.checkout("main")
        assert lab.repo.status().clean
        path = lab.root / "repo/model/model.safetensors"
        tensors = load_file(path)
        tensors["emb.weight"] = tensors["emb.weight"] * np.float32(2)
        del tensors["layers.0.v.bias"]
        tensors["head.weight"] = np.ones((2, 8), "f4")
        save_file(tensors, path, metadata={"format": "pt"})
        (lab.root / "repo/model/tokenizer.json").write_text("{}")
        status = lab.repo.status()
        assert status.clean is False
        assert [row["name"] for row in status.changed] == ["emb.weight"]
        assert status.changed[0]["relative"] == pytest.approx(1)
        assert (status.new, status.missing) == (["head.weight"], ["layers.0.v.bias"])
        assert status.files == ["tokenizer.json"]
        found = lab.repo.diff()
        assert {row.parameter for row in found.rows} == {"emb.weight", "head.weight"}
        done = lab.repo.commit(message="edited by hand")
        assert done.source == "checkpoint"
        assert {row.kind: row.parameters for row in done.kinds}["as at HEAD"] == 2
        assert lab.bits() == bits(tensors)
        assert lab.repo.status().clean
        lab.repo.checkout("main~1")  # what was just recorded may be left
        assert bits(read_model(lab.root / "repo/model")) == first
        lab.repo.checkout("main")
        assert bits(read_model(lab.root / "repo/model")) == bits(tensors)

    def test_status_without_hashing(self, lab: Lab) -> None:
        lab.commit(lab.lora())
        assert not lab.repo.status().workspace_exists
        lab.repo.checkout("main")
        assert lab.repo.status(hash=False).clean is True
        lab.commit(lab.lora())
        status = lab.repo.status(hash=False)
        assert (status.clean, status.hashed) == (None, False)
        assert status.workspace_commit == lab.repo.resolve("HEAD~1")
        assert lab.repo.status().clean is False

    def test_an_unchanged_workspace_has_nothing_to_commit(self, lab: Lab) -> None:
        lab.commit(lab.lora())
        lab.repo.checkout("main")
        lab.repo.commit(message="the workspace")
        assert lab.repo.diff("HEAD", "HEAD~1" if len(lab.repo.log()) > 1 else "HEAD").rows == []

    def test_a_bare_repository_has_none(self, lab: Lab, tmp_path: Path) -> None:
        repo = deltavc.init(tmp_path / "bare", bare=True)
        repo.add_base("tiny", lab.base_folder)
        repo.commit(lab.lora(), message="m")
        with pytest.raises(UsageError, match="bare"):
            repo.checkout("main")
        with pytest.raises(UsageError):
            repo.commit(message="m")
        repo.checkout("main", to=tmp_path / "out")
        assert repo.status().workspace is None


def uses(lab: Lab) -> list[Callable[[], object]]:
    """Returns what needs the base's tensors."""
    return [
        lab.repo.load,
        lambda: lab.repo.checkout("main"),
        lambda: lab.commit(lab.lora()),
    ]


class TestBase:
    def test_a_base_that_moved(self, lab: Lab) -> None:
        lab.commit(lab.lora())
        wanted = lab.bits()
        moved = lab.root / "moved"
        lab.base_folder.rename(moved)
        for use in (
            lab.repo.load,
            lambda: lab.repo.checkout("main"),
            lambda: lab.commit(lab.lora()),
        ):
            with pytest.raises(BaseUnavailable) as caught:
                use()
            assert caught.value.exit_code == 26
            assert "base add tiny" in caught.value.hint
        assert lab.repo.log()[0].message == "a change"
        assert bits(lab.repo.load(base_path=moved)) == wanted
        lab.repo.checkout("main", to=lab.root / "out", base_path=moved)
        assert bits(read_model(lab.root / "out")) == wanted
        info = lab.repo.add_base("tiny", moved)
        assert info.changed
        assert lab.bits() == wanted
        assert not lab.repo.add_base("tiny", moved).changed

    def test_a_base_that_changed_under_our_feet(self, lab: Lab) -> None:
        lab.commit(lab.lora())
        wanted = lab.bits()
        path = lab.base_folder / "model.safetensors"
        good = path.read_bytes()
        spoiled = bytearray(good)
        spoiled[-1] ^= 1
        path.write_bytes(spoiled)
        for use in (
            lab.repo.load,
            lambda: lab.repo.checkout("main"),
            lambda: lab.commit(lab.lora()),
        ):
            with pytest.raises(BaseMismatch) as caught:
                use()
            assert caught.value.exit_code == 25
            assert "1 of 5 tensors differ" in caught.value.message
        (verified,) = bases.verify(lab.repo._repo)
        assert not verified.ok
        assert len(verified.differences) == 1
        path.write_bytes(good)
        assert bases.verify(lab.repo._repo, "tiny")[0].ok
        assert lab.bits() == wanted

    def test_another_model_is_no_base_path(self, lab: Lab) -> None:
        lab.commit(lab.lora())
        other = write_model(lab.root / "other", {n: v + 1 for n, v in lab.base.items()})
        with pytest.raises(BaseMismatch):
            lab.repo.load(base_path=other)
        with pytest.raises(NameTaken):
            lab.repo.add_base("tiny", other)
        with pytest.raises(BaseUnavailable):
            lab.repo.add_base("third", lab.root / "nowhere")

    def test_the_bases_other_files_are_those_registered(self, lab: Lab) -> None:
        (lab.base_folder / "README.md").write_text("read me")
        lab.repo.add_base("tiny", lab.base_folder)
        lab.commit(lab.lora())
        own = lab.commit(lab.checkpoint(dict, config='{"hidden_size": 9}', **{"README.md": "x"}))
        (lab.base_folder / "new.txt").write_text("came later")
        (lab.base_folder / "README.md").unlink()
        lab.repo.checkout("HEAD~1", to=lab.root / "out")
        assert files(lab.root / "out").keys() == {"model.safetensors", "config.json", "README.md"}
        (lab.base_folder / "config.json").write_text('{"hidden_size": 7}')
        lab.repo.checkout("HEAD~1", to=lab.root / "again")  # as registered, not as it is now
        assert files(lab.root / "again") == files(lab.root / "out")
        lab.repo.checkout(own, to=lab.root / "own")  # has files of its own
        assert (lab.root / "own/config.json").read_text() == '{"hidden_size": 9}'
        assert lab.repo.load("HEAD~1")
        lab.repo.add_base("tiny", lab.base_folder)
        assert "other files than before" in lab.repo.warnings[-1]
        lab.repo.checkout("HEAD~1", to=lab.root / "other")
        assert (lab.root / "other/config.json").read_text() == '{"hidden_size": 7}'

    def test_a_copy_needs_the_original_no_more(self, tmp_path: Path, lab: Lab) -> None:
        repo = deltavc.init(tmp_path / "copied")
        info = repo.add_base("tiny", lab.base_folder, copy=True)
        assert info.copied
        repo.commit(lab.lora(), message="m")
        wanted = bits(repo.load())
        shutil.rmtree(lab.base_folder)
        (tmp_path / "copied").rename(tmp_path / "elsewhere")
        repo = deltavc.open(tmp_path / "elsewhere")
        assert bits(repo.load()) == wanted
        repo.checkout("main", to=tmp_path / "out", verify=True)
        assert (tmp_path / "out/config.json").exists()

    def test_a_base_inside_moves_with_the_repository(self, tmp_path: Path, lab: Lab) -> None:
        repo = deltavc.init(tmp_path / "project")
        shutil.copytree(lab.base_folder, tmp_path / "project/models/tiny")
        repo.add_base("tiny", tmp_path / "project/models/tiny")
        repo.commit(lab.lora(), message="m")
        wanted = bits(repo.load())
        (tmp_path / "project").rename(tmp_path / "renamed")
        assert bits(deltavc.open(tmp_path / "renamed").load()) == wanted

    def test_removal_is_refused_while_it_is_needed(self, lab: Lab) -> None:
        lab.repo.add_base("alias", lab.base_folder)
        lab.commit(lab.lora())
        bases.remove(lab.repo._repo, "alias")
        with pytest.raises(Protected) as caught:
            bases.remove(lab.repo._repo, "tiny")
        assert caught.value.exit_code == 35
        with pytest.raises(UnknownRevision):
            bases.remove(lab.repo._repo, "alias")
        lab.repo.undo()
        assert {b.name for b in lab.repo.bases()} == {"alias", "tiny"}

    def test_an_unneeded_base_goes(self, lab: Lab) -> None:
        bases.remove(lab.repo._repo, "tiny")
        with pytest.raises(BaseUnavailable):
            lab.commit(lab.lora())
        lab.repo.undo()
        lab.commit(lab.lora())


class TestLoad:
    def test_tensors_own_their_memory_and_have_the_bits_of_checkout(self, versions: Lab) -> None:
        lab = versions
        for i in range(6):
            lab.repo.checkout(f"v{i}", to=lab.root / f"out{i}")
            found = lab.repo.load(f"v{i}")
            assert bits(found) == bits(read_model(lab.root / f"out{i}"))
            assert found["position_ids"].dtype is torch.int64
            assert found["layers.0.v.weight"].dtype is torch.float16
            for tensor in found.values():
                tensor.zero_()  # a view of the mapped base would not be writable
        assert lab.bits("v0") == bits(lab.base)

    def test_only_some(self, versions: Lab) -> None:
        assert set(versions.repo.load("v4", params=["head.*", "*.bias"])) == {
            "head.weight", "layers.0.v.bias",
        }  # fmt: skip

    def test_threads_make_no_difference(self, versions: Lab) -> None:
        one = deltavc.open(versions.root / "repo", threads=1)
        assert bits(one.load("v2")) == versions.bits("v2")

    def test_a_state_dict_for_torch(self, lab: Lab) -> None:
        lab.commit(lab.lora("layers.0.q"))
        layer = torch.nn.Linear(8, 8, bias=False)
        state = lab.repo.load(params=["layers.0.q.*"])
        layer.load_state_dict({k.removeprefix("layers.0.q."): v for k, v in state.items()})
        assert not layer.weight.isnan().any()


def test_the_index_of_shards_follows_a_new_parameter(tmp_path: Path, lab: Lab) -> None:
    base = tmp_path / "sharded"
    base.mkdir()
    names = sorted(lab.base)
    parts = {"model-00001-of-00002.safetensors": names[:3],
             "model-00002-of-00002.safetensors": names[3:]}  # fmt: skip
    for file, held in parts.items():
        save_file({n: lab.base[n] for n in held}, base / file, metadata={"format": "pt"})
    weight_map = {n: f for f, held in parts.items() for n in held}
    total = sum(v.nbytes for v in lab.base.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (base / "model.safetensors.index.json").write_text(json.dumps(index))
    repo = deltavc.init(tmp_path / "shards")
    repo.add_base("tiny", base)
    source = lab.checkpoint(
        lambda t: (t.pop("emb.weight"), t.update({"z.weight": np.ones((3, 3), "f4")}))
    )
    repo.commit(source, message="a new parameter, and one less")
    repo.checkout("HEAD", to=tmp_path / "out", verify=True)
    written = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    found: dict[str, Any] = {}
    for path in sorted((tmp_path / "out").glob("*.safetensors")):
        held = load_file(path)
        assert all(written["weight_map"][name] == path.name for name in held)
        found |= held
    assert set(written["weight_map"]) == set(found)
    assert written["metadata"]["total_size"] == sum(v.nbytes for v in found.values())
    assert bits(found) == bits(read_model(source))
    assert bits(repo.load()) == bits(found)


def test_loading_needs_about_the_models_memory(tmp_path: Path) -> None:
    """NumPy and the library's own buffers stay below a second copy of the model."""
    rng = np.random.default_rng(0)
    big = {f"w{i}": rng.normal(size=(512, 512)).astype("f4") for i in range(16)}
    repo = deltavc.init(tmp_path / "repo", threads=1)
    repo.add_base("big", write_model(tmp_path / "base", big))
    changed = {name: value.copy() for name, value in big.items()}
    changed["w3"][5] += 1
    repo.commit(write_model(tmp_path / "tuned", changed), message="m")
    repo.load()
    tracemalloc.start()
    found = repo.load()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert bits(found) == bits(changed)
    assert peak < 1.6 * sum(v.nbytes for v in big.values())
