"""Files of the repository changed behind its back: right bytes or an error, never wrong bytes."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

TABLE = {1, 2, 10, 11, 12, 13, 14, 20, 21, 22, 23, 25, 26, 31, 32, 34, 40, 41, 42, 45, 46, 48}
"""Exit codes that damage may lead to; 70 and a traceback are none of them."""


def flip(data: bytes, rng: random.Random) -> bytes:
    at, bit = rng.randrange(len(data)), rng.randrange(8)
    return data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]


DAMAGES: dict[str, Callable[[bytes, random.Random], bytes | None]] = {
    "flip": flip,
    "half": lambda data, _: data[: len(data) // 2],
    "empty": lambda _data, _rng: b"",
    "more": lambda data, _: data + b"x",
    "zeros": lambda data, _: bytes(len(data)),
    "gone": lambda _data, _rng: None,
}


@dataclass
class Vault:
    """A repository, and what it must give out."""

    commands: Any
    folder: Path
    kept: Path
    work: Path
    weights: dict[str, Any] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)

    def restore(self) -> None:
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(self.kept, self.work, symlinks=True)

    def files(self) -> list[str]:
        own = self.kept / ".deltavc"
        return sorted(
            path.relative_to(own).as_posix()
            for path in own.rglob("*")
            if path.is_file() and path.name not in ("lock", "workspace.lock")
        )

    def damage(self, name: str, how: str, seed: int = 0) -> bool:
        """Damages a file of a fresh copy; says whether that changed anything."""
        self.restore()
        path = self.work / ".deltavc" / name
        before = path.read_bytes()
        if not before and how in ("flip", "half", "empty", "zeros"):
            return False
        after = DAMAGES[how](before, random.Random(f"{name} {how} {seed}"))
        path.chmod(0o644)
        if after is None:
            path.unlink()
        else:
            path.write_bytes(after)
        return after != before

    def run(self, *steps: list[str]) -> list[Any]:
        outcomes = self.commands.start(self.work, steps).wait()
        for argv, outcome in zip(steps, outcomes, strict=True):
            assert outcome.code in TABLE | {0}, (argv, outcome)
            assert "Traceback" not in outcome.err
            if outcome.code > 1:
                error = outcome.document["error"]
                assert error["hint"], (argv, outcome)
        return outcomes


@pytest.fixture(scope="module")
def vault(commands, tmp_path_factory, models_in, weights_of) -> Vault:
    folder = tmp_path_factory.mktemp("vault")
    models = models_in(folder / "models")
    base = models.base()
    os.utime(base / "model.safetensors", (0, 0))
    work = folder / "work"
    work.mkdir()
    vault = Vault(commands, folder, folder / "kept", work)
    commands.ok(work, "init")
    commands.ok(work, "base", "add", "tiny", base)
    for name, source in {"one": models.adapter(), "two": models.checkpoint()}.items():
        commands.ok(work, "commit", source, "-m", name, "--kpi", "acc=0.5")
        commands.ok(work, "tag", name, "main", "-m", f"the tag {name}")
        commands.ok(work, "checkout", "main", "--to", folder / name)
        vault.weights[name] = weights_of(folder / name)
        shutil.rmtree(folder / name)
    commands.ok(work, "checkout", "main")
    rows = commands.ok(work, "log", "--json").data
    vault.log = [row["commit"] for row in rows]
    shutil.copytree(work, vault.kept, symlinks=True)
    return vault


def look(vault: Vault, weights_of: Callable[[Path], Any]) -> tuple[Any, dict[str, Any]]:
    """Runs every kind of command; returns what fsck said, and the outcomes by name."""
    out = vault.folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    steps = {
        "fsck": ["fsck"],
        "log": ["log"],
        "show": ["show", "one"],
        "one": ["checkout", "one", "--to", str(out / "one")],
        "two": ["checkout", "two", "--to", str(out / "two")],
        "status": ["status"],
        "diff": ["diff", "one", "two"],
        "op": ["op", "log"],
        "revert": ["revert", "one"],
    }
    outcomes = dict(
        zip(steps, vault.run(*([*argv, "--json"] for argv in steps.values())), strict=True)
    )
    for name in ("one", "two"):
        assert (outcomes[name].code == 0) == (out / name).exists()
        if outcomes[name].code == 0:
            assert weights_of(out / name) == vault.weights[name]
    if outcomes["log"].code == 0:
        assert [row["commit"] for row in outcomes["log"].data] in (vault.log, vault.log[1:], [])
    return outcomes["fsck"], outcomes


def is_truth(name: str) -> bool:
    return name.startswith(("objects/", "events/"))


@pytest.mark.parametrize("how", ["flip", "gone"])
def test_damage_to_the_truth_is_found(vault, weights_of, how):
    for name in filter(is_truth, vault.files()):
        if not vault.damage(name, how):
            continue
        fsck, outcomes = look(vault, weights_of)
        # The end of the log cannot be missed from the log itself; the catalog still knows it.
        assert fsck.code != 0 or fsck.data["findings"], (name, outcomes)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["flip", "half", "more", "zeros"])
def test_every_file_damaged_in_every_way(vault, weights_of, how):
    for name in vault.files():
        if not vault.damage(name, how, seed=1):
            continue
        fsck, outcomes = look(vault, weights_of)
        if is_truth(name):
            assert fsck.code != 0 or fsck.data["findings"], (name, outcomes)
        if name.startswith(("cache/", "catalog")):
            for part in ("one", "two", "log"):
                assert outcomes[part].code == 0, (name, outcomes[part])


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_catalog_is_in_nobodys_way_and_rebuilt(vault, weights_of, how):
    vault.damage("catalog.db", how, seed=3)
    before = look(vault, weights_of)[1]
    for name in ("log", "show", "one", "two", "revert"):
        assert before[name].code == 0, (name, before[name])
    assert [row["commit"] for row in before["log"].data] == vault.log
    repair = ["doctor", "--fix"] if how != "flip" else ["doctor", "--rebuild-catalog"]
    mended, check, log = vault.run([*repair, "--json"], ["fsck", "--json"], ["log", "--json"])
    assert mended.code == 0
    assert check.data["findings"] == []
    assert log.document["warnings"] == []
    assert [row["commit"] for row in log.data][1:] == vault.log


def test_a_catalog_that_is_another_database(vault, weights_of):
    import sqlite3

    vault.restore()
    path = vault.work / ".deltavc/catalog.db"
    for file in path.parent.glob("catalog.db*"):
        file.unlink()
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE mine (secret)")
    other.execute("PRAGMA user_version = 1")
    other.commit()
    other.close()
    before = look(vault, weights_of)[1]
    assert before["log"].code == 0
    assert vault.run(["doctor", "--rebuild-catalog", "--json"])[0].code == 0


def rechained(lines: list[bytes], change: Callable[[list[dict[str, Any]]], None]) -> bytes:
    """Forges a log: changes events and links them again, as somebody with an editor could."""
    events = [json.loads(line) for line in lines]
    change(events)
    prev, out = "0" * 64, []
    for number, event in enumerate(events, 1):
        event["number"], event["prev"] = number, prev
        line = json.dumps(event, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()
        prev = hashlib.sha256(line).hexdigest()
        out.append(line + b"\n")
    return b"".join(out)


FORGERIES: dict[str, Callable[[list[dict[str, Any]]], Any]] = {
    "undo of nothing": lambda events: [e.update(undoes=e["number"] - 1) for e in events[:2]],
    "redo of nothing": lambda events: events[2].update(redoes=1),
    "undo of the future": lambda events: events[2].update(undoes=99),
    "no events": lambda events: events.clear(),
    "no head": lambda events: events[0].update(refs=[]),
    "ref to nothing": lambda events: events[-1]["refs"][0].update(after="f" * 64),
    "ref to a word": lambda events: events[-1]["refs"][0].update(after="../../etc"),
    "ref to another kind": lambda events: [
        ref.update(after=events[1]["objects"][0]) for e in events for ref in e["refs"]
    ],
    "commits that are no list": lambda events: events[2]["detail"].update(commits={"a": 1}),
    "stats that are no numbers": lambda events: events[2]["detail"].update(stats="many"),
    "another time": lambda events: events[1].update(time=-(10**15)),
    "escapes": lambda events: events[1].update(summary="\x1b[2J", actor="\x1b]0;x\x07"),
    "the last one gone": lambda events: events.pop(),
    "one in the middle gone": lambda events: events.pop(3),
    "twice": lambda events: events.extend(json.loads(json.dumps(events[-2:]))),
}


QUICK = ("undo of nothing", "ref to a word", "ref to another kind", "escapes", "no head")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in QUICK else [pytest.mark.slow]) for n in FORGERIES]
)
def test_a_forged_log(vault, weights_of, name):
    vault.restore()
    (segment,) = (vault.work / ".deltavc/events").iterdir()
    lines = segment.read_bytes().splitlines()
    assert rechained(lines, lambda _: None) == segment.read_bytes()
    segment.write_bytes(rechained(lines, FORGERIES[name]))
    look(vault, weights_of)
    outcomes = vault.run(
        *([*argv, "--json"] for argv in (
            ["op", "log"], ["undo"], ["redo"], ["op", "restore", "@"], ["branch"], ["tag"],
            ["doctor"], ["base", "list"], ["commit", "model", "-m", "x"], ["blame"],
        ))
    )  # fmt: skip
    assert all("\x1b" not in outcome.err for outcome in outcomes)


def test_a_clock_that_was_set_back(vault):
    """Order is that of the events, and who looks is told."""
    vault.restore()
    times = {}
    for name, epoch in (("now", "2000000000"), ("yesterday", "1999900000")):
        base = vault.folder / "models/base"
        source = base if name == "now" else vault.work / "model"
        times[name] = vault.commands.ok(
            vault.work, "commit", source, "-m", name, "--json",
            env={"SOURCE_DATE_EPOCH": epoch, "DELTAVC_ACTOR": "Ada <a@example.org>"},
        ).data["commit"]  # fmt: skip
    log, op, doctor, check = vault.run(
        ["log", "--json"], ["op", "log", "--json"], ["doctor", "--json"], ["fsck", "--json"]
    )
    assert [row["commit"] for row in log.data][:3] == [
        times["yesterday"],
        times["now"],
        *vault.log[:1],
    ]
    assert [row["number"] for row in op.data] == list(range(len(op.data), 0, -1))
    assert any(found["code"] == "clock-behind" for found in doctor.data["findings"])
    assert check.code == 0


def test_two_objects_swapped(vault, weights_of):
    vault.restore()
    loose = sorted((vault.work / ".deltavc/objects/loose").rglob("*"))
    one, other = [path for path in loose if path.is_file()][:2]
    data = one.read_bytes(), other.read_bytes()
    for path, text in ((one, data[1]), (other, data[0])):
        path.chmod(0o644)
        path.write_bytes(text)
    fsck, _ = look(vault, weights_of)
    assert fsck.code == 1
    assert len(fsck.data["findings"]) >= 2


def test_a_cache_that_lies_about_the_base(vault, weights_of):
    """Stamps say that the files are the base's: a forged one must not pass a whole verify."""
    vault.restore()
    base = vault.folder / "models/base/model.safetensors"
    before, times = base.read_bytes(), base.stat()
    data = bytearray(before)
    data[-1] ^= 1
    try:
        base.write_bytes(data)
        os.utime(base, ns=(times.st_atime_ns, times.st_mtime_ns))
        (outcome,) = vault.run(["base", "verify", "tiny", "--json"])
        assert outcome.code == 1
    finally:
        base.write_bytes(before)
        os.utime(base, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_a_workspace_memory_that_lies(vault, weights_of):
    """What is remembered of the workspace decides what is rewritten: forged, it costs time only."""
    for value in ("{}", "null", '{"path": 1}', "\0", '{"path":"x","commit":"x","manifest":"x"}'):
        vault.restore()
        for path in (vault.work / ".deltavc/cache").glob("folder-*.json"):
            path.write_text(value)
        (outcome,) = vault.run(["checkout", "one", "--json"])
        assert outcome.code == 0, outcome
        assert weights_of(vault.work / "model") == vault.weights["one"]
