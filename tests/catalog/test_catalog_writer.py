"""The catalog follows the log: the same rows, however it got there."""

import os
import random
import sqlite3
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deltavc.catalog.errors import CatalogUnusable
from deltavc.catalog.reader import CatalogReader
from deltavc.catalog.writer import Catalog
from deltavc.codec.digest import object_id
from deltavc.errors import AuditChainBroken, ObjectCorrupt, ObjectMissing
from deltavc.ledger.lock import RepositoryLock
from deltavc.ledger.log import EventLog, draft_event
from deltavc.ledger.state import replay
from deltavc.records import canonical
from deltavc.records.model import BaseSource, Commit, Measurement, RefChange, Tag

ZEROS = "0" * 64


def dump(path):
    """All rows of all tables."""
    db = sqlite3.connect(path)
    tables = [
        name
        for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        if name != "sqlite_sequence"
    ]
    rows = {name: sorted(map(repr, db.execute(f'SELECT * FROM "{name}"'))) for name in tables}
    assert db.execute("PRAGMA foreign_key_check").fetchall() == []
    assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    db.close()
    return rows


def rebuilt(tmp_path, history):
    path = tmp_path / "other" / "catalog.db"
    path.parent.mkdir(exist_ok=True)
    with Catalog(path) as catalog:
        catalog.rebuild(history, history.load)
    return dump(path)


@pytest.fixture
def catalog(tmp_path):
    with Catalog.open_or_create(tmp_path / "catalog.db") as catalog:
        yield catalog


def test_a_new_catalog_holds_nothing(catalog):
    assert catalog.applied() == (0, ZEROS)
    with CatalogReader(catalog.path) as reader:
        assert reader.applied() is None
        assert reader.refs() == {}
        assert reader.events(10) == []


def test_events_give_rows(catalog, history):
    source = history.put("basesource", BaseSource("b" * 64, "models/tiny", ("model.safetensors",)))
    history.event({"base:tiny": source, "HEAD": "branch:main"}, command="base add")
    first = history.commit(labels={"team": "nlp"}, kpis={"accuracy": 0.5, "loss": None})
    tag = history.put("tag", Tag(first, "v1", "Ada", 5, "first release"))
    history.event({"tag:v1": tag, "tag:light": first}, tags=[tag])
    assert catalog.catch_up(history, history.load) == (3, history.entries[-1][1])
    with CatalogReader(catalog.path) as reader:
        assert reader.applied() == (3, history.entries[-1][1])
        assert reader.refs() == history.refs
        assert reader.ref("HEAD") == "branch:main"
        assert reader.ref("branch:other") is None
        assert reader.labels(first) == {"team": "nlp"}
        assert reader.latest([first]) == {first: {"accuracy": 0.5, "loss": None}}
        assert [(b.name, b.fingerprint, b.path) for b in reader.bases()] == [
            ("tiny", "b" * 64, "models/tiny")
        ]
        assert [(t.name, t.commit, t.id, t.message) for t in reader.tags()] == [
            ("light", first, None, None),
            ("v1", first, tag, "first release"),
        ]


def test_applying_again_changes_nothing(catalog, history):
    for _ in range(3):
        history.commit()
    catalog.apply(history.entries, history.load)
    before = dump(catalog.path)
    assert catalog.apply(history.entries[1:2], history.load)[0] == 3
    assert catalog.apply([], history.load)[0] == 3
    assert catalog.catch_up(history, history.load)[0] == 3
    history.commit()
    assert catalog.apply(history.entries, history.load)[0] == 4
    assert {name: len(rows) for name, rows in dump(catalog.path).items()} != {
        name: len(rows) for name, rows in before.items()
    }


def test_a_gap_is_refused_and_nothing_changes(catalog, history):
    for _ in range(3):
        history.commit()
    before = dump(catalog.path)
    for events in (history.entries[1:], [history.entries[0], history.entries[2]]):
        with pytest.raises(CatalogUnusable) as caught:
            catalog.apply(events, history.load)
        assert caught.value.context["reason"] == "gap"
        assert caught.value.exit_code == 40
    assert dump(catalog.path) == before


