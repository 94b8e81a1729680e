"""Edits round the program, in the catalog and in the log: each is found and named (T13, T14)."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import deltavc
from deltavc.api import Repository
from deltavc.errors import UsageError
from deltavc.ledger.protocol import Head
from deltavc.repo import audit_verify
from deltavc.repo.audit_anchor import read_anchor
from deltavc.repo.repository import Repository as Opened
from deltavc.repo.session import Session, Signing

from .conftest import ADA, Ask, Story, ms

Lines = list[bytes]


def verify(repo: Path, **options: Any) -> Any:
    return deltavc.open(repo, clock=lambda: ms("2026-11-01T00:00")).audit_verify(**options)


def problems(found: Any) -> set[str]:
    return {finding.code for finding in found.findings if finding.level == "problem"}


# the catalog ---------------------------------------------------------------------

EDITS = {
    "edit an actor": "update events set actor = 'Eve' where number = 5",
    "edit a reason": "update events set reason = null where reason is not null",
    "edit a detail": "update events set detail = '{}' where detail <> '{}'",
    "edit a host": "update events set host = 'elsewhere'",
    "backdate an event": "update events set time = time - 86400000 where number = 9",
    "delete an event": "delete from events where number = 11",
    "delete the last event": "delete from events where number = (select max(number) from events)",
    "insert an event": "insert into events select number + 1000, 'x' || hash, time, actor, command,"
    " summary, tool, reason, undoes, redoes, objects, detail, host, user from events limit 1",
    "reorder events": "update events set number = -5 where number = 5;"
    "update events set number = 5 where number = 6; update events set number = 6 where number = -5",
    "edit a ref's change": "update ref_changes set after = 'x' where event_number = 10",
    "delete a ref's change": "delete from ref_changes where event_number = 10",
    "move a ref": "update refs set value = (select id from commits limit 1) where name like 'b%'",
    "delete a ref": "delete from refs where name = 'tag:v1.0'",
    "edit an author": "update commits set author = 'Eve <eve@example.org>' where key = 2",
    "edit a measurement": "update measurements set value = 0.99 where key = 1",
    "delete a measurement": "update latest_measurements set measurement_key = 1;"
    "delete from measurements where key = 3",
    "edit a label": "update labels set value = 'MIT' where name = 'licence'",
    "delete a data set": "delete from commit_data where position = 1",
    "edit a deployment": "update deployments set commit_key = 1",
    "backdate a deployment": "update deployments set time = time - 1 where action = 'rollback'",
    "delete a deployment": "delete from deployments where action = 'rollback'",
    "hide an override": "update deployments set overridden = 0",
    "edit a verdict": "update verdicts set verdict = 'pass'",
    "forge an approval": "update approvals set actor = 'Bo <bo@example.org>'",
    "delete a request": "delete from approvals; delete from requests",
    "loosen an environment": "update environments set approvals = 0",
    "edit a lineage": "update parents set parent_key = 1 where child_key = 3",
    "replace a view": "drop view v_labels; create view v_labels as"
    " select '' as revision, '' as name, '' as value where 0",
    "add a trigger": "create trigger t after insert on events begin delete from labels; end",
    "add a table": "create table extra (a)",
    "know another head": f"update meta set applied_hash = '{'0' * 64}'",
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_of_the_catalog_is_found(copy: Path, name: str) -> None:
    catalog = sqlite3.connect(copy / ".deltavc" / "catalog.db")
    catalog.execute("pragma foreign_keys = off")
    catalog.execute("pragma ignore_check_constraints = on")
    changed = catalog.total_changes
    catalog.executescript(EDITS[name])
    schema = ("view", "trigger", "table")
    assert catalog.total_changes > changed or name.endswith(schema), "the edit changed nothing"
    catalog.commit()
    catalog.close()
    found = verify(copy)
    assert not found.ok
    assert problems(found) == {"catalog-differs"}
    assert found.first_broken is None


def test_a_rebuilt_catalog_is_sound_again(copy: Path, run: Ask) -> None:
    catalog = sqlite3.connect(copy / ".deltavc" / "catalog.db")
    catalog.execute("update events set actor = 'Eve'")
    catalog.commit()
    catalog.close()
    asked = run("audit", "verify")
    assert asked.code == 1
    assert "has another 'actor' for event 1" in asked.out
    assert "doctor --rebuild-catalog" in asked.err
    assert run("doctor", "--rebuild-catalog").code == 0
    assert run("audit", "verify").code == 0


def test_rows_of_events_are_compared_however_many_there_are(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_verify, "FULL_ROWS", 3)
    assert not verify(copy).rows_full
    assert verify(copy, deep=True).rows_full
    catalog = sqlite3.connect(copy / ".deltavc" / "catalog.db")
    catalog.execute("delete from ref_changes where event_number = 10")
    catalog.execute("delete from events where number = 14")
    catalog.execute("delete from refs where name = 'tag:v1.0'")
    catalog.commit()
    catalog.close()
    found = verify(copy)
    assert {finding.event for finding in found.findings if finding.level == "problem"} >= {10, 14}
    assert sum("'refs' has 'tag:v1.0'" in finding.message for finding in found.findings) == 1


@pytest.mark.parametrize("how", ["gone", "empty", "text", "behind"])
def test_a_catalog_that_says_nothing_is_told(copy: Path, how: str) -> None:
    catalog = copy / ".deltavc" / "catalog.db"
    if how == "gone":
        catalog.unlink()
    elif how == "behind":
        repo = deltavc.open(copy, actor=ADA, clock=lambda: ms("2026-11-01T00:00"))
        data = catalog.read_bytes()
        repo.define_kpi("f1", direction="higher", kind="mean")
        catalog.write_bytes(data)
        assert {f.code for f in verify(copy).findings} == {"clock-back", "catalog-behind"}
        assert verify(copy).ok
        return
    else:
        catalog.write_bytes(b"" if how == "empty" else b"not a database at all" * 100)
    found = verify(copy)
    assert "catalog-unusable" in {finding.code for finding in found.findings}
    assert (found.rows, found.events) == (0, 30)


# the log -------------------------------------------------------------------------


def chained(lines: Lines, start: int = 0) -> Lines:
    """The lines from one on, made to follow from each other again."""
    done = lines[:start]
    for line in lines[start:]:
        event = json.loads(line)
        event["prev"] = hashlib.sha256(done[-1]).hexdigest() if done else "0" * 64
        event["number"] = len(done) + 1
        text = json.dumps(event, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        done.append(text.encode())
    return done


def edited(line: bytes, **fields: Any) -> bytes:
    event = json.loads(line) | fields
    return json.dumps(event, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def swapped(lines: Lines) -> Lines:
    return [*lines[:8], lines[9], lines[8], *lines[10:]]


FORGERIES: dict[str, tuple[Callable[[Lines], Lines], int]] = {
    "edit": (lambda lines: [*lines[:4], edited(lines[4], actor="Eve"), *lines[5:]], 6),
    "backdate": (lambda lines: [*lines[:4], edited(lines[4], time=1), *lines[5:]], 6),
    "delete": (lambda lines: [*lines[:6], *lines[7:]], 8),
    "insert": (lambda lines: [*lines[:6], edited(lines[5], summary="x"), *lines[6:]], 6),
    "reorder": (swapped, 9),
    "white space": (lambda lines: [lines[0], lines[1] + b" ", *lines[2:]], 2),
    "not JSON": (lambda lines: [*lines[:2], b"{", *lines[3:]], 3),
    "the last is not JSON": (lambda lines: [*lines[:-1], b"{"], 30),
    "duplicate": (lambda lines: [*lines[:3], lines[2], *lines[3:]], 3),
}


@pytest.fixture
def segment(copy: Path) -> Path:
    return copy / ".deltavc" / "events" / "00000001.jsonl"


def rewrite(segment: Path, lines: Lines) -> None:
    segment.write_bytes(b"".join(line + b"\n" for line in lines))


@pytest.mark.parametrize("name", FORGERIES)
def test_an_edit_of_the_log_is_found_at_its_event(
    copy: Path, segment: Path, name: str, run: Ask
) -> None:
    forge, first = FORGERIES[name]
    rewrite(segment, forge(segment.read_bytes().split(b"\n")[:-1]))
    found = verify(copy)
    assert not found.ok
    assert found.first_broken == first
    assert found.rows > 30
    assert "catalog-differs" in problems(found), "rows are compared as far as lines can be read"
    asked = run("audit", "verify")
    assert asked.code == 1
    assert f"chain broken at event {first}" in asked.out


def test_a_log_that_was_chained_anew_is_found_by_the_catalog(copy: Path, segment: Path) -> None:
    lines = segment.read_bytes().split(b"\n")[:-1]
    rewrite(segment, chained([*lines[:4], edited(lines[4], actor="Eve"), *lines[5:]]))
    found = verify(copy)
    assert found.first_broken is None
    assert problems(found) == {"catalog-differs"}
    assert min(f.event for f in found.findings if f.code == "catalog-differs" and f.event) == 5


@pytest.mark.parametrize("forgery", ["cut", "chained anew"])
def test_a_forgery_of_log_and_catalog_is_found_by_a_noted_head(
    copy: Path, segment: Path, forgery: str, run: Ask, tmp_path: Path
) -> None:
    noted = tmp_path / "head.txt"
    noted.write_text(run("audit", "head").out)
    lines = segment.read_bytes().split(b"\n")[:-1]
    forged = (
        lines[:-2] if forgery == "cut" else chained([edited(lines[0], actor="Eve"), *lines[1:]])
    )
    rewrite(segment, forged)
    assert run("doctor", "--rebuild-catalog").code == 0
    assert run("audit", "verify").code == 0, "nothing but a noted head can show it"
    asked = run("audit", "verify", "--anchor", noted)
    assert asked.code == 1
    assert "is not in the log" in asked.out


def test_a_ref_that_moves_from_what_it_was_not_is_found(copy: Path, segment: Path) -> None:
    lines = segment.read_bytes().split(b"\n")[:-1]
    at = next(i for i, line in enumerate(lines) if b'"command":"tag"' in line)
    refs = json.loads(lines[at])["refs"]
    refs[0]["before"] = "f" * 64
    rewrite(segment, chained([*lines[:at], edited(lines[at], refs=refs), *lines[at + 1 :]], at))
    assert "log-ref" in problems(verify(copy))


# objects -------------------------------------------------------------------------


def test_a_missing_object_is_named_with_its_event(copy: Path, told: Story) -> None:
    for pack in (copy / ".deltavc" / "objects" / "packs").iterdir():
        pack.unlink()
    found = verify(copy)
    assert "object-missing" in problems(found)
    missing = [f for f in found.findings if f.code == "object-missing"]
    assert told.versions["v1"] in {finding.subject for finding in missing}
    assert all(finding.event for finding in missing)


def test_a_damaged_object_is_found_when_read(copy: Path) -> None:
    for path in (copy / ".deltavc" / "objects" / "packs").iterdir():
        data = bytearray(path.read_bytes())
        data[200] ^= 1
        path.write_bytes(data)
    found = verify(copy, deep=True)
    assert found.objects_read == found.objects
    assert problems(found) == {"object-damaged"}


# signatures ----------------------------------------------------------------------


def test_signatures_are_checked_and_bad_ones_named(copy: Path, tmp_path: Path) -> None:
    keys = {}
    for name in ("ada", "eve"):
        keys[name] = tmp_path / name
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", keys[name]], check=True
        )
    signers = copy / ".deltavc" / "allowed_signers"
    signers.write_text("ada@example.org " + (tmp_path / "ada.pub").read_text())
    signing = Signing(key=keys["ada"], environ=dict(os.environ))
    session = Session(ADA, lambda: ms("2026-11-01T00:00"), signing=signing)
    signed = Repository(Opened.open(copy, session))
    assert signed.tag("signed", "v1.0", message="ours", sign=True)
    found = signed.audit_verify()
    assert (found.ok, found.signatures) == (True, 1)
    signers.write_text("ada@example.org " + (tmp_path / "eve.pub").read_text())
    found = signed.audit_verify()
    assert {f.code for f in found.findings} == {"clock-back", "signature-unknown-key"}
    assert found.ok, "whose keys are believed may not be known here"
    signers.write_text("ada@example.org " + (tmp_path / "ada.pub").read_text())
    (copy / ".deltavc" / "revoked_keys").write_text((tmp_path / "ada.pub").read_text())
    found = signed.audit_verify()
    assert not found.ok
    assert problems(found) == {"signature-revoked"}


# clocks --------------------------------------------------------------------------


def test_a_clock_that_was_set_back_is_flagged_and_changes_no_order(ask: Ask) -> None:
    asked = ask("audit", "verify")
    assert asked.code == 0
    assert "the clock of event 30 is 86,400 s behind" in asked.out
    rows = ask("audit", "log", "--json").data
    assert [row["number"] for row in rows] == list(range(30, 0, -1))
    assert [row["number"] for row in rows if row["clock_back"]] == [30]
    assert "clock 24 h 00 min back" in ask("audit", "log", "-l", "1").out


def test_a_clock_that_is_ahead_is_flagged(copy: Path) -> None:
    found = deltavc.open(copy, clock=lambda: ms("2026-09-15T00:00")).audit_verify()
    assert "clock-ahead" in {finding.code for finding in found.findings}
    assert found.ok


# anchors -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        '{"number": 7, "hash": "%s"}',
        '{"data": {"head": {"number": 7, "hash": "%s"}}}',
        "7 %s",
        "head 7 %s\n",
        "deployed; event 7, head %s on Monday",
        "3 " + "a" * 64 + "\n7 %s\n",
    ],
)
def test_a_noted_head_is_read_in_many_forms(tmp_path: Path, text: str) -> None:
    (tmp_path / "head").write_text(text % ("b" * 64))
    assert read_anchor(tmp_path / "head") == Head(7, "b" * 64)


@pytest.mark.parametrize("text", ["", "7", "b" * 64, '{"number": "7"}', "\xff", "7 " + "b" * 63])
def test_what_is_no_head_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "head").write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError, match="head"):
        read_anchor(tmp_path / "head")
    with pytest.raises(UsageError, match="head"):
        read_anchor(tmp_path)
