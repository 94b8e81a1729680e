"""Exports: complete, reproducible, and checked by programs that are not ours."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

import deltavc
from deltavc.api import Repository
from deltavc.errors import RepositoryUnwritable, UsageError
from deltavc.ids import EventHash
from deltavc.ledger.log import draft_event
from deltavc.records import canonical
from deltavc.repo.repository import Repository as Opened
from deltavc.repo.session import Session, Signing

from .conftest import ADA, Ask, Story, ms


def unpacked(pack: Path, folder: Path) -> Path:
    with zipfile.ZipFile(pack) as archive:
        assert all(not n.startswith("/") and ".." not in n for n in archive.namelist())
        archive.extractall(folder)
    return folder


def check(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Runs the script of a pack: -I and an empty environment, so that nothing else is loaded."""
    return subprocess.run(
        [sys.executable, "-I", "-S", "verify.py", *words],
        cwd=folder, env={}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def sums(folder: Path) -> bool:
    done = subprocess.run(
        ["sha256sum", "-c", "--strict", "--quiet", "MANIFEST"], cwd=folder, capture_output=True
    )
    return done.returncode == 0


@pytest.fixture(scope="module")
def pack(told: Story, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pack of the whole story, unpacked."""
    folder = tmp_path_factory.mktemp("pack")
    deltavc.open(told.folder).audit_export(folder / "pack.zip", "pack")
    return unpacked(folder / "pack.zip", folder / "pack")


@pytest.fixture
def mine(pack: Path, tmp_path: Path) -> Path:
    """A copy of the pack, to be changed."""
    return Path(shutil.copytree(pack, tmp_path / "mine"))


# packs -------------------------------------------------------------------------


def test_a_pack_checks_without_deltavc(pack: Path, told: Story) -> None:
    assert sums(pack)
    done = check(pack)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "30 events, 1 to 30" in done.stdout
    head = deltavc.open(told.folder).audit_head()
    assert check(pack, "--head", head.hash).returncode == 0
    about = json.loads((pack / "pack.json").read_text())
    assert about["last"] == {"number": 30, "hash": head.hash}
    assert check(pack, "--head", "0" * 63 + "1").returncode == 1


def test_a_pack_holds_what_the_events_name_but_no_weights(pack: Path, told: Story) -> None:
    index = [line.split(" ") for line in (pack / "objects" / "INDEX").read_text().splitlines()]
    states = {oid: (state, kind) for state, kind, oid in index}
    assert {kind for state, kind in states.values() if state == "left-out"} == {"delta", "blob"}
    assert not any(state == "missing" for state, _ in states.values())
    for line in (pack / "events" / "00000001.jsonl").read_bytes().splitlines():
        event = json.loads(line)
        assert set(event.get("objects", ())) <= set(states)
    for version in told.versions.values():
        body = (pack / "objects" / "commit" / version).read_bytes()
        assert hashlib.sha256(b"commit %d\0" % len(body) + body).hexdigest() == version
    assert (pack / "schema" / "records.json").is_file()


def test_the_same_question_gives_the_same_pack(told: Story, tmp_path: Path) -> None:
    digests = set()
    for name in ("one.zip", "two.zip"):
        done = deltavc.open(told.folder).audit_export(tmp_path / name, "pack", about=["v1.0"])
        assert done.sha256 == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
        assert done.bytes == (tmp_path / name).stat().st_size
        digests.add(done.sha256)
    assert len(digests) == 1
    assert {path.name for path in tmp_path.iterdir()} >= {"one.zip", "two.zip"}
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def relist(folder: Path) -> None:
    """Does what a forger would: writes MANIFEST anew."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "MANIFEST")
    lines = [
        f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(folder).as_posix()}\n"
        for p in files
    ]
    (folder / "MANIFEST").write_text("".join(lines))


def events(folder: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    path = folder / "events" / "00000001.jsonl"
    path.write_bytes(b"\n".join(change(path.read_bytes().split(b"\n"))))


TAMPERED: dict[str, Callable[[Path], object]] = {
    "an event edited": lambda f: events(
        f, lambda lines: [lines[0], lines[1].replace(b"Ada", b"Eve"), *lines[2:]]
    ),
    "an event deleted": lambda f: events(f, lambda lines: [*lines[:5], *lines[6:]]),
    "the last event deleted": lambda f: events(f, lambda lines: [*lines[:-2], b""]),
    "events swapped": lambda f: events(
        f, lambda lines: [*lines[:5], lines[6], lines[5], *lines[7:]]
    ),
    "a segment deleted": lambda f: (f / "events" / "00000001.jsonl").unlink(),
    "a commit changed": lambda f: flip(min((f / "objects" / "commit").iterdir())),
    "a deployment deleted": lambda f: min((f / "objects" / "deployment").iterdir()).unlink(),
    "a record unlisted": lambda f: (f / "objects" / "INDEX").write_text(
        "".join((f / "objects" / "INDEX").read_text().splitlines(keepends=True)[1:])
    ),
}


@pytest.mark.parametrize("name", TAMPERED)
@pytest.mark.parametrize("thorough", [False, True])
def test_a_tampered_pack_is_found_out(mine: Path, name: str, thorough: bool) -> None:
    TAMPERED[name](mine)
    if thorough:
        relist(mine)
        assert sums(mine)
    else:
        assert not sums(mine)
    done = check(mine)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "PROBLEM" in done.stdout


def test_a_stranger_in_a_pack_is_found(mine: Path) -> None:
    (mine / "extra").write_text("x")
    done = check(mine)
    assert done.returncode == 1
    assert "extra is not in MANIFEST" in done.stdout


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("pack.json", "{}"),
        ("pack.json", "[1, 2"),
        ("pack.json", '{"format": "deltavc pack 1"}'),
        ("MANIFEST", "0" * 64 + "  ../outside\n"),
        ("MANIFEST", "what\n"),
        ("objects/INDEX", "one two\n"),
    ],
)
def test_what_is_no_pack_is_told_without_a_traceback(mine: Path, name: str, content: str) -> None:
    (mine / name).write_text(content)
    done = check(mine)
    assert (done.returncode, done.stderr) == (2, "")
    assert "no evidence pack" in done.stdout


