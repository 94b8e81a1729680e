"""The in-place switch: same bytes as a fresh write, or a journal."""

import fcntl
import os

import numpy as np
import pytest

from deltavc.delta.tensor import DTYPES, Tensor
from deltavc.errors import (
    BaseUnavailable,
    InvalidName,
    ObjectCorrupt,
    RepositoryLocked,
    RepositoryUnwritable,
    StateError,
    UnsafeFile,
    WorkspaceDirty,
)
from deltavc.formats.inplace import clear_journal, read_journal, update_folder, why_not_in_place
from deltavc.formats.writer import (
    Copied,
    FolderPlan,
    Held,
    Planned,
    PlannedFile,
    damaged,
    layout,
    write_folder,
)

F32 = DTYPES["F32"]
NAMES = [f"w{i}" for i in range(6)]
SHAPE = (50, 30)
MODEL = "model.safetensors"


def array(seed):
    return np.random.default_rng(seed).standard_normal(SHAPE).astype(np.float32)


class World:
    """A base file, a workspace, and versions that change some of the base's tensors."""

    def __init__(self, root):
        self.root = root
        self.base = root / "base" / MODEL
        self.target = root / "model"
        self.journal = root / "journal"
        held = [Planned(n, F32, SHAPE, Held.later(Tensor.from_array(array(n_)))) for n_, n in
                enumerate(NAMES)]  # fmt: skip
        self.slots = {s.tensor.name: s for s in layout(PlannedFile(MODEL, {}, held)).slots}
        write_folder(self.base.parent, FolderPlan([PlannedFile(MODEL, {}, held)]))

    def weights(self, changes):
        """The plan of a version: name of a changed tensor -> seed."""
        tensors = []
        for name in NAMES:
            source = (
                Held.later(Tensor.from_array(array(changes[name])))
                if name in changes
                else Copied(self.base, self.slots[name].offset, self.slots[name].tensor.nbytes)
            )
            tensors.append(Planned(name, F32, SHAPE, source))
        return [PlannedFile(MODEL, {}, tensors)]

    def fresh(self, changes, name="fresh"):
        write_folder(self.root / name, FolderPlan(self.weights(changes)), replace=True)
        return (self.root / name / MODEL).read_bytes()

    def switch(self, changes, names, **more):
        return update_folder(
            self.target,
            self.weights(changes),
            {MODEL: names},
            journal=self.journal,
            before="x",
            after="y",
            **more,
        )

    def bytes(self):
        return (self.target / MODEL).read_bytes()

    def names(self):
        return sorted(p.name for p in self.target.iterdir())


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path)
    made.fresh({"w0": 10, "w1": 11}, "model")
    return made


def test_a_switch_gives_the_bytes_of_a_fresh_write_in_the_same_file(world):
    inode = (world.target / MODEL).stat().st_ino
    written = world.switch({"w1": 21, "w4": 24}, ["w0", "w1", "w4"])
    assert world.bytes() == world.fresh({"w1": 21, "w4": 24})
    assert (world.target / MODEL).stat().st_ino == inode
    assert world.names() == [MODEL]
    assert read_journal(world.journal) is None
    nbytes = world.slots["w0"].tensor.nbytes
    assert (written.copied, written.computed) == (nbytes, 2 * nbytes)
    assert set(written.checksums[MODEL]) == {"w1", "w4"}
    assert damaged(world.target, written) == []


def test_many_switches_do_not_drift(world):
    first = world.bytes()
    for _ in range(25):
        world.switch({"w2": 22}, ["w0", "w1", "w2"])
        world.switch({"w0": 10, "w1": 11}, ["w0", "w1", "w2"])
    assert world.bytes() == first


def test_only_the_named_tensors_are_written(world):
    slot = world.slots["w3"]
    with (world.target / MODEL).open("r+b") as file:
        file.seek(slot.offset)
        file.write(b"mark")
    world.switch({"w4": 24}, ["w4"])
    assert world.bytes()[slot.offset : slot.offset + 4] == b"mark"


