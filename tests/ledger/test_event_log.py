"""The log: what was acknowledged is there, in a chain, and nothing else is."""

import hashlib
import json
import os
import random
import resource
import time

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltavc.errors import (
    AuditChainBroken,
    DeltavcError,
    RefMoved,
    RepositoryUnwritable,
    UsageError,
)
from deltavc.ledger.lock import RepositoryLock
from deltavc.ledger.log import EventLog, draft_event
from deltavc.ledger.protocol import GENESIS, START, Head
from deltavc.records import canonical
from deltavc.records.model import RefChange


def draft(summary="a change", **more):
    return draft_event(
        time=1, actor="Ada <ada@example.org>", command="commit", summary=summary, tool="t", **more
    )


def fill(log, count, first=1):
    """Appends some events; returns the head."""
    head = log.head()
    for number in range(first, first + count):
        event, event_hash = log.append(draft(f"change {number}"), expected=head)
        head = Head(event.number, event_hash)
    return head


def write(log, count):
    """Writes some events as an independent writer would, without waiting for the disk."""
    head, lines = START, []
    for number in range(1, count + 1):
        event = msgspec.structs.replace(draft(f"change {number}"), number=number, prev=head.hash)
        lines.append(canonical.encode(event))
        head = Head(number, hashlib.sha256(lines[-1]).hexdigest())
    for first in range(0, count, 1000):
        data = b"".join(line + b"\n" for line in lines[first : first + 1000])
        segment(log, first + 1).write_bytes(data)
    return head


@pytest.fixture
def log(tmp_path):
    return EventLog.create(tmp_path / "events")


def segment(log, first=1):
    return log.folder / f"{first:08d}.jsonl"


def test_a_new_log_is_empty(log):
    assert log.head() == START
    assert list(log.read()) == []
    assert list(log.read_back(5)) == []
    assert log.verify() == []


def test_an_independent_reader_finds_the_chain(log):
    fill(log, 3)
    prev = "0" * 64
    lines = segment(log).read_bytes().split(b"\n")
    assert lines.pop() == b""
    for number, line in enumerate(lines, 1):
        record = json.loads(line)
        canonical = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        assert line == canonical.encode()
        assert record["number"] == number
        assert record["prev"] == prev
        prev = hashlib.sha256(line).hexdigest()
    assert log.head() == Head(3, prev)


def test_append_returns_what_is_read_back(log):
    change = RefChange("branch:main", None, "ab" * 32)
    entry = log.append(
        draft(reason="wegen der Größe", refs=(change,), detail={"stats": {"x": {"params": 3}}}),
        expected=START,
    )
    assert list(log.read()) == [entry]
    assert entry[0].number == 1
    assert entry[0].prev == GENESIS
    assert entry[0].refs == (change,)


def test_segments_roll_over_and_all_readers_cross_them(log):
    write(log, 998)
    fill(log, 3, first=999)
    assert segment(log, 1001).read_bytes().count(b"\n") == 1
    assert log.verify() == []
    segment(log, 1).unlink()
    head = write(log, 2003)
    assert sorted(p.name for p in log.folder.iterdir()) == [
        "00000001.jsonl",
        "00001001.jsonl",
        "00002001.jsonl",
    ]
    assert head.number == 2003
    assert log.head() == head
    numbers = list(range(1, 2004))
    assert [e.number for e, _ in log.read()] == numbers
    assert [e.number for e, _ in log.read_back()] == numbers[::-1]
    assert [e.number for e, _ in log.read_back(7)] == numbers[:-8:-1]
    for start in (2, 999, 1000, 1001, 1002, 2000, 2001, 2003, 2004, 9999):
        assert [e.number for e, _ in log.read(start)] == numbers[start - 1 :]
    assert log.verify(anchor=head) == []


def test_append_to_another_head_is_refused(log):
    head = fill(log, 2)
    before = segment(log).read_bytes()
    for stale in (START, Head(1, head.hash), Head(2, GENESIS), Head(3, head.hash)):
        with pytest.raises(RefMoved) as caught:
            log.append(draft(), expected=stale)
        assert caught.value.context["found"] == [2, head.hash]
    assert segment(log).read_bytes() == before