def test_another_history_is_refused(catalog, history, new_history):
    history.commit(message="ours")
    catalog.catch_up(history, history.load)
    other = new_history()
    other.commit(message="theirs")
    other.commit()
    ask = [lambda: catalog.catch_up(other, other.load), lambda: catalog.apply(other.entries, None)]
    ask.append(lambda: catalog.apply(other.entries[1:], None))
    ask.append(lambda: catalog.catch_up(new_history(), None))  # a log that lost its events
    for refused in ask:
        with pytest.raises(CatalogUnusable) as caught:
            refused()
        assert caught.value.context["reason"] == "diverged"
    catalog.rebuild(other, other.load)
    assert catalog.applied() == (2, other.entries[-1][1])


def test_one_event_may_bring_many_commits_in_any_order(catalog, history):
    root = history.make_commit(message="root")
    left, right = (history.make_commit([root], message=m) for m in ("left", "right"))
    top = history.make_commit([left, right], message="top")
    history.event({"branch:main": top}, commits=[top, right, left, root, top])
    catalog.catch_up(history, history.load)
    with CatalogReader(catalog.path) as reader:
        order = [row.id for row in reader.log([top])]
        assert order[0] == top
        assert order[-1] == root
        assert reader.commit(top).generation == 3
        assert reader.commit(top).parents == (left, right)
        assert {row.branch for row in reader.log([top])} == {"main"}


def test_the_same_objects_may_come_again(catalog, history):
    first = history.commit(kpis={"accuracy": 0.5})
    measurement = history.entries[0][0].detail["measurements"]
    history.event(commits=[first], measurements=measurement)
    catalog.catch_up(history, history.load)
    with CatalogReader(catalog.path) as reader:
        assert [row.event for row in reader.log([first])] == [1]
        assert [row.event for row in reader.measurements(first)] == [1]


def test_a_ref_that_is_deleted_is_gone_and_its_history_stays(catalog, history):
    first = history.commit()
    history.event({"branch:old": first})
    history.event({"branch:old": None})
    catalog.catch_up(history, history.load)
    with CatalogReader(catalog.path) as reader:
        assert reader.refs() == {"branch:main": first}
        assert [e.number for e in reader.events() if e.refs[0].name == "branch:old"] == [3, 2]


@pytest.mark.parametrize(
    ("detail", "error"),
    [
        ({"commits": ["f" * 64]}, ObjectMissing),
        ({"commits": ["nonsense"]}, AuditChainBroken),
        ({"commits": "f" * 64}, AuditChainBroken),
        ({"measurements": [None]}, AuditChainBroken),
    ],
)
def test_events_that_cannot_be_followed_change_nothing(catalog, history, detail, error):
    history.commit()
    catalog.catch_up(history, history.load)
    before = dump(catalog.path)
    history.event(**detail)
    with pytest.raises(error):
        catalog.catch_up(history, history.load)
    assert dump(catalog.path) == before


def test_a_missing_parent_is_refused(catalog, history):
    history.commit([history.make_commit(message="brought by nobody")])
    with pytest.raises(ObjectMissing):
        catalog.catch_up(history, history.load)
    assert catalog.applied() == (0, ZEROS)


def test_an_object_of_another_kind_is_refused(catalog, history):
    oid = history.put("commit", Tag("a" * 64, "v1", "Ada", 1, "not a commit"))
    history.event(commits=[oid])
    with pytest.raises(ObjectCorrupt):
        catalog.catch_up(history, history.load)


def test_a_rebuild_can_go_on_without_objects_that_are_lost(tmp_path, history):
    first = history.commit(kpis={"accuracy": 0.5})
    second = history.commit([first])
    third = history.commit([second])
    del history.objects["commit", second]
    lost = []
    with Catalog(tmp_path / "catalog.db") as catalog:
        with pytest.raises(ObjectMissing):
            catalog.rebuild(history, history.load)
        catalog.rebuild(history, history.load, skipped=lambda *what: lost.append(what[:2]))
    assert lost == [("commit", second)]
    with CatalogReader(tmp_path / "catalog.db") as reader:
        assert reader.refs() == history.refs
        assert [row.id for row in reader.log([third])] == [third]
        assert reader.latest([first]) == {first: {"accuracy": 0.5}}


# the same rows, however it got there -----------------------------------------


@st.composite
def steps(draw):
    """What to do next, with numbers that pick among what there is."""
    number = st.integers(0, 10_000)
    kind = draw(
        st.sampled_from(
            ["commit", "merge", "kpi", "correct", "tag", "move", "delete", "base", "many"]
        )
    )
    return kind, draw(number), draw(number), draw(st.sampled_from([0.25, 0.5, None, -1e300]))


