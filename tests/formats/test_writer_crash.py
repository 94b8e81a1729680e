"""Killed at every step: the target is old or new, or the journal says what to do again.

Run as a script this file is the driver: it forks a writer again and again and
has it kill itself (SIGKILL) at its first, second, … step, where a step is any
event that the interpreter's audit hook sees (open, rename, mkdir, remove, …)
and any call into a tensor's source. After each death it looks at the folder,
does the write again, and looks once more.
"""

import hashlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from deltavc.delta.tensor import Tensor
from deltavc.formats.inplace import read_journal, update_folder
from deltavc.formats.safetensors import build_header
from deltavc.formats.writer import Copied, FolderPlan, Held, Planned, PlannedFile, write_folder
from deltavc.formats.writer_plan import Seal

NAMES = ("a", "b", "c", "d")
SHAPE = (300, 40)


class Steps:
    """Counts steps, and kills the process at one of them."""

    def __init__(self, last):
        self.last = last
        self.count = 0
        sys.addaudithook(self.hook)

    def hook(self, _event, _args):
        self.step()

    def step(self):
        self.count += 1
        if self.count == self.last:
            os.kill(os.getpid(), signal.SIGKILL)


class Source(Held):
    """A tensor whose every call is a step."""

    steps = None

    def compute(self, start, stop, out):
        half = out.size // 2
        super().compute(start, stop, out)
        values = out[half:].copy()
        out[half:] = 0
        if Source.steps:
            Source.steps.step()
        out[half:] = values


def values(version, name):
    """Version x of the base changes a and b, version y changes b and c."""
    changed = {"x": "ab", "y": "bc", "base": ""}[version]
    seed = NAMES.index(name) + (100 * (1 + "xy".index(version)) if name in changed else 0)
    return np.random.default_rng(seed).standard_normal(SHAPE).astype(np.float32)


def plan(root, version):
    """The plan of a version: what it changes is computed, the rest copied from the base."""
    base = root / "base.safetensors"
    dtype = Tensor.from_array(values("base", "a")).dtype
    at = len(build_header([(n, dtype, SHAPE) for n in NAMES], {})[0])
    tensors = []
    for name in NAMES:
        array = values(version, name)
        same = np.array_equal(array, values("base", name))
        source = (
            Copied(base, at, array.nbytes)
            if same and version != "base"
            else lambda array=array: Source(Tensor.from_array(array))
        )
        tensors.append(Planned(name, dtype, SHAPE, source))
        at += array.nbytes
    return FolderPlan(
        [PlannedFile("model.safetensors", {}, tensors)],
        {"v": version.encode()},
        Seal("seal", lambda folder: digest(folder).encode()),
    )


def digest(folder):
    """What a seal says: a digest of all else in the folder."""
    found = hashlib.sha256()
    for name in ("model.safetensors", "v"):
        found.update((folder / name).read_bytes())
    return found.hexdigest()


def expected(root, version):
    return (root / version / "model.safetensors").read_bytes(), version.encode()


def found(folder):
    if not folder.exists():
        return None
    model, version, seal = (folder / name for name in ("model.safetensors", "v", "seal"))
    if seal.exists():
        assert seal.read_text() == digest(folder)
    return model.read_bytes() if model.exists() else None, version.read_bytes()


def forked(last, action):
    """Runs an action in a child that dies at a step; says whether it died."""
    child = os.fork()
    if child == 0:
        try:
            if last:
                Source.steps = Steps(last)
            action()
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL), status
    return status != 0


def prepare(root):
    for version in ("base", "x", "y"):
        if version == "base":
            write_folder(root / "b", plan(root, "base"))
            shutil.copy(root / "b/model.safetensors", root / "base.safetensors")
        else:
            write_folder(root / version, plan(root, version))


def fresh(root, *, replace):
    """Outcomes of write_folder, one for each step that it died at."""
    target, home = root / "home/out", root / "home"
    outcomes = []
    for last in itertools.count(1):
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir()
        if replace:
            shutil.copytree(root / "x", target)

        def write():
            write_folder(target, plan(root, "y"), replace=replace, durable=True)

        died = forked(last, write)
        state = found(target)
        before = expected(root, "x") if replace else None
        outcomes.append("new" if state == expected(root, "y") else "old")
        assert state in (before, expected(root, "y")), last
        if not died:
            break
        write_folder(target, plan(root, "y"), replace=True)
        assert found(target) == expected(root, "y")
        assert [p.name for p in home.iterdir()] == ["out"]
    return outcomes


def switch(root, target, journal, version):
    update_folder(
        target,
        plan(root, version).weights,
        {"model.safetensors": ["a", "b", "c"]},
        journal=journal,
        before="x",
        after=version,
        files={"v": version.encode()},
        seal=plan(root, version).seal,
    )


def in_place(root):
    """Outcomes of update_folder, one for each step that it died at."""
    home = root / "home"
    target, journal = home / "out", home / "journal"
    outcomes = []
    for last in itertools.count(1):
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir()
        shutil.copytree(root / "x", target)
        died = forked(last, lambda: switch(root, target, journal, "y"))
        record, state = read_journal(journal), found(target)
        if record is None:
            assert state in (expected(root, "x"), expected(root, "y")), last
            outcomes.append("old" if state == expected(root, "x") else "new")
        else:
            assert (record.before, record.after) == ("x", "y")
            assert record.tensors == {"model.safetensors": ["a", "b", "c"]}
            assert state[0] in (None, expected(root, "x")[0], expected(root, "y")[0]), last
            outcomes.append("hidden" if state[0] is None else "journal")
        if not died:
            break
        version = "xy"[last % 2]
        forked(1 + last * 7 % 40, lambda v=version: switch(root, target, journal, v))
        switch(root, target, journal, version)
        assert found(target) == expected(root, version)
        assert read_journal(journal) is None
        assert sorted(p.name for p in target.iterdir()) == ["model.safetensors", "seal", "v"]
    return outcomes


def outcomes_of(scenario, folder):
    run = subprocess.run(
        [sys.executable, __file__, scenario, folder], capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.parametrize("scenario", ["new", "replace"])
def test_a_killed_fresh_write_leaves_old_or_new(tmp_path, scenario):
    outcomes = outcomes_of(scenario, tmp_path)
    assert outcomes.count("old") >= 10
    assert outcomes == sorted(outcomes, reverse=True)  # once new, never old again


def test_a_killed_switch_is_told_by_its_journal_and_can_be_done_again(tmp_path):
    outcomes = outcomes_of("in-place", tmp_path)
    assert {"old", "hidden", "journal", "new"} == set(outcomes)
    assert outcomes.count("hidden") >= 5


def main(scenario, root):
    prepare(root)
    if scenario == "in-place":
        return in_place(root)
    return fresh(root, replace=scenario == "replace")


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], Path(sys.argv[2]))))
