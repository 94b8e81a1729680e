"""Bad input through the command line: one sentence, a hint, the code of the table, nothing changed.

Every case runs the real command twice, for people and for programs, in a repository
that all cases share: a case that changed anything would be found out by its digest.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file


def every(cases: list[Any], step: int) -> list[Any]:
    """Leaves every so manieth case to the quick set, and all others to the slow one."""
    slow = pytest.mark.slow
    return [
        pytest.param(case, marks=[slow] if i % step else [], id=str(i))
        for i, case in enumerate(cases)
    ]


CHANGES_WITH_USE = ("lock", "workspace.lock", "catalog.db-shm", "catalog.db-wal")


@dataclass
class World:
    """A repository with two commits, and everything around it."""

    commands: Any
    root: Path
    work: Path
    models: Any
    digest: Callable[[Path], dict[str, str]]

    @property
    def state(self) -> dict[str, str]:
        """What is on disk, but for caches and the text in lock files."""
        found = {f"work/{n}": value for n, value in self.digest(self.work).items()}
        found |= {
            f"models/base/{n}": v for n, v in self.digest(self.models.folder / "base").items()
        }
        found |= {path.name: "" for path in self.root.iterdir()}
        return {
            name: value
            for name, value in found.items()
            if not name.startswith("work/.deltavc/cache")
            and name.rpartition("/")[2] not in CHANGES_WITH_USE
        }

    def refused(self, code: int, *argv: object, says: str = "", **options: Any) -> Any:
        """Runs a command that must be refused, for people and for programs."""
        words, before = [str(word) for word in argv], self.state
        human, machine = self.commands.start(
            self.work, [words, ["--json", *words]], root=self.root, **options
        ).wait()
        assert human.code == code, human
        assert human.out == ""
        lines = human.err.splitlines()
        assert [line for line in lines if line.startswith("error: ")] == lines[:1], human.err
        assert all(line.startswith("hint: ") for line in lines[1:]), human.err
        assert len(lines) >= 2, human.err
        assert len(lines[0]) < 700, len(lines[0])
        assert lines[0].isprintable(), lines[0]
        assert not lines[0].endswith("."), lines[0]
        assert says in lines[0], lines[0]
        document = machine.document
        assert machine.code == code
        assert machine.err == ""
        assert document["ok"] is False
        assert set(document["error"]) == {"slug", "message", "hint", "exit_code", "context"}
        assert document["error"]["exit_code"] == code
        assert self.state == before
        return document["error"]


@pytest.fixture(scope="module")
def world(commands, tmp_path_factory, models_in, digest_of) -> World:
    root = tmp_path_factory.mktemp("world")
    models = models_in(root / "models")
    work = root / "work"
    work.mkdir()
    world = World(commands, root, work, models, digest_of)
    base = models.base()
    os.utime(base / "model.safetensors", (0, 0))
    commands.ok(work, "init")
    commands.ok(work, "base", "add", "tiny", base)
    commands.ok(work, "commit", models.adapter(), "-m", "one")
    commands.ok(work, "commit", models.checkpoint("layers.0.q.weight"), "-m", "two")
    commands.ok(work, "checkout", "main")
    commands.ok(work, "log")
    return world


@pytest.fixture
def made(world, request) -> Path:
    """A folder for what a case makes."""
    folder = world.root / "made" / "".join(c if c.isalnum() else "-" for c in request.node.name)
    folder.mkdir(parents=True)
    return folder


# weights ---------------------------------------------------------------------


def header(fields: Any, data: bytes = b"\0" * 32, length: int | None = None) -> bytes:
    text = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def one(**changes: Any) -> dict[str, Any]:
    return {"a": {"dtype": "F32", "shape": [8], "data_offsets": [0, 32], **changes}}


def two(start: int, stop: int) -> dict[str, Any]:
    return {**one(), "b": {"dtype": "F32", "shape": [8], "data_offsets": [start, stop]}}


MALFORMED = {
    "empty": b"",
    "seven bytes": b"\1" * 7,
    "header beyond the end": header(one(), length=1 << 40),
    "header of 2^63": header(one(), length=(1 << 64) - 1),
    "no JSON": header(b"{not json}"),
    "a list": header([1]),
    "deep": header(b"[" * 100_000),
    "UTF-16": header(json.dumps(one()).encode("utf-16")),
    "NaN": header(b'{"a": {"dtype": "F32", "shape": [NaN], "data_offsets": [0, 32]}}'),
    "twice the name": header(
        b'{"a": {"dtype":"F32","shape":[4],"data_offsets":[0,16]},'
        b'"a": {"dtype":"F32","shape":[4],"data_offsets":[16,32]}}'
    ),
    "overlap": header(two(16, 48), b"\0" * 48),
    "hole": header(two(40, 72), b"\0" * 72),
    "behind the end": header(one(data_offsets=[0, 64], shape=[16])),
    "backwards": header(one(data_offsets=[32, 0])),
    "negative": header(one(data_offsets=[-32, 0])),
    "wrong size": header(one(shape=[7])),
    "huge shape": header(one(shape=[1 << 62, 1 << 62])),
    "negative shape": header(one(shape=[-8, -1])),
    "truncated": header(one())[:-1],
    "trailing": header(one(), b"\0" * 33),
    "no offsets": header({"a": {"dtype": "F32", "shape": [8]}}),
    "float offsets": header(one(data_offsets=[0.0, 32.0])),
    "bool shape": header(one(shape=[True] * 8, data_offsets=[0, 4]), b"\0" * 4),
    "escape in a name": header({"\x1b[31ma": one()["a"]}),
    "NUL in a name": header({"a\0b": one()["a"]}),
    "surrogate in a name": header(
        b'{"\\ud800": {"dtype":"F32","shape":[8],"data_offsets":[0,32]}}'
    ),
    "long name": header({"n" * 5000: one()["a"]}),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_weights(world, made, name):
    (made / "model.safetensors").write_bytes(MALFORMED[name])
    error = world.refused(46, "commit", made, "-m", "x")
    assert error["slug"] == "file-unsafe"


@pytest.mark.parametrize("verb", ["base", "verify", "workspace"])
def test_malformed_weights_by_other_ways(world, made, verb):
    (made / "model.safetensors").write_bytes(MALFORMED["overlap"])
    if verb == "base":
        world.refused(46, "base", "add", "other", made)
    elif verb == "verify":
        world.refused(46, "base", "verify", "tiny", "--path", made)
    else:
        world.refused(46, "checkout", "main", "--to", world.root / "nope", "--base-path", made)
    assert not (world.root / "nope").exists()


def test_an_unknown_dtype(world, made):
    (made / "model.safetensors").write_bytes(header(one(dtype="F31")))
    world.refused(46, "commit", made, "-m", "x", says="F31")


def test_a_pipe_in_place_of_weights(world, made):
    os.mkfifo(made / "model.safetensors")
    world.refused(45, "commit", made, "-m", "x", says="no model weights")
    world.refused(46, "commit", made / "model.safetensors", "-m", "x", says="a pipe")
    world.refused(45, "base", "add", "other", made)


@pytest.mark.parametrize("where", ["data", "companion", "adapter", "folder of data"])
def test_a_pipe_in_other_places(world, made, where):
    adapter = world.models.adapter()
    pipe = made / "pipe"
    if where == "data":
        os.mkfifo(pipe)
        world.refused(46, "commit", adapter, "-m", "x", "--data", pipe, says="pipe")
    elif where == "folder of data":
        os.mkfifo(pipe)
        world.refused(46, "commit", adapter, "-m", "x", "--data", made, says="pipe")
    elif where == "companion":
        model = world.models.checkpoint()
        os.mkfifo(model / "tokenizer.json")
        argv = ["commit", model, "-m", "x", "-n", "--json"]
        assert world.commands.ok(world.work, *argv).data["ignored"] == ["tokenizer.json"]
    else:
        (adapter / "adapter_config.json").unlink()
        os.mkfifo(adapter / "adapter_config.json")
        world.refused(46, "commit", adapter, "-m", "x", says="a pipe")


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null", "/proc/self/mem", "/dev"])
def test_devices(world, made, device):
    error = world.refused(45 if device == "/dev" else 46, "commit", device, "-m", "x")
    assert error["slug"] in ("file-unsafe", "format-unsupported")


@pytest.mark.parametrize("path", ["nowhere", "n" * 300, "a/../../../../nowhere", "\x1b[31m"])
def test_a_source_that_is_not_there(world, path):
    world.refused(45, "commit", path, "-m", "x")
    world.refused(26, "base", "add", "other", path)
    world.refused(26, "base", "verify", "tiny", "--path", path)
    world.refused(26, "checkout", "main", "--to", world.root / "nope", "--base-path", path)


def test_an_index_that_points_outside(world, made):
    save_file({"a": np.zeros(8, "f4")}, made.parent / "secret.safetensors")
    weights = {"weight_map": {"a": "../secret.safetensors"}}
    (made / "model.safetensors.index.json").write_text(json.dumps(weights))
    world.refused(46, "commit", made, "-m", "x", says="not a plain file name")


def test_a_link_to_a_folder_is_not_entered(world, made):
    secret = made / "secret"
    secret.mkdir()
    (secret / "key").write_text("hidden")
    model = world.models.checkpoint()
    (model / "extra").symlink_to(secret, target_is_directory=True)
    outcome = world.commands.ok(world.work, "commit", model, "-m", "x", "-n", "--json")
    assert "extra" in "".join(outcome.data["ignored"])
    assert "hidden" not in outcome.out


# shapes, bases -----------------------------------------------------------------


def test_a_checkpoint_of_another_model(world, made):
    save_file({"other.weight": np.zeros((3, 3), "f4")}, made / "model.safetensors")
    world.refused(25, "commit", made, "-m", "x")


def test_an_adapter_of_another_model(world):
    world.refused(25, "commit", world.models.adapter("blocks.7.attn"), "-m", "x", says="blocks.7")


def test_an_adapter_that_fits_in_part(world):
    source = world.models.adapter("layers.0.q", "layers.1.q")
    world.refused(25, "commit", source, "-m", "x", says="layers.1.q")


def test_an_adapter_of_other_shapes(world):
    def wider(tensors: dict[str, Any]) -> None:
        for name in list(tensors):
            if "lora_A" in name:
                tensors[name] = np.zeros((2, 16), "f4")

    world.refused(48, "commit", world.models.adapter(factors=wider), "-m", "x")


def test_ranks_that_do_not_agree(world):
    def other(tensors: dict[str, Any]) -> None:
        for name in list(tensors):
            if "lora_A" in name:
                tensors[name] = np.zeros((3, 8), "f4")

    world.refused(48, "commit", world.models.adapter(factors=other), "-m", "x")


@pytest.fixture
def twin(world, made) -> Path:
    """A fine-tune of the base: the same names and shapes, other numbers."""
    tensors = {n: t + t.dtype.type(1) for n, t in world.models.tensors.items()}
    return world.models.model(tensors, made / "twin")


def test_a_fine_tune_in_place_of_the_base(world, twin):
    target = world.root / "nope"
    error = world.refused(
        25, "checkout", "main", "--to", target, "--base-path", twin, says="5 of 5 tensors differ"
    )
    assert len(error["context"]["tensors"]) == 5
    assert not target.exists()


def test_a_fine_tune_under_the_name_of_the_base(world, twin):
    world.refused(22, "base", "add", "tiny", twin)


def test_a_fine_tune_as_another_base(commands, world, twin, tmp_path):
    """What stands on one base cannot be put on another of the same shapes."""
    shutil.copytree(world.work, tmp_path / "work")
    other = World(commands, tmp_path, tmp_path / "work", world.models, world.digest)
    commands.ok(other.work, "base", "add", "twin", twin)
    adapter = world.models.adapter()
    other.refused(25, "commit", adapter, "-m", "x", "--base", "twin", "--stack")
    found = commands.ok(other.work, "commit", adapter, "-m", "x", "--base", "twin", "--json").data
    assert found["base_name"] == "twin"
    shown = commands.ok(other.work, "show", "HEAD", "--json").data
    assert shown["commit"]["base"] == found["base"]
    other.refused(25, "revert", "HEAD~1")
    other.refused(25, "cherry-pick", "HEAD~1")


@pytest.fixture
def lost(commands, world, tmp_path) -> World:
    """A repository of its own with a base of its own."""
    models = type(world.models)(tmp_path / "models")
    work = tmp_path / "work"
    work.mkdir()
    commands.ok(work, "init")
    commands.ok(work, "base", "add", "tiny", models.base())
    commands.ok(work, "commit", models.adapter(), "-m", "one")
    return World(commands, tmp_path, work, models, world.digest)


def test_a_base_that_moved(lost, weights_of):
    base = lost.models.folder / "base"
    base.rename(base.with_name("elsewhere"))
    target = lost.root / "out"
    lost.refused(26, "checkout", "main", says="tiny")
    lost.refused(26, "checkout", "main", "--to", target)
    lost.refused(26, "commit", lost.models.adapter(), "-m", "x")
    lost.refused(26, "base", "verify", "tiny")
    for argv in (["log"], ["show", "HEAD"], ["status", "--no-hash"], ["base", "list"], ["fsck"]):
        lost.commands.ok(lost.work, *argv)
    lost.commands.ok(
        lost.work, "checkout", "main", "--to", target, "--base-path", base.with_name("elsewhere")
    )
    lost.commands.ok(lost.work, "base", "add", "tiny", base.with_name("elsewhere"))
    lost.commands.ok(lost.work, "checkout", "main")
    assert weights_of(lost.work / "model") == weights_of(target)


def test_a_base_that_changed(lost):
    base = lost.models.folder / "base" / "model.safetensors"
    data = bytearray(base.read_bytes())
    data[-1] ^= 1
    base.write_bytes(data)
    lost.refused(25, "checkout", "main", says="1 of 5 tensors differ")
    lost.refused(25, "commit", lost.models.adapter(), "-m", "x")
    verified = lost.commands.run(lost.work, "base", "verify", "tiny", "--json")
    assert verified.code == 1
    assert verified.document["ok"] is True
    base.write_bytes(data[:-1])
    lost.refused(46, "checkout", "main")


def test_no_base(commands, world, tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    commands.ok(work, "init")
    empty = World(commands, tmp_path, work, world.models, world.digest)
    empty.refused(26, "commit", world.models.adapter(), "-m", "x", says="no base")
    empty.refused(20, "checkout", "main")


# adapters ------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_factors_that_are_no_numbers(world, value):
    def spoil(tensors: dict[str, Any]) -> None:
        tensors[min(tensors)][0, 0] = value

    world.refused(47, "commit", world.models.adapter(factors=spoil), "-m", "x")


@pytest.mark.parametrize(
    "change",
    [
        {"peft_type": "VOODOO"},
        {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 8},
        {"peft_type": 7},
        {"peft_type": None},
        {"unheard_of_scaling": 3},
        {"lora_alpha": "four"},
        {"r": -2},
        {"r": True},
        {"r": 10**30},
        {"lora_alpha": 1e308, "use_rslora": "yes"},
    ],
    ids=str,
)
def test_adapters_that_are_not_understood(world, change):
    error = world.refused(45, "commit", world.models.adapter(**change), "-m", "x")
    assert error["slug"] == "format-unsupported"


@pytest.mark.parametrize(
    "text",
    [b"", b"[]", b'{"peft_type": "LORA", "r": 2, "r": 3}', b"{'a': 1}", b"\xff", b"[" * 99999],
)
def test_a_config_that_is_no_json(world, made, text):
    adapter = world.models.adapter()
    (adapter / "adapter_config.json").write_bytes(text)
    world.refused(46, "commit", adapter, "-m", "x", says="adapter_config.json")


def test_a_pattern_that_never_ends(world):
    adapter = world.models.adapter(rank_pattern={"(a+)+$": 2}, target_modules="(x+x+)+y")
    outcome = world.commands.run(world.work, "commit", adapter, "-m", "x", "-n")
    assert outcome.code in (0, 45, 46)


# pickles ---------------------------------------------------------------------------


class Attack:
    """Writes a file when it is unpickled by a loader that trusts."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