def perform(history, commits, step):
    kind, a, b, value = step
    pick = commits[a % len(commits)] if commits else None
    branch = f"branch:b{b % 3}"
    if kind == "base" or pick is None:
        source = history.put(
            "basesource", BaseSource("b" * 64, f"path/{a}", (), copied=bool(b % 2))
        )
        history.event({f"base:n{b % 2}": source, branch: pick})
    elif kind == "kpi":
        record = history.make_measurement(pick, f"k{b % 2}", value)
        history.event(measurements=[record])
    elif kind == "correct":
        measured = [
            oid for entry, _ in history.entries for oid in entry.detail.get("measurements", ())
        ]
        old = measured[b % len(measured)] if measured else None
        part = "other" if b % 5 == 0 else None  # also into another series
        record = history.make_measurement(
            pick, f"k{b % 2}", value, supersedes=old, reason="wrong", slice=part
        )
        history.event(measurements=[record])
    elif kind == "tag":
        tag = history.put("tag", Tag(pick, f"t{b % 3}", "Ada", a, "annotated"))
        history.event({f"tag:t{b % 3}": tag if a % 2 else pick}, tags=[tag])
    elif kind in ("move", "delete"):
        history.event({branch: pick if kind == "move" else None})
    if kind in ("commit", "merge", "many") or pick is None:
        other = commits[b % len(commits)] if commits else None
        parents = [pick, other] if kind == "merge" and other != pick else [pick] if pick else []
        new = history.make_commit(
            parents,
            message=f"{step}",
            time=a,
            labels={"n": str(b)},
            errors={"w": 0.5} if a % 2 else {},
        )
        brought = [new]
        if kind == "many":
            brought = [history.make_commit([new], message=f"on {step}"), new]
        history.event(
            {branch: brought[0]}, commits=brought, stats={new: {"params": a, "stored": b}}
        )
        commits += [c for c in brought if c not in commits]