@pytest.mark.parametrize(
    "fields",
    [
        {"summary": "lone surrogate \udc80"},
        {"detail": {"x": object()}},
        {"reason": 5},
    ],
)
def test_what_json_cannot_hold_is_refused_before_writing(log, fields):
    with pytest.raises(UsageError):
        log.append(draft(**fields), expected=START)
    assert log.head() == START


@settings(deadline=None, max_examples=40)
@given(
    detail=st.dictionaries(
        st.text(),
        st.recursive(
            st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
            max_leaves=8,
        ),
    )
)
def test_any_detail_survives_and_keeps_the_chain(tmp_path_factory, detail):
    log = EventLog.create(tmp_path_factory.mktemp("log") / "events")
    try:
        first = log.append(draft(detail=detail), expected=START)
    except UsageError:
        assert not segment(log).exists()
        return
    second = log.append(draft(), expected=Head(1, first[1]))
    assert list(log.read()) == [first, second]
    assert log.verify() == []


# torn writes and full disks --------------------------------------------------


@pytest.mark.parametrize("torn", [b"{", b'{"actor":"x"', b"\0" * 5000, b"x" * 100_000])
def test_a_torn_line_is_ignored_then_kept_as_evidence(log, torn):
    head = fill(log, 2)
    whole = segment(log).read_bytes()
    segment(log).write_bytes(whole + torn)
    assert log.head() == head
    assert len(list(log.read())) == 2
    assert [(f.kind, f.severity) for f in log.verify()] == [("torn", "warning")]
    log.append(draft(), expected=head)
    assert segment(log).read_bytes().startswith(whole + b"{")
    assert log.verify() == []
    assert [p.read_bytes() for p in log.quarantine.iterdir()] == [torn]


def test_a_torn_first_line_of_a_new_segment_is_ignored(log):
    head = write(log, 1000)
    for torn in (b"", b'{"actor"'):
        segment(log, 1001).write_bytes(torn)
        assert log.head() == head
        assert len(list(log.read(995))) == 6
    log.append(draft(), expected=head)
    assert log.head().number == 1001
    assert log.verify() == []


def test_every_cut_of_the_last_line_gives_the_head_before_it(log):
    fill(log, 1)
    first = log.head()
    start = segment(log).stat().st_size
    second = fill(log, 1)
    data = segment(log).read_bytes()
    for end in range(start, len(data)):
        segment(log).write_bytes(data[:end])
        assert log.head() == first
    segment(log).write_bytes(data)
    assert log.head() == second


def test_a_full_disk_leaves_the_log_as_it_was(log):
    head = fill(log, 3)
    before = segment(log).read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The kernel writes what fits and then refuses, as on a disk that fills up.
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 50, hard))
    try:
        with pytest.raises(RepositoryUnwritable) as caught:
            log.append(draft(), expected=head)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.exit_code == 14
    assert segment(log).read_bytes() == before
    log.append(draft(), expected=head)
    assert log.verify() == []


def test_a_missing_folder_is_not_an_empty_log(tmp_path):
    log = EventLog(tmp_path / "events")
    for ask in (log.head, lambda: list(log.read()), lambda: list(log.read_back(1))):
        with pytest.raises(AuditChainBroken) as caught:
            ask()
        assert caught.value.exit_code == 42
    assert [f.kind for f in log.verify()] == ["segment"]


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda p: os.symlink("/etc/passwd", p)])
def test_a_segment_that_is_no_file_is_refused_without_waiting(log, make):
    make(segment(log))
    with pytest.raises(DeltavcError):
        log.head()
    assert log.verify() != []


# tampering -------------------------------------------------------------------


def lines_of(log):
    return segment(log).read_bytes().splitlines(keepends=True)


def edit(lines, at):
    lines[at] = lines[at].replace(b"Ada", b"Eve")


def delete(lines, at):
    del lines[at]