def test_a_part_of_the_history_is_chained_to_what_is_before(copy: Path, tmp_path: Path) -> None:
    repo = deltavc.open(copy, actor=ADA, clock=lambda: ms("2026-11-01T00:00"))
    lengthen(copy / ".deltavc" / "events", 1100)
    done = repo.audit_export(tmp_path / "part.zip", "pack", since=ms("2026-11-01T00:00") + 500)
    folder = unpacked(tmp_path / "part.zip", tmp_path / "part")
    about = json.loads((folder / "pack.json").read_text())
    assert about["chosen"] == [[531, 1130]]
    assert about["segments"] == ["00000001.jsonl", "00001001.jsonl"]
    late = repo.audit_export(tmp_path / "late.zip", "pack", since=ms("2026-11-01T00:00") + 1000)
    assert (done.events, late.events) == (600, 100)
    folder = unpacked(tmp_path / "late.zip", tmp_path / "late")
    about = json.loads((folder / "pack.json").read_text())
    assert about["segments"] == ["00001001.jsonl"]
    assert about["before"]["number"] == 1000
    assert check(folder, "--head", about["before"]["hash"]).returncode == 0
    assert "130 events, 1001 to 1130" in check(folder).stdout


def lengthen(folder: Path, count: int) -> None:
    """Adds events to a log, a millisecond apart, without waiting for the disk each time."""
    lines = (folder / "00000001.jsonl").read_bytes().splitlines()
    for number in range(count):
        event = draft_event(
            time=ms("2026-11-01T00:00") + number, actor=ADA, command="note", summary="x", tool="t"
        )
        prev = hashlib.sha256(lines[-1]).hexdigest()
        event = msgspec.structs.replace(event, number=len(lines) + 1, prev=EventHash(prev))
        lines.append(canonical.encode(event))
    for start in range(0, len(lines), 1000):
        part = b"".join(line + b"\n" for line in lines[start : start + 1000])
        (folder / f"{start + 1:08}.jsonl").write_bytes(part)


def test_weights_go_with_it_when_asked(told: Story, tmp_path: Path) -> None:
    repo = deltavc.open(told.folder)
    repo.audit_export(tmp_path / "deep.zip", "pack", about=["v1.0"], deep=True)
    folder = unpacked(tmp_path / "deep.zip", tmp_path / "deep")
    assert list((folder / "objects" / "delta").iterdir())
    assert "left-out" not in (folder / "objects" / "INDEX").read_text()
    assert check(folder).returncode == 0


