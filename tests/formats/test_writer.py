"""The checkout writer: right bytes, whole or nothing."""

import json
import os
import resource
import signal
import stat
import threading
from pathlib import Path

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from deltavc.delta.tensor import DTYPES, Tensor
from deltavc.errors import (
    BaseUnavailable,
    InternalError,
    InvalidName,
    NameTaken,
    ObjectCorrupt,
    RepositoryUnwritable,
    ShapeMismatch,
    UnsafeFile,
)
from deltavc.formats import writer_engine
from deltavc.formats.safetensors import SafetensorsFile
from deltavc.formats.writer import (
    Copied,
    FolderPlan,
    Held,
    Planned,
    PlannedFile,
    damaged,
    same_layout,
    write_file,
    write_folder,
)
from deltavc.formats.writer_stage import exchange, settle

F32 = DTYPES["F32"]


def base_file(path, arrays):
    save_file(arrays, path, metadata={"format": "pt"})
    return path


def plan_from(path, changes=(), name="model.safetensors", header=False):
    """Everything copied from a file but the changes, given as arrays."""
    changes = dict(changes)
    with SafetensorsFile(path) as file:
        tensors = [
            Planned(
                entry.name,
                entry.dtype,
                entry.shape,
                Held.later(Tensor.from_array(changes[entry.name]))
                if entry.name in changes
                else Copied(path, entry.offset, entry.nbytes),
            )
            for entry in file.entries
        ]
        metadata = file.metadata
    start = path.read_bytes()
    length = 8 + int.from_bytes(start[:8], "little")
    return PlannedFile(name, metadata, tensors, start[:length] if header else None)