def test_a_pickle_is_refused(world, made):
    import torch

    torch.save({"a": torch.zeros(3)}, made / "pytorch_model.bin")
    error = world.refused(46, "commit", made, "-m", "x", says="pickle")
    assert "--allow-pickle" in error["hint"]
    world.refused(46, "commit", made / "pytorch_model.bin", "-m", "x")
    world.refused(46, "base", "add", "other", made)


def test_a_sound_pickle_on_request(world, made):
    import torch

    tensors = {n: torch.from_numpy(t.copy()) for n, t in world.models.tensors.items()}
    tensors["emb.weight"] += 1
    torch.save(tensors, made / "pytorch_model.bin")
    argv = ["commit", made, "-m", "x", "-n", "--allow-pickle", "--json"]
    found = world.commands.ok(world.work, *argv).data
    assert found["exact"]
    assert found["parameters"] == 1


@pytest.mark.parametrize("form", ["zip", "plain"])
def test_a_hostile_pickle_runs_nothing(world, made, form):
    import torch

    victim = made / "owned"
    target = made / "pytorch_model.bin"
    if form == "zip":
        torch.save({"a": Attack(victim)}, target)
    else:
        target.write_bytes(pickle.dumps({"a": Attack(victim)}))
    world.refused(46, "commit", made, "-m", "x")
    world.refused(46, "commit", made, "-m", "x", "--allow-pickle")
    os.rename(target, made / "model.safetensors")
    world.refused(46, "commit", made, "-m", "x", "--allow-pickle")
    assert not victim.exists()