def test_other_files_are_replaced_added_and_removed(world):
    (world.target / "old").write_text("1")
    (world.target / "config.json").write_text("{}")
    written = world.switch(
        {}, ["w0", "w1"], files={"config.json": b"[]", "sub/new": world.base}, removed=["old"],
        durable=True,
    )  # fmt: skip
    assert world.names() == ["config.json", MODEL, "sub"]
    assert (world.target / "config.json").read_bytes() == b"[]"
    assert (world.target / "sub/new").read_bytes() == world.bytes() == world.base.read_bytes()
    assert written.sizes["config.json"] == 2
    with pytest.raises(InvalidName):
        world.switch({}, ["w0"], files={"../up": b""})
    with pytest.raises(InvalidName):
        world.switch({}, ["w0"], removed=["../base"])


def test_nobody_can_open_the_file_while_it_changes(world):
    seen = []

    def look():
        seen.append((world.names(), read_journal(world.journal)))
        return Held(Tensor.from_array(array(9)))

    weights = world.weights({})
    tensors = [Planned("w5", F32, SHAPE, look) if t.name == "w5" else t for t in weights[0].tensors]
    update_folder(
        world.target,
        [PlannedFile(MODEL, {}, tensors)],
        {MODEL: ["w5"]},
        journal=world.journal,
        before="commit x",
        after="commit y",
    )
    ((names, journal),) = seen
    assert names == [f".{MODEL}.deltavc-switch"]
    assert (journal.before, journal.after) == ("commit x", "commit y")
    assert journal.tensors == {MODEL: ["w5"]}
    assert journal.target == str(world.target)


def test_a_folder_that_is_not_as_written_is_not_changed_in_place(world, tmp_path):
    path = world.target / MODEL

    def refused(text, names=("w0",), weights=None):
        before = path.read_bytes()
        plan = weights or world.weights({})
        assert text in why_not_in_place(world.target, plan, {MODEL: names})
        with pytest.raises(WorkspaceDirty) as found:
            update_folder(world.target, plan, {MODEL: names}, journal=world.journal, before="",
                          after="")  # fmt: skip
        assert text in found.value.message
        assert path.read_bytes() == before
        assert not world.journal.exists()

    refused("no tensor 'zz'", ["zz"])
    itself = [Planned("w0", F32, SHAPE, Copied(path, world.slots["w0"].offset, 6000))]
    refused(
        "copied from", weights=[PlannedFile(MODEL, {}, itself + world.weights({})[0].tensors[1:])]
    )
    refused("layout", weights=[PlannedFile(MODEL, {"format": "pt"}, world.weights({})[0].tensors)])
    os.link(path, tmp_path / "second")
    refused("hard link")
    (tmp_path / "second").unlink()
    path.rename(tmp_path / "moved")
    path.symlink_to(tmp_path / "moved")
    refused("not a regular file")
    path.unlink()
    assert "not there" in why_not_in_place(world.target, world.weights({}), {MODEL: ["w0"]})
    (tmp_path / "moved").rename(path)
    (world.target / "sub").symlink_to(tmp_path)
    with pytest.raises(WorkspaceDirty, match="symbolic link"):
        world.switch({}, ["w0"], files={"sub/x": b""})
    assert not (tmp_path / "x").exists()
    world.target.rename(tmp_path / "elsewhere")
    world.target.symlink_to(tmp_path / "elsewhere")
    assert "not a folder" in why_not_in_place(world.target, world.weights({}), {})
    with pytest.raises(RepositoryUnwritable):
        world.switch({}, ["w0"])