def listing(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


@pytest.fixture
def base(tmp_path):
    rng = np.random.default_rng(5)
    arrays = {
        f"layer.{i}.{kind}": rng.standard_normal(shape).astype(np.float32)
        for i in range(4)
        for kind, shape in (("weight", (64, 48)), ("bias", (64,)), ("scale", ()))
    }
    folder = tmp_path / "base"
    folder.mkdir()
    return base_file(folder / "model.safetensors", arrays), arrays


def test_changed_and_unchanged_tensors_read_back_with_the_reference_reader(base, tmp_path):
    path, arrays = base
    changes = {
        "layer.1.weight": arrays["layer.1.weight"] + 1,
        "layer.3.scale": np.array(9, dtype=np.float32),
    }
    readme = tmp_path / "README.md"
    readme.write_text("# hello\n")
    plan = FolderPlan(
        [plan_from(path, changes)],
        {"config.json": b"{}", "1_Pooling/config.json": b"[]", "README.md": readme},
    )
    written = write_folder(tmp_path / "out", plan)

    found = load_file(tmp_path / "out/model.safetensors")
    assert found.keys() == arrays.keys()
    for name, value in (arrays | changes).items():
        np.testing.assert_array_equal(found[name], value)
    assert listing(tmp_path / "out") == [
        "1_Pooling",
        "1_Pooling/config.json",
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    assert (tmp_path / "out/README.md").read_text() == "# hello\n"
    assert written.sizes["README.md"] == 8
    assert written.sizes["model.safetensors"] == path.stat().st_size
    assert written.computed == 64 * 48 * 4 + 4
    assert written.copied == sum(a.nbytes for a in arrays.values()) - written.computed


@given(
    shapes=st.lists(st.lists(st.integers(0, 5), max_size=3).map(tuple), min_size=1, max_size=8),
    changed=st.sets(st.integers(0, 7)),
    threads=st.integers(1, 4),
    block=st.sampled_from([4, 16, 64, 1 << 20]),
    verbatim=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=80)
def test_any_mixture_equals_the_reference_writer(
    tmp_path_factory, shapes, changed, threads, block, verbatim, seed
):
    folder = tmp_path_factory.mktemp("mix")
    rng = np.random.default_rng(seed)
    arrays = {f"t{i}": rng.standard_normal(s).astype(np.float32) for i, s in enumerate(shapes)}
    path = base_file(folder / "base.safetensors", arrays)
    changes = {f"t{i}": np.asarray(arrays[f"t{i}"] * 2) for i in changed if i < len(shapes)}
    expected = base_file(folder / "expected.safetensors", arrays | changes).read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer_engine, "BLOCK", block)
        write_file(
            folder / "out.safetensors", plan_from(path, changes, header=verbatim), threads=threads
        )
    assert (folder / "out.safetensors").read_bytes() == expected


def test_checksums_are_those_of_the_blocks_and_find_damage(tmp_path):
    array = np.random.default_rng(1).integers(0, 255, (3000, 4099), dtype=np.uint8)
    planned = PlannedFile(
        "m.safetensors",
        {},
        [Planned("w", DTYPES["U8"], array.shape, Held.later(Tensor.from_array(array)))],
    )
    written = write_folder(tmp_path / "out", FolderPlan([planned]))
    sums = written.checksums["m.safetensors"]["w"]
    raw = array.tobytes()
    assert len(sums.sums) == 2
    assert sums.block % 4099 == 0
    assert sums.sums == tuple(
        xxhash.xxh3_64_intdigest(raw[at : at + sums.block]) for at in (0, sums.block)
    )
    assert damaged(tmp_path / "out", written) == []
    with (tmp_path / "out/m.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))
    assert damaged(tmp_path / "out", written) == ["w"]


def test_shards_get_an_index_that_names_each_tensor(base, tmp_path):
    path, arrays = base
    whole = plan_from(path)
    half = len(whole.tensors) // 2
    shards = [
        PlannedFile(f"model-0000{i + 1}-of-00002.safetensors", {"format": "pt"}, part)
        for i, part in enumerate((whole.tensors[:half], whole.tensors[half:]))
    ]
    write_folder(tmp_path / "out", FolderPlan(shards))
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(a.nbytes for a in arrays.values())
    for name, value in arrays.items():
        with safe_open(tmp_path / "out" / index["weight_map"][name], "numpy") as file:
            np.testing.assert_array_equal(file.get_tensor(name), value)

    write_folder(tmp_path / "own", FolderPlan(shards, {"model.safetensors.index.json": b"own"}))
    assert (tmp_path / "own/model.safetensors.index.json").read_bytes() == b"own"
    apart = [whole, plan_from(path, name="2_Dense/model.safetensors")]
    write_folder(tmp_path / "apart", FolderPlan(apart))
    assert not list((tmp_path / "apart").rglob("*.json"))


def test_an_unchanged_file_keeps_its_very_bytes(base, tmp_path):
    path, _ = base
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    odd = tmp_path / "odd.safetensors"  # a header that no writer of today makes
    odd.write_bytes(
        (length + 16).to_bytes(8, "little") + raw[8 : 8 + length] + b" " * 16 + raw[8 + length :]
    )
    write_file(tmp_path / "same.safetensors", plan_from(odd, header=True))
    assert (tmp_path / "same.safetensors").read_bytes() == odd.read_bytes()
    assert same_layout(odd, plan_from(odd, header=True))
    assert not same_layout(odd, plan_from(odd))
    assert same_layout(path, plan_from(path, {"layer.1.scale": np.array(1, dtype=np.float32)}))
    assert not same_layout(tmp_path / "none", plan_from(path))


def test_a_header_that_says_something_else_is_refused(base, tmp_path):
    path, _ = base
    good = plan_from(path, header=True)
    renamed = [Planned("other", t.dtype, t.shape, t.source) for t in good.tensors[:1]]
    for header in (good.header, b"", b"\0" * 8, good.header[:-1]):
        tensors = renamed + list(good.tensors[1:])
        with pytest.raises(UnsafeFile):
            write_folder(tmp_path / "out", FolderPlan([PlannedFile("m", {}, tensors, header)]))
    assert not (tmp_path / "out").exists()


def test_modes_follow_the_umask(base, tmp_path):
    path, _ = base
    before = os.umask(0o027)
    try:
        write_folder(tmp_path / "out", FolderPlan([plan_from(path)], {"a/b": b"x"}))
    finally:
        os.umask(before)
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "out").rglob("*")}
    assert modes == {"model.safetensors": 0o640, "a": 0o750, "b": 0o640}
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o750


def test_a_target_that_is_there_is_replaced_only_when_asked(base, tmp_path):
    path, _ = base
    out = tmp_path / "deep/er/out"
    write_folder(out, FolderPlan([plan_from(path)], {"old": b"1"}))
    with pytest.raises(NameTaken):
        write_folder(out, FolderPlan([plan_from(path)], {"new": b"2"}))
    assert listing(out) == ["model.safetensors", "old"]
    write_folder(out, FolderPlan([plan_from(path)], {"new": b"2"}), replace=True, durable=True)
    assert listing(out) == ["model.safetensors", "new"]
    assert listing(out.parent) == ["out", "out/model.safetensors", "out/new"]
    (tmp_path / "empty").mkdir()
    write_folder(tmp_path / "empty", FolderPlan([], {"new": b"2"}))
    assert listing(tmp_path / "empty") == ["new"]
    (tmp_path / "file").write_text("x")
    for replace in (False, True):
        with pytest.raises(NameTaken):
            write_folder(tmp_path / "file", FolderPlan([], {}), replace=replace)