# targets and names -------------------------------------------------------------------


def test_a_checkout_onto_foreign_files(world, made):
    (made / "thesis.txt").write_text("three years")
    world.refused(31, "checkout", "main", "--to", made)
    assert (made / "thesis.txt").read_text() == "three years"


def test_a_checkout_onto_a_file_or_a_link(world, made):
    (made / "file").write_text("x")
    (made / "folder").mkdir()
    (made / "link").symlink_to(made / "folder")
    assert world.commands.run(world.work, "checkout", "main", "--to", made / "file").code in (
        22,
        31,
    )
    world.refused(46, "checkout", "main", "--to", made / "link", says="symbolic link")
    world.refused(46, "checkout", "main", "--to", made / "link", "--force")
    assert list((made / "folder").iterdir()) == []


def test_a_workspace_with_work_in_it(world):
    weights = world.work / "model" / "model.safetensors"
    before = weights.read_bytes()
    tensors = load_file(weights)
    tensors["emb.weight"][0, 0] += 1
    save_file(tensors, weights, metadata={"format": "pt"})
    try:
        world.refused(31, "checkout", "main~1", says="unrecorded")
    finally:
        weights.write_bytes(before)


NAMES = [
    "-x", "a b", "a..b", "../up", "/abs", "a\x1b[31m", "a\nb", "a/", ".hidden", "HEAD", "x" * 300,
    "a~1", "c:d",
]  # fmt: skip