def insert(lines, at):
    lines.insert(at, lines[at])


def reorder(lines, at):
    lines[at], lines[at + 1] = lines[at + 1], lines[at]


def respell(lines, at):
    lines[at] = lines[at].replace(b'{"actor"', b'{ "actor"')


def backdate(lines, at):
    lines[at] = lines[at].replace(b'"time":1', b'"time":0')


def empty(lines, at):
    lines[at] = b"\n"


def garbage(lines, at):
    lines[at] = b"\xff\xfe not an event\n"


@pytest.mark.parametrize(
    "tamper", [edit, delete, insert, reorder, respell, backdate, empty, garbage]
)
@pytest.mark.parametrize("at", [0, 4, 7])
def test_tampering_is_found(log, tamper, at):
    fill(log, 9)
    lines = lines_of(log)
    tamper(lines, at)
    segment(log).write_bytes(b"".join(lines))
    findings = log.verify()
    assert findings
    assert all(f.severity == "error" for f in findings)
    assert at <= min(f.number for f in findings) <= at + 2
    with pytest.raises(AuditChainBroken) as caught:
        list(log.read())
    assert caught.value.exit_code == 42
    with pytest.raises(AuditChainBroken):
        list(log.read_back())


def test_a_change_gives_its_own_findings_only(log):
    write(log, 50)
    lines = lines_of(log)
    edit(lines, 20)
    segment(log).write_bytes(b"".join(lines))
    assert [(f.kind, f.number) for f in log.verify()] == [("chain", 22)]


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32), flips=st.integers(1, 3))
def test_flipped_bits_are_found_against_a_noted_head(tmp_path_factory, seed, flips):
    log = EventLog.create(tmp_path_factory.mktemp("log") / "events")
    head = write(log, 4)
    data = bytearray(segment(log).read_bytes())
    chance = random.Random(seed)
    for place in chance.sample(range(len(data) - 1), flips):
        data[place] ^= 1 << chance.randrange(8)
    segment(log).write_bytes(data)
    assert log.verify(anchor=head)


@pytest.mark.parametrize("cut", [1, 3, 5])
def test_a_cut_tail_is_found_against_a_noted_head(log, cut):
    head = fill(log, 5)
    lines = lines_of(log)
    segment(log).write_bytes(b"".join(lines[:-cut]))
    assert log.verify() == []  # no chain can show this by itself
    assert [f.kind for f in log.verify(anchor=head)] == ["anchor"]


def test_a_changed_last_event_and_a_rewritten_chain_are_found_against_a_noted_head(log, tmp_path):
    head = fill(log, 3)
    lines = lines_of(log)
    edit(lines, 2)
    segment(log).write_bytes(b"".join(lines))
    assert [f.kind for f in log.verify(anchor=head)] == ["anchor"]
    other = EventLog.create(tmp_path / "other")
    fill(other, 6, first=100)
    assert other.verify() == []
    assert [(f.kind, f.number) for f in other.verify(anchor=head)] == [("anchor", 3)]


def test_an_earlier_noted_head_is_found_again(log):
    head = fill(log, 3)
    fill(log, 3)
    assert log.verify(anchor=head) == []


def test_segments_that_are_missing_misnamed_or_strange_are_found(log):
    write(log, 1003)
    for name in ("notes.txt", "00000500.jsonl", "1.jsonl", "0000001001.jsonl"):
        (log.folder / name).write_bytes(b"")
    findings = log.verify()
    assert {f.file for f in findings} == {
        "notes.txt",
        "00000500.jsonl",
        "1.jsonl",
        "0000001001.jsonl",
    }
    for finding in findings:
        (log.folder / finding.file).unlink()
    moved = segment(log, 1).rename(log.folder.parent / "away")
    assert [(f.kind, f.number) for f in log.verify()] == [("segment", 1), ("chain", 1001)]
    for ask in (log.read, log.read_back):
        with pytest.raises(AuditChainBroken):
            list(ask())
    moved.rename(segment(log, 2001))
    assert "segment" in [f.kind for f in log.verify()]