def test_replacing_works_where_names_cannot_be_exchanged(base, tmp_path, monkeypatch):
    path, _ = base
    monkeypatch.setattr("deltavc.formats.writer_stage.exchange", lambda *_: False)
    out = tmp_path / "out"
    for name in ("one", "two"):
        write_folder(out, FolderPlan([plan_from(path)], {name: b""}), replace=True)
    assert listing(tmp_path) == [
        "base", "base/model.safetensors", "out", "out/model.safetensors", "out/two",
    ]  # fmt: skip


def test_exchange_is_one_step(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"was-{name}").touch()
    assert exchange(tmp_path / "a", tmp_path / "b")
    assert listing(tmp_path) == ["a", "a/was-b", "b", "b/was-a"]
    with pytest.raises(FileNotFoundError):
        exchange(tmp_path / "a", tmp_path / "c")


def test_symbolic_links_are_not_followed_for_writing(base, tmp_path):
    path, _ = base
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(UnsafeFile):
        write_folder(tmp_path / "link", FolderPlan([plan_from(path)]), replace=True)
    (tmp_path / "one").symlink_to(tmp_path / "two")
    with pytest.raises(UnsafeFile):
        write_file(tmp_path / "one", plan_from(path), replace=True)
    assert not (tmp_path / "two").exists()
    assert listing(tmp_path / "real") == []
    linked = tmp_path / "linked.safetensors"  # reading through a link is right: hub caches
    linked.symlink_to(path)
    write_folder(tmp_path / "out", FolderPlan([plan_from(linked)], {"copy": linked}))
    assert not any(p.is_symlink() for p in (tmp_path / "out").rglob("*"))
    assert (tmp_path / "out/copy").read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    "name",
    ["../up", "/etc/x", "a/../b", "a//b", ".", "", "a/", "nul\0", "line\nfeed", "back\\slash",
     "x" * 256, "\ud800"],
)  # fmt: skip
def test_harmful_names_are_refused(base, tmp_path, name):
    path, _ = base
    with pytest.raises(InvalidName):
        write_folder(tmp_path / "out", FolderPlan([plan_from(path)], {name: b""}))
    with pytest.raises(InvalidName):
        write_folder(tmp_path / "out", FolderPlan([plan_from(path, name=name)]))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("names", [("a", "a/b"), ("model.safetensors",), ("model.safetensors/x",)])
def test_a_name_stands_for_one_thing(base, tmp_path, names):
    path, _ = base
    with pytest.raises(InvalidName):
        write_folder(tmp_path / "out", FolderPlan([plan_from(path)], dict.fromkeys(names, b"")))


def failing(error):
    def prepare():
        raise error

    return prepare


def test_an_error_in_a_worker_is_raised_and_leaves_nothing(base, tmp_path):
    path, arrays = base
    good = plan_from(path, arrays)
    bad = Planned("layer.0.bias", F32, (64,), failing(ObjectCorrupt("it is not right")))
    tensors = [bad if t.name == bad.name else t for t in good.tensors]
    before = threading.active_count()
    with pytest.raises(ObjectCorrupt):
        write_folder(tmp_path / "deep/out", FolderPlan([PlannedFile("m", {}, tensors)]))
    assert listing(tmp_path) == ["base", "base/model.safetensors"]
    assert threading.active_count() == before
    out = tmp_path / "kept"
    write_folder(out, FolderPlan([good]))
    with pytest.raises(ObjectCorrupt):
        write_folder(out, FolderPlan([PlannedFile("m", {}, tensors)]), replace=True)
    with pytest.raises(ObjectCorrupt):
        write_file(out / "model.safetensors", PlannedFile("m", {}, tensors), replace=True)
    assert listing(out) == ["model.safetensors"]
    assert (out / "model.safetensors").read_bytes() == path.read_bytes()


def test_a_source_that_prepares_something_else_is_a_bug_not_a_file(tmp_path):
    other = Held.later(Tensor.from_array(np.zeros((3, 3), dtype=np.float32)))
    planned = PlannedFile("m", {}, [Planned("w", F32, (3, 4), other)])
    with pytest.raises(InternalError):
        write_folder(tmp_path / "out", FolderPlan([planned]))
    assert listing(tmp_path) == []