@pytest.mark.parametrize("name", every(NAMES, 3))
def test_names_that_may_not_be_used(world, name):
    for argv in (["branch", "--"], ["tag", "--"]):
        error = world.refused(23, *argv, name)
        assert error["slug"] == "name-invalid"
    base = world.models.folder / "base"
    world.refused(23, "base", "add", "--", name, base)
    world.refused(23, "init", "--branch=" + name, world.root / "nope")
    assert not (world.root / "nope").exists()


@pytest.mark.parametrize(
    "rev", ["nope", "\x1b[31m", "HEAD~99", "main^7", "zz" * 5000, "@{1}", "a\0b"]
)
def test_revisions_that_are_none(world, rev):
    if "\0" in rev:  # a command line cannot hold it; the API can
        from deltavc import open as open_repository
        from deltavc.errors import UnknownRevision

        with pytest.raises(UnknownRevision):
            open_repository(world.work).resolve(rev)
        return
    for argv in (["show"], ["checkout"], ["revert"], ["tag", "t"], ["branch", "t"], ["switch"]):
        world.refused(20, *argv, rev)


def test_text_with_escapes_is_kept_and_shown_harmless(commands, world, tmp_path):
    shutil.copytree(world.work, tmp_path / "work")
    message = "fine\x1b[2J\rhidden\u202e"
    hostile = {"DELTAVC_ACTOR": "Eve\x1b]0;x\x07 <eve@example.org>"}
    world.refused(2, "commit", world.models.adapter(), "-m", message, env=hostile)
    found = commands.ok(
        tmp_path / "work", "commit", world.models.adapter(), "-m", message, "--json"
    ).data["commit"]  # fmt: skip
    for argv in (["log"], ["show", found], ["op", "log"], ["status"], ["blame"], ["log", "--all"]):
        out = commands.ok(tmp_path / "work", *argv).out
        assert all(c.isprintable() or c == "\n" for c in out), (argv, out)
    shown = commands.ok(tmp_path / "work", "show", found, "--json").data
    assert shown["commit"]["message"] == message


