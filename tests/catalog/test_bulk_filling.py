"""A catalog that is made anew in bulk has the rows of one that grew event by event."""

import sqlite3

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltavc.catalog import projection as projecting
from deltavc.catalog.seen import Seen
from deltavc.catalog.writer import Catalog
from deltavc.errors import ObjectMissing
from deltavc.ids import ObjectId
from deltavc.records.model import DataRef, Tag
from deltavc.records.ship import Approval, Deployment, Environment, GateSeen, Request, RuleSeen

KPIS = ("acc", "loss", "acc[de]")


def dump(path):
    db = sqlite3.connect(path)
    names = [n for (n,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    rows = {name: sorted(map(repr, db.execute(f'SELECT * FROM "{name}"'))) for name in names}
    made = sorted(sql for (sql,) in db.execute("SELECT sql FROM sqlite_master") if sql)
    assert db.execute("PRAGMA foreign_key_check").fetchall() == []
    assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert db.execute("PRAGMA journal_mode").fetchall() == [("wal",)]
    db.close()
    return rows, made


def both(folder, history, skipped=None):
    """The rows of a catalog that grew one event at a time, and of one made anew."""
    grown, anew = folder / "grown" / "catalog.db", folder / "anew" / "catalog.db"
    for path in (grown, anew):
        path.parent.mkdir()
    with Catalog.open_or_create(grown) as catalog:
        for entry in history.entries:
            catalog.apply([entry], history.load, skipped=skipped)
    with Catalog(anew) as catalog:
        catalog.rebuild(history, history.load, skipped=skipped)
    return dump(grown), dump(anew)


def measure(history, commit, series, value, **fields):
    kpi, _, part = series.partition("[")
    part = part.rstrip("]") or None
    oid = history.make_measurement(commit, kpi, value, slice=part, **fields)
    history.event(measurements=[oid])
    return oid


def test_what_is_live_has_the_same_rows(tmp_path, history):
    first = history.commit(
        kpis={"acc": 0.5}, labels={"team": "a"}, data=(DataRef("d", 3, "0" * 64),)
    )
    place = history.put("environment", Environment("prod", gates=("g",), approvals=1))
    history.event({"env:prod": place}, objects=[place])
    gate = GateSeen("g", "pass", "1" * 64, (RuleSeen("acc >= 0", "pass", "it is", "acc"),))
    asked = history.put("request", Request("prod", first, "Ada", 1, place, "2" * 64, gates=(gate,)))
    history.event(requests=[asked])
    said = history.put("approval", Approval(asked, "prod", first, "2" * 64, "Bob", 2))
    history.event(approvals=[said])
    live = history.put(
        "deployment",
        Deployment("prod", first, "deploy", "Ada", 3, place, gates=(gate,), approvals=(said,)),
    )
    history.event({"serve:prod": live}, deployments=[live])
    tag = history.put("tag", Tag(first, "v1", "Ada", 5, "first"))
    history.event({"tag:v1": tag}, tags=[tag])
    history.event({"env:prod": None, "tag:v1": None})
    history.event(deployments=[live], approvals=[said], tags=[tag])  # named a second time
    grown, anew = both(tmp_path, history)
    assert grown == anew
    assert {name for name, rows in anew[0].items() if not rows} == {
        "bases", "environments", "parents", "signatures",
    }  # fmt: skip


@settings(max_examples=8, deadline=None)
@given(
    st.lists(st.tuples(*[st.integers(0, 7)] * 4), max_size=25),
    st.integers(1, 4),
    st.integers(0, 6),
)
def test_any_history_of_measurements_and_corrections(
    tmp_path_factory, new_history, steps, batch, remembered
):
    history, patch = new_history(), pytest.MonkeyPatch()
    commits, measured = [history.commit()], []
    for number, (what, one, two, three) in enumerate(steps):
        commit = commits[one % len(commits)]
        if what < 3:
            parents = {commit, commits[two % len(commits)]}
            commits.append(history.commit(sorted(parents), kpis={KPIS[three % 3]: number / 8}))
        elif what < 5 or not measured:
            measured.append(measure(history, commit, KPIS[two % 3], number / 8))
        elif what < 7:
            fields = {"supersedes": measured[two % len(measured)], "reason": "wrong file"}
            value = None if one == 0 else float(number)
            measured.append(measure(history, commit, KPIS[three % 3], value, **fields))
        else:
            history.event(commits=[commit], measurements=[measured[two % len(measured)]])
    with patch.context() as small:
        small.setattr("deltavc.catalog.writer._BATCH", batch)
        small.setattr(projecting, "_REMEMBERED", remembered)
        grown, anew = both(tmp_path_factory.mktemp("c"), history)
    assert grown == anew


def test_what_cannot_be_loaded_is_left_out_of_both(tmp_path, history):
    first = history.commit(kpis={"acc": 0.5})
    second = history.commit([first], kpis={"acc": 0.6})
    history.commit([second], kpis={"acc": 0.7})
    del history.objects["commit", second]
    told = []
    grown, anew = both(tmp_path, history, lambda *found: told.append(found[:2]))
    assert grown == anew
    assert set(told) == {("commit", second)}
    with Catalog(tmp_path / "catalog.db") as catalog, pytest.raises(ObjectMissing):
        catalog.rebuild(history, history.load)
    assert not (tmp_path / "catalog.db").exists()


def test_indexes_are_those_of_a_new_catalog(tmp_path, history):
    history.commit(kpis={"acc": 0.5})
    (_, grown), (_, anew) = both(tmp_path, history)
    assert any(sql.startswith("CREATE INDEX") for sql in anew)
    assert grown == anew


@settings(max_examples=8, deadline=None)
@given(st.lists(st.integers(0, 2**40), max_size=50))
def test_seen_forgets_nothing(numbers):
    ids = [ObjectId(f"{number:064x}"[::-1]) for number in numbers]
    seen, before = Seen(), set()
    for oid in ids:
        if oid in before:
            assert seen.again(oid)
        else:
            seen.again(oid)
        before.add(oid)


def test_seen_tells_new_ids_apart():
    seen = Seen()
    ids = [ObjectId(f"{number * 7919:07x}".ljust(64, "0")) for number in range(2000)]
    assert [seen.again(oid) for oid in ids] == [False] * 2000
    assert [seen.again(oid) for oid in ids] == [True] * 2000


def test_an_event_that_calls_a_commit_a_measurement_gives_no_row_of_one(tmp_path, history):
    first = history.commit(kpis={"acc": 0.5})
    second = history.make_commit([first])
    history.event(commits=[second], measurements=[second], tags=[second], deployments=[second])
    grown, anew = both(tmp_path, history)
    assert grown == anew
    assert [len(anew[0][t]) for t in ("commits", "measurements", "tags", "deployments")] == [
        2, 1, 0, 0,
    ]  # fmt: skip