# processes -------------------------------------------------------------------


def append_many(folder, count, name):
    log = EventLog(folder)
    for number in range(count):
        with RepositoryLock(folder.parent / "lock", name):
            log.append(draft(f"{name} {number}"), expected=log.head())


def test_eight_processes_append_and_none_is_refused(log, start):
    children = [start(append_many, log.folder, 10, f"p{n}") for n in range(8)]
    assert [child.join() for child in children] == [0] * 8
    assert log.verify() == []
    summaries = [event.summary for event, _ in log.read()]
    assert len(summaries) == 80
    for n in range(8):  # each process's own events are all there and in its order
        mine = [s for s in summaries if s.startswith(f"p{n} ")]
        assert mine == [f"p{n} {i}" for i in range(10)]


def append_for_ever(folder, acknowledged):
    log = EventLog(folder)
    with open(acknowledged, "a", buffering=1) as out:
        while True:
            with RepositoryLock(folder.parent / "lock", "loop"):
                event, event_hash = log.append(draft("x" * 3000), expected=log.head())
                out.write(f"{event.number} {event_hash}\n")


def test_killed_again_and_again_nothing_acknowledged_is_lost(log, tmp_path, start):
    chance = random.Random(7)
    (tmp_path / "ack").touch()
    for round_ in range(25):
        child = start(append_for_ever, log.folder, tmp_path / "ack")
        if round_ % 3 == 0:  # not before it got through once
            begin = (tmp_path / "ack").stat().st_size
            while (tmp_path / "ack").stat().st_size == begin:
                time.sleep(0.001)
        time.sleep(chance.uniform(0.005, 0.06))
        child.kill()
        with RepositoryLock(tmp_path / "lock", "next", timeout=0):
            log.append(draft("next"), expected=log.head())  # nothing blocks the next command
    assert log.verify() == []
    hashes = {event.number: event_hash for event, event_hash in log.read()}
    acknowledged = [line.split() for line in (tmp_path / "ack").read_text().splitlines()]
    assert len(acknowledged) > 5
    assert all(hashes[int(number)] == event_hash for number, event_hash in acknowledged)


def test_readers_need_no_lock_while_another_writes(log, start):
    child = start(append_many, log.folder, 100, "writer")
    seen = 0
    while child.alive():
        number = log.head().number
        assert number >= seen
        seen = sum(1 for _ in log.read())
        assert seen >= number
        time.sleep(0.001)
    assert child.join() == 0
    assert log.head().number == 100


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.lists(st.sampled_from(["a:1", "a:2", 'b"\\', "ü", "a:11"]), max_size=3, unique=True)
    ),
    st.sets(st.sampled_from(["a:1", "a:2", 'b"\\', "ü", "none"])),
    st.booleans(),
)
def test_changes_of_refs_are_found_as_reading_all_finds_them(tmp_path_factory, moves, names, torn):
    log = EventLog.create(tmp_path_factory.mktemp("log") / "events")
    head, lines = START, {}
    for number, moved in enumerate(moves, 995):  # over the end of a segment
        event = msgspec.structs.replace(
            draft("a:1 and a:2 in words", reason='"a:2"'),
            number=number,
            prev=head.hash,
            refs=tuple(RefChange(name, None, str(number)) for name in moved),
        )
        line = canonical.encode(event)
        head = Head(number, hashlib.sha256(line).hexdigest())
        lines.setdefault(1 if number <= 1000 else 1001, []).append(line + b"\n")
    for first, found in lines.items():
        segment(log, first).write_bytes(b"".join(found) + (b'{"name":"a:1"' if torn else b""))
    wanted = [n for n, moved in enumerate(moves, 995) if names & set(moved)]
    found = [(event.number, oid) for event, oid in log.changes_of(names)]
    assert [number for number, _ in found] == wanted[::-1]
    every = [line for part in lines.values() for line in part]
    assert all(oid == hashlib.sha256(every[n - 995][:-1]).hexdigest() for n, oid in found)