def test_missing_objects_are_listed_and_told(copy: Path, tmp_path: Path, run: Ask) -> None:
    for path in (copy / ".deltavc" / "objects" / "packs").iterdir():
        path.unlink()
    done = deltavc.open(copy).audit_export(tmp_path / "pack.zip", "pack")
    assert done.missing
    folder = unpacked(tmp_path / "pack.zip", tmp_path / "pack")
    assert f"missing unknown {done.missing[0]}" in (folder / "objects" / "INDEX").read_text()
    assert check(folder).returncode == 0


def test_a_signed_pack_is_verified_by_ssh_keygen(copy: Path, tmp_path: Path) -> None:
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    public = (tmp_path / "key.pub").read_text()
    (copy / ".deltavc" / "allowed_signers").write_text(f"ada@example.org {public}")
    session = Session(ADA, lambda: ms("2026-11-01T00:00"), signing=_signing(key))
    repo = Repository(Opened.open(copy, session))
    done = repo.audit_export(tmp_path / "pack.zip", "pack", sign=True)
    assert done.signed_by == "ada@example.org"
    folder = unpacked(tmp_path / "pack.zip", tmp_path / "pack")
    assert check(folder).returncode == 0

    def holds() -> bool:
        command = ["ssh-keygen", "-Y", "verify", "-f", "keys/allowed_signers",
                   "-I", "ada@example.org", "-n", "deltavc", "-s", "MANIFEST.sig"]  # fmt: skip
        with (folder / "MANIFEST").open("rb") as manifest:
            done = subprocess.run(command, cwd=folder, stdin=manifest, capture_output=True)
        return done.returncode == 0

    assert holds()
    flip(folder / "MANIFEST")
    assert not holds()


def _signing(key: Path) -> Signing:
    return Signing(key=key, environ=dict(os.environ))


# tables ------------------------------------------------------------------------


def test_jsonl_is_the_log_line_by_line(told: Story, tmp_path: Path) -> None:
    repo = deltavc.open(told.folder)
    repo.audit_export(tmp_path / "trail.jsonl", "jsonl", about=["env:production"])
    wanted = {row.hash for row in repo.audit_log(about="env:production")}
    lines = (tmp_path / "trail.jsonl").read_bytes().splitlines()
    assert {hashlib.sha256(line).hexdigest() for line in lines} == wanted
    assert len(wanted) == len(lines) == 8