# the repository itself ----------------------------------------------------------------


VERBS = [
    ["base", "list"], ["base", "show", "tiny"], ["base", "verify"], ["status"], ["diff"], ["log"],
    ["show", "HEAD"], ["blame"], ["branch"], ["switch", "main"], ["checkout", "main"], ["tag"],
    ["revert", "HEAD"], ["cherry-pick", "HEAD"], ["undo"], ["redo"], ["op", "log"], ["fsck"],
    ["doctor"], ["doctor", "--rebuild-catalog"], ["commit", "model", "-m", "x"], ["init"],
    ["base", "add", "t", "model"], ["base", "remove", "tiny"], ["op", "show", "@"],
    ["op", "restore", "@"],
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("deltavc 2\nsha256\n", 11),
        ("deltavc 999999999\nsha256\n", 11),
        ("deltavc 1\nblake3\n", 11),
        ("", 10),
        ("deltavc one\n", 10),
        ("\0" * 30, 10),
    ],
)
def test_a_format_that_is_newer_or_none(commands, world, tmp_path, text, code):
    shutil.copytree(world.work, tmp_path / "work", symlinks=True)
    (tmp_path / "work/.deltavc/format").write_text(text)
    other = World(commands, tmp_path, tmp_path / "work", world.models, world.digest)
    for argv in VERBS if text.startswith("deltavc 2") else VERBS[5:8]:
        before = other.state
        outcome = commands.run(other.work, *argv, "--json")
        if argv[0] == "doctor" and outcome.code == 1:  # it says so among its findings
            assert any("format" in f["message"] for f in outcome.data["findings"])
        else:
            assert outcome.code == code, (argv, outcome)
        assert other.state == before