def test_a_folder_that_another_process_changes_is_left_alone(world):
    fd = os.open(world.target, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    with pytest.raises(RepositoryLocked):
        world.switch({}, ["w0"])
    os.close(fd)
    world.switch({}, ["w0"])


def broken():
    raise ObjectCorrupt("it is not right")


def with_broken(weights, name):
    tensors = [
        Planned(t.name, F32, SHAPE, broken) if t.name == name else t for t in weights[0].tensors
    ]
    return [PlannedFile(MODEL, {}, tensors)]


def test_a_failure_before_the_first_byte_changes_nothing(world):
    before = world.bytes()
    with pytest.raises(ObjectCorrupt):
        update_folder(
            world.target,
            with_broken(world.weights({}), "w0"),
            {MODEL: ["w0"]},
            journal=world.journal,
            before="x",
            after="y",
        )
    assert world.bytes() == before
    assert world.names() == [MODEL]
    assert read_journal(world.journal) is None


def half_done(world, files=None):
    """A switch that failed on its second tensor."""
    with pytest.raises(ObjectCorrupt):
        update_folder(
            world.target,
            with_broken(world.weights({"w1": 21}), "w2"),
            {MODEL: ["w0", "w1", "w2"]},
            journal=world.journal,
            before="x",
            after="y",
            files=files,
            threads=1,
        )
    assert not (world.target / MODEL).exists()


@pytest.mark.parametrize("goal", [{"w0": 10, "w1": 11}, {"w1": 21, "w2": 22}, {}])
def test_a_switch_that_failed_is_done_again_towards_any_version(world, goal):
    half_done(world)
    record = read_journal(world.journal)
    assert record.tensors == {MODEL: ["w0", "w1", "w2"]}
    world.switch(goal, [])  # nothing asked for: what the journal names is enough
    assert world.bytes() == world.fresh(goal)
    assert read_journal(world.journal) is None
    assert world.names() == [MODEL]


def test_a_failed_redo_keeps_the_journal(world):
    half_done(world)
    for _ in range(2):
        with pytest.raises(ObjectCorrupt):
            update_folder(
                world.target,
                with_broken(world.weights({}), "w0"),
                {},
                journal=world.journal,
                before="x",
                after="y",
                threads=1,
            )
        assert read_journal(world.journal).tensors == {MODEL: ["w0", "w1", "w2"]}
    world.switch({}, [])
    assert world.bytes() == world.base.read_bytes()


def test_what_a_cut_off_switch_left_undone_cannot_be_forgotten(world):
    half_done(world, files={"config.json": b"[]"})
    with pytest.raises(StateError, match="cut off"):
        world.switch({}, ["w0"])
    with pytest.raises(StateError, match="cut off"):
        update_folder(world.base.parent, world.weights({}), {}, journal=world.journal, before="",
                      after="")  # fmt: skip
    world.switch({}, [], files={"config.json": b"{}"})
    assert world.bytes() == world.base.read_bytes()
    assert (world.target / "config.json").read_bytes() == b"{}"


def test_a_fresh_write_also_ends_a_cut_off_switch(world):
    half_done(world)
    world.fresh({"w3": 33}, "model")
    clear_journal(world.journal)
    clear_journal(world.journal)
    assert world.names() == [MODEL]
    world.switch({}, ["w3"])
    assert world.bytes() == world.base.read_bytes()


def test_hidden_weights_without_a_journal_are_not_trusted(world):
    half_done(world)
    clear_journal(world.journal)
    with pytest.raises(WorkspaceDirty, match="without a journal"):
        world.switch({}, ["w0"])


@pytest.mark.parametrize("data", [b"", b"{}", b"not json", b'{"version":1}\n'])
def test_a_journal_that_cannot_be_read_is_said(world, data):
    world.journal.write_bytes(data)
    with pytest.raises(ObjectCorrupt):
        world.switch({}, ["w0"])


def test_a_base_that_is_gone_and_a_journal_that_cannot_be_written(world):
    before = world.bytes()
    world.base.rename(world.base.with_name("away"))
    with pytest.raises(BaseUnavailable):
        world.switch({}, ["w0"])
    world.base.with_name("away").rename(world.base)
    world.journal = world.root / "no/such/journal"
    with pytest.raises(RepositoryUnwritable):
        world.switch({}, ["w0"])
    bad = PlannedFile(MODEL, {}, world.weights({})[0].tensors, header=b"x")
    with pytest.raises(UnsafeFile):
        update_folder(world.target, [bad], {MODEL: ["w0"]}, journal=world.root / "j", before="",
                      after="")  # fmt: skip
    assert (world.names(), before) in (
        ([MODEL], (world.target / p).read_bytes()) for p in world.names()
    )