def test_csv_holds_every_view_and_no_formulas(copy: Path, tmp_path: Path) -> None:
    repo = deltavc.open(copy, actor="=cmd|' /C calc'!A0", clock=lambda: ms("2026-11-01T00:00"))
    repo.define_kpi("f1", direction="higher", kind="mean")
    done = repo.audit_export(tmp_path / "trail", "csv")
    assert done.files == len(list((tmp_path / "trail").iterdir())) == 12
    with (tmp_path / "trail" / "deployments.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["action"] for row in rows].count("rollback") == 1
    repo.audit_export(tmp_path / "events.csv", "csv")
    with (tmp_path / "events.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 31
    assert rows[-1]["actor"] == "'=cmd|' /C calc'!A0"
    assert rows[-2]["actor"] == "Bo <bo@example.org>"


def test_sqlite_answers_the_saved_queries_and_datasette_knows_them(
    told: Story, tmp_path: Path
) -> None:
    repo = deltavc.open(told.folder)
    repo.audit_export(tmp_path / "trail.db", "sqlite")
    metadata = json.loads((tmp_path / "trail.metadata.json").read_text())["databases"]["trail"]
    catalog = sqlite3.connect(tmp_path / "trail.db")
    tables = {name for (name,) in catalog.execute("select name from sqlite_master")}
    assert set(metadata["tables"]) <= tables
    for name, table in metadata["tables"].items():
        columns = [row[1] for row in catalog.execute(f"pragma table_info({name})")]
        assert list(table["columns"]) == columns
    assert set(metadata["queries"]) >= {"live-at", "rollbacks", "never-approved", "evidence-for"}
    for query in metadata["queries"].values():
        catalog.execute(query["sql"], dict.fromkeys(query["params"], "")).fetchall()
    sql = "select count(*) from v_commits"
    assert catalog.execute(sql).fetchone() == repo.query(sql + " c").rows[0].popitem()[1:]
    catalog.close()


def test_rows_follow_the_events_that_are_chosen(told: Story, tmp_path: Path) -> None:
    repo = deltavc.open(told.folder)
    repo.audit_export(tmp_path / "september.db", "sqlite", until=ms("2026-09-09T00:00"))
    catalog = sqlite3.connect(tmp_path / "september.db")

    def count(table: str) -> int:
        return int(catalog.execute(f"select count(*) from {table}").fetchone()[0])

    assert (count("v_commits"), count("v_data"), count("v_lineage")) == (1, 1, 0)
    assert (count("v_deployments"), count("v_approvals")) == (2, 1)
    catalog.close()


# refusals ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["jsonl", "csv", "sqlite", "pack"])
def test_nothing_is_overwritten_or_left_behind(told: Story, tmp_path: Path, kind: str) -> None:
    repo = deltavc.open(told.folder)
    (tmp_path / "there").write_text("mine")
    with pytest.raises(UsageError, match="overwrites nothing"):
        repo.audit_export(tmp_path / "there", kind)
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="overwrites nothing"):
        repo.audit_export(tmp_path / "link", kind)
    with pytest.raises(UsageError, match="no event fits"):
        repo.audit_export(tmp_path / "new", kind, since=ms("2027-01-01T00:00"))
    with pytest.raises(RepositoryUnwritable):
        repo.audit_export(tmp_path / "no" / "such" / "folder", kind)
    assert {path.name for path in tmp_path.iterdir()} == {"there", "link"}
    assert (tmp_path / "there").read_text() == "mine"


def test_what_makes_no_sense_is_refused(ask: Ask, tmp_path: Path) -> None:
    out = tmp_path / "x"
    for words, code in (
        (["--as", "jsonl", "--sign"], 2),
        (["--as", "csv", "--deep"], 2),
        (["--as", "pdf"], 2),
        (["--about", "nothing-of-that-name"], 20),
        (["--as", "pack", "--sign"], 2),
    ):
        asked = ask("audit", "export", "-o", out, *words)
        assert asked.code == code, asked
        assert "hint:" in asked.err
        assert not out.exists()
    assert ask("audit", "export").code == 2


# log -----------------------------------------------------------------------------


def test_the_log_is_filtered(ask: Ask, told: Story) -> None:
    def numbers(*words: str) -> list[int]:
        return [row["number"] for row in ask("audit", "log", *words, "--json").data]

    every = numbers()
    assert numbers("-l", "3") == every[:3]
    assert numbers("--action", "rollback") == [24]
    assert numbers("--action", "kpi") == numbers(
        "--action", "kpi define", "--action", "kpi add", "--action", "kpi gate define"
    )
    assert set(numbers("--actor", "kai@")) < set(every)
    since = numbers("--since", "2026-10-06")
    assert since == [29, 28, 27, 26, 25]
    early = numbers("--until", "2026-09-01T12:00Z")
    assert early == every[-len(early) :]
    assert 24 in numbers("--about", "production")
    assert 24 in numbers("--about", "env:production")
    assert numbers("--about", "tag:v1.0") == [10]
    assert 24 in numbers("--about", told.versions["v1"][:8])
    assert ask("audit", "log", "--about", "side").code == 0
    fourth = ask("audit", "log", "--json").data[-4]["hash"]
    assert numbers("--at-op", fourth[:12]) == [4, 3, 2, 1]
    assert ask("--at-op", fourth[:12], "audit", "verify").code == 2
    assert ask("audit", "log", "--about", "never-there").code == 20
    for form in ("csv", "tsv", "md"):
        assert "rollback" in ask("audit", "log", "--format", form).out
    assert (
        ask("audit", "log", "-q", "-l", "1").out.strip() == ask("audit", "head", "-q").out.strip()
    )


def test_the_log_needs_no_catalog(copy: Path, run: Ask) -> None:
    (copy / ".deltavc" / "catalog.db").write_bytes(b"nonsense" * 1000)
    assert len(run("audit", "log", "--json").data) == 30
    assert run("audit", "head").code == 0


def test_hostile_text_stays_text(copy: Path, run: Ask) -> None:
    repo = deltavc.open(copy, actor="\x1b[31mEve\u202e <e@x>", clock=lambda: 0)
    repo.define_kpi("f1", direction="higher", kind="mean", description="\x07")
    for form in ("human", "csv", "tsv", "md", "json", "jsonl"):
        out = run("audit", "log", "-l", "2", "--format", form).out
        assert "\x1b" not in out
        assert "\u202e" not in out
    assert "\x1b" not in run("audit", "query", "select actor from v_events").out