def test_sources_that_are_gone_short_or_odd_are_the_bases_fault(base, tmp_path):
    path, _ = base
    plan = plan_from(path)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(BaseUnavailable):
        write_folder(tmp_path / "out", FolderPlan([plan], {"x": tmp_path / "fifo"}))
    with pytest.raises(BaseUnavailable):
        write_folder(tmp_path / "out", FolderPlan([plan], {"x": tmp_path / "none"}))
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(BaseUnavailable):
        write_folder(tmp_path / "out", FolderPlan([plan]))
    path.unlink()
    with pytest.raises(BaseUnavailable):
        write_folder(tmp_path / "out", FolderPlan([plan]))
    assert listing(tmp_path) == ["base", "fifo"]
    wrong = [Planned("w", F32, (2,), Copied(path, 0, 4))]
    with pytest.raises(ShapeMismatch):
        write_folder(tmp_path / "out", FolderPlan([PlannedFile("m", {}, wrong)]))


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path):
    """A file larger than the process may write: the system refuses as on a full disk."""
    big = Tensor.from_array(np.zeros((4096, 256), dtype=np.float32))
    planned = PlannedFile("m", {}, [Planned("w", F32, (4096, 256), Held.later(big))])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(RepositoryUnwritable) as found:
            write_folder(tmp_path / "out", FolderPlan([planned]))
        with pytest.raises(RepositoryUnwritable):
            write_folder(tmp_path / "out", FolderPlan([], {"x": b"\0" * (2 << 20)}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert found.value.exit_code == 14
    assert listing(tmp_path) == []


def test_a_place_that_cannot_be_written_is_said(base, tmp_path):
    path, _ = base
    for target in (Path("/proc/deltavc/out"), tmp_path / "base/model.safetensors/out"):
        with pytest.raises(RepositoryUnwritable):
            write_folder(target, FolderPlan([plan_from(path)]))
        with pytest.raises(RepositoryUnwritable):
            write_file(target, plan_from(path))


def test_progress_adds_up(base, tmp_path):
    path, arrays = base
    seen = []
    write_folder(
        tmp_path / "out",
        FolderPlan([plan_from(path, {"layer.0.weight": arrays["layer.0.weight"]})]),
        progress=seen.append,
    )
    assert sum(seen) == sum(a.nbytes for a in arrays.values())


class Counting:
    """A row source that counts how many of its kind are alive."""

    dtype, shape, rows, columns = F32, (1024, 1024), 1024, 1024

    def __init__(self, alive, most):
        self.alive = alive
        alive.add(id(self))
        most.append(len(alive))

    def compute(self, _start, _stop, out):
        out[:] = 1

    def __del__(self):
        self.alive.discard(id(self))


def test_few_large_tensors_are_prepared_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(writer_engine, "READY_BYTES", 1 << 20)
    alive, most = set(), []
    tensors = [
        Planned(f"w{i}", F32, (1024, 1024), lambda: Counting(alive, most)) for i in range(12)
    ]
    write_folder(tmp_path / "out", FolderPlan([PlannedFile("m", {}, tensors)]), threads=4)
    assert len(most) == 12
    assert max(most) <= 3  # two in the queue, one more between done and forgotten
    assert not alive


@pytest.mark.usefixtures("base")
def test_leftovers_of_killed_writers_go_and_those_of_living_ones_stay(tmp_path):
    dead = tmp_path / ".out.deltavc-0123abcd"
    dead.mkdir()
    (dead / "half").write_text("x")
    inside = threading.Event()
    go_on = threading.Event()

    def slow():
        inside.set()
        go_on.wait(20)
        return Held(Tensor.from_array(np.ones(3, dtype=np.float32)))

    slow_plan = FolderPlan([PlannedFile("m", {}, [Planned("w", F32, (3,), slow)])])
    thread = threading.Thread(target=write_folder, args=(tmp_path / "out", slow_plan))
    thread.start()
    assert inside.wait(20)
    assert not dead.exists()
    settle(tmp_path / "out")
    assert len(list(tmp_path.glob(".out.deltavc-*"))) == 1
    go_on.set()
    thread.join()
    assert load_file(tmp_path / "out/m")["w"].tolist() == [1, 1, 1]
    assert listing(tmp_path) == ["base", "base/model.safetensors", "out", "out/m"]


@pytest.mark.usefixtures("base")
def test_an_old_folder_goes_back_where_the_exchange_was_cut_in_two(tmp_path):
    old = tmp_path / ".out.deltavc-0123abcd.old"
    old.mkdir()
    (old / "model").write_text("old")
    (tmp_path / ".out.deltavc-0123abcd").mkdir()
    settle(tmp_path / "out")
    assert listing(tmp_path) == ["base", "base/model.safetensors", "out", "out/model"]
    old.mkdir()
    settle(tmp_path / "out")
    assert (tmp_path / "out/model").read_text() == "old"
    assert not old.exists()