@pytest.mark.parametrize("name", ["config.toml", "format", "events", "objects"])
@pytest.mark.parametrize("damage", every(["link", "folder", "pipe", "gone"], 2))
def test_parts_of_the_repository_that_are_something_else(commands, world, tmp_path, name, damage):
    shutil.copytree(world.work, tmp_path / "work", symlinks=True)
    path = tmp_path / "work/.deltavc" / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    if damage == "link":
        path.symlink_to("/dev/zero")
    elif damage == "pipe":
        os.mkfifo(path)
    elif damage == "folder":
        path.mkdir()
    for argv in (["status"], ["log"], ["checkout", "main~1"], ["fsck"]):
        outcome = commands.run(tmp_path / "work", *argv)
        assert outcome.code not in (70, 99), (argv, outcome)
        assert "Traceback" not in outcome.err


SETTINGS = [
    "workspace = 3\n", "core = 3\n", "[workspace]\npath = 3\n", "[workspace]\npath = '.'\n",
    "[workspace]\npath = ''\n", "[workspace]\npath = \"a\\u0000b\"\n", "x = [", "\0", "[[a]]\n",
    "[workspace]\npath = '.deltavc/objects'\n", "[core]\nbare = 'x'\n",
    "[workspace]\npath = '.deltavc'\n", "a." * 5000 + "b = 1\n",
]  # fmt: skip


@pytest.mark.parametrize("text", every(SETTINGS, 3))
def test_settings_that_make_no_sense(commands, world, tmp_path, text):
    shutil.copytree(world.work, tmp_path / "work", symlinks=True)
    (tmp_path / "work/.deltavc/config.toml").write_text(text)
    other = World(commands, tmp_path, tmp_path / "work", world.models, world.digest)
    before = other.digest(other.work / ".deltavc/objects")
    for argv in (["status"], ["log"], ["checkout", "main~1"], ["checkout", "main", "--force"]):
        outcome = commands.run(other.work, *argv)
        assert outcome.code not in (70, 99), (argv, outcome)
        assert "Traceback" not in outcome.err
    after = other.digest(other.work / ".deltavc/objects")
    assert before.items() <= after.items()