@settings(
    deadline=None,
    max_examples=15,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(history_steps=st.lists(steps(), max_size=14), cuts=st.sets(st.integers(1, 14)))
def test_kept_in_any_steps_or_rebuilt_the_rows_are_the_same(
    tmp_path_factory, new_history, history_steps, cuts
):
    tmp_path = tmp_path_factory.mktemp("catalog")
    history, commits = new_history(), []
    path = tmp_path / "catalog.db"
    with Catalog.open_or_create(path) as catalog:
        for number, step in enumerate(history_steps, 1):
            perform(history, commits, step)
            if number in cuts:
                catalog.catch_up(history, history.load)
        catalog.catch_up(history, history.load)
        kept = dump(path)
        catalog.rebuild(history, history.load)
        assert dump(path) == kept
    with CatalogReader(path) as reader:
        assert reader.refs() == history.refs == dict(replay(history).refs)
        for oid in commits:
            found = {s: m.id for s, m in reader.latest_rows([oid]).get(oid, {}).items()}
            assert found == counting(history, oid)


def counting(history, commit):
    """What counts of a commit's measurements, as the format's page says, from the records alone."""
    order = {}
    for event, _ in history.entries:
        for oid in event.detail.get("measurements", ()):
            order.setdefault(oid, canonical.decode(history.load("measurement", oid), Measurement))
    place, gone = {}, set()
    for number, (oid, record) in enumerate(order.items()):
        old = order.get(record.supersedes)
        gone.add(record.supersedes)
        same = old and (old.commit, old.kpi, old.slice) == (record.commit, record.kpi, record.slice)
        place[oid] = (place[record.supersedes][0] if same else number, number)
    latest = {}
    for oid, record in order.items():
        series = record.kpi if record.slice is None else f"{record.kpi}[{record.slice}]"
        if record.commit == commit and oid not in gone:
            latest[series] = max(latest.get(series, oid), oid, key=place.__getitem__)
    return latest


# replacing the file ----------------------------------------------------------


@pytest.mark.parametrize("damage", [b"", b"not a database at all", None])
def test_rebuild_replaces_whatever_is_there(tmp_path, history, damage):
    path = tmp_path / "catalog.db"
    history.commit()
    if damage is not None:
        path.write_bytes(damage)
        (tmp_path / "catalog.db-wal").write_bytes(b"stale" * 1000)
    with Catalog(path) as catalog:
        catalog.rebuild(history, history.load)
    assert dump(path) == rebuilt(tmp_path, history)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["catalog.db", "other"]


def test_readers_keep_what_they_opened_while_it_is_replaced(tmp_path, history):
    path = tmp_path / "catalog.db"
    first = history.commit()
    with Catalog.open_or_create(path) as catalog:
        catalog.catch_up(history, history.load)
        reader = CatalogReader(path)
        assert reader.refs() == {"branch:main": first}
        second = history.commit([first])
        catalog.rebuild(history, history.load)
        assert [row.id for row in reader.log([first])] == [first]
        third = history.commit([second])
        catalog.catch_up(history, history.load)
        reader.close()  # must not take the new file's log of changes with it
        with CatalogReader(path) as fresh:
            assert fresh.refs() == {"branch:main": third}


def test_a_leftover_log_of_changes_is_not_taken_for_a_new_catalogs(tmp_path, history):
    path = tmp_path / "catalog.db"
    history.commit()
    with Catalog.open_or_create(path) as catalog:
        keep_open = sqlite3.connect(path)
        keep_open.execute("SELECT count(*) FROM refs").fetchall()
        catalog.catch_up(history, history.load)
        assert (tmp_path / "catalog.db-wal").stat().st_size > 0
        path.unlink()
        with Catalog.open_or_create(path) as fresh:
            assert fresh.applied() == (0, ZEROS)
            fresh.catch_up(history, history.load)
        keep_open.close()
    with CatalogReader(path) as reader:
        assert reader.refs() == history.refs


def test_a_file_that_a_kill_left_empty_is_filled(tmp_path, history):
    (tmp_path / "catalog.db").write_bytes(b"")
    with Catalog.open_or_create(tmp_path / "catalog.db") as catalog:
        assert catalog.catch_up(history, history.load) == (0, ZEROS)


@pytest.mark.parametrize(
    "content", [b"not a database at all" * 100, b"SQLite format 3\0" + b"x" * 5000]
)
def test_a_damaged_file_is_refused(tmp_path, history, content):
    (tmp_path / "catalog.db").write_bytes(content)
    with pytest.raises(CatalogUnusable) as caught:
        Catalog.open_or_create(tmp_path / "catalog.db")
    assert caught.value.context["reason"] == "damaged"
    assert (tmp_path / "catalog.db").read_bytes() == content


def test_another_programs_database_is_refused(tmp_path):
    db = sqlite3.connect(tmp_path / "catalog.db")
    db.execute("PRAGMA user_version = 1")
    db.close()
    with pytest.raises(CatalogUnusable) as caught:
        Catalog.open_or_create(tmp_path / "catalog.db")
    assert caught.value.context["reason"] == "damaged"


def test_a_newer_schema_is_refused(catalog, history):
    db = sqlite3.connect(catalog.path)
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(CatalogUnusable) as caught:
        Catalog.open_or_create(catalog.path)
    assert caught.value.context["reason"] == "newer"
    assert "upgrade" in caught.value.hint


def test_a_locked_catalog_is_refused_in_time(tmp_path, catalog, history):
    history.commit()
    other = sqlite3.connect(catalog.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with (
        Catalog.open_or_create(catalog.path, busy_seconds=0.2) as hurried,
        pytest.raises(CatalogUnusable) as caught,
    ):
        hurried.apply(history.entries, history.load)
    assert caught.value.context["reason"] == "locked"
    other.close()


def test_a_missing_file_is_not_made_by_accident(tmp_path, history):
    history.commit()
    with Catalog(tmp_path / "catalog.db") as catalog, pytest.raises(CatalogUnusable) as caught:
        catalog.apply(history.entries, history.load)
    assert caught.value.context["reason"] == "missing"
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(CatalogUnusable):
        Catalog.open_or_create(tmp_path / "nowhere" / "catalog.db")


def test_a_number_beyond_64_bits_is_refused(catalog, history):
    history.commit(time=1 << 70)
    with pytest.raises(CatalogUnusable):
        catalog.catch_up(history, history.load)


# processes -------------------------------------------------------------------


class Folder:
    """Objects as files: enough of a store for several processes."""

    def __init__(self, root):
        self.root = root

    def put(self, kind, record):
        body = canonical.encode(record)
        oid = object_id(kind, [body])
        beside = self.root / f"{oid}.{os.getpid()}"
        beside.write_bytes(body)
        beside.rename(self.root / f"{kind}-{oid}")
        return oid

    def load(self, kind, oid):
        return (self.root / f"{kind}-{oid}").read_bytes()


def commit_once(root, name, number):
    """Objects, then the event, then the catalog, as a commit does it. Returns the event."""
    store, log = Folder(root / "objects"), EventLog(root / "events")
    with RepositoryLock(root / "lock", name):
        state = replay(log)
        tip = state.refs.get("branch:main")
        fields = {"author": name, "time": number, "message": f"{name} {number}", "tool": "t"}
        oid = store.put(
            "commit", Commit("a" * 64, "b" * 64, parents=(tip,) if tip else (), **fields)
        )
        measured = store.put("measurement", Measurement(oid, "accuracy", number / 7, name, number))
        draft = draft_event(
            time=number,
            actor=name,
            command="commit",
            summary=f"{name} {number}",
            tool="t",
            refs=(RefChange("branch:main", tip, oid),),
            objects=(oid, measured),
            detail={"commits": [oid], "measurements": [measured]},
        )
        entry = log.append(draft, expected=state.head)
    with Catalog.open_or_create(root / "catalog.db") as catalog:
        catalog.catch_up(log, store.load)
    return entry


def commit_many(root, name, count):
    for number in range(count):
        commit_once(root, name, number)


@pytest.fixture
def repository(tmp_path):
    (tmp_path / "objects").mkdir()
    EventLog.create(tmp_path / "events")
    return tmp_path


def assert_whole(root):
    """The chain is whole, and the catalog is what a rebuild gives."""
    log, store = EventLog(root / "events"), Folder(root / "objects")
    assert log.verify() == []
    with Catalog.open_or_create(root / "catalog.db") as catalog:
        applied = catalog.catch_up(log, store.load)
        assert applied == log.head()
        kept = dump(root / "catalog.db")
        catalog.rebuild(log, store.load)
        assert dump(root / "catalog.db") == kept
    with CatalogReader(root / "catalog.db") as reader:
        tip = reader.refs()["branch:main"]
        assert len(list(reader.ancestors([tip]))) == log.head().number  # linear, none lost
    return log


def test_eight_processes_commit_at_once(repository, start):
    children = [start(commit_many, repository, f"p{n}", 5) for n in range(8)]
    assert [child.join() for child in children] == [0] * 8
    log = assert_whole(repository)
    summaries = sorted(event.summary for event, _ in log.read())
    assert summaries == sorted(f"p{n} {i}" for n in range(8) for i in range(5))


def commit_for_ever(root, acknowledged):
    with open(acknowledged, "a", buffering=1) as out:
        number = 0
        while True:
            event, event_hash = commit_once(root, "loop", number)
            out.write(f"{event.number} {event_hash}\n")
            number += 1


def test_killed_again_and_again_the_catalog_still_follows(repository, tmp_path, start):
    chance = random.Random(11)
    commit_once(repository, "first", 0)
    acknowledged = tmp_path / "ack"
    acknowledged.touch()
    for round_ in range(15):
        child = start(commit_for_ever, repository, acknowledged)
        if round_ % 3 == 0:  # not before it got through once
            begin = acknowledged.stat().st_size
            while acknowledged.stat().st_size == begin:
                time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.1))
        child.kill()
        commit_once(repository, "next", round_)  # nothing blocks the next command
    log = assert_whole(repository)
    hashes = {event.number: event_hash for event, event_hash in log.read()}
    lines = [line.split() for line in acknowledged.read_text().splitlines()]
    assert len(lines) >= 5
    assert all(hashes[int(number)] == event_hash for number, event_hash in lines)


def rebuild_for_ever(root):
    log, store = EventLog(root / "events"), Folder(root / "objects")
    with Catalog(root / "catalog.db") as catalog:
        while True:
            catalog.rebuild(log, store.load)


def test_rebuilding_while_others_commit_and_killed_at_it(repository, start):
    chance = random.Random(13)
    commit_many(repository, "first", 5)
    for _ in range(6):
        rebuilder = start(rebuild_for_ever, repository)
        committer = start(commit_many, repository, "beside", 2)
        time.sleep(chance.uniform(0.02, 0.2))
        rebuilder.kill()
        assert committer.join() == 0
    log = assert_whole(repository)
    assert log.head().number == 17
