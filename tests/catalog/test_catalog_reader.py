"""Questions to the catalog, against plain Python; and how it says that it cannot answer."""

import math
import random
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from deltavc.catalog.errors import CatalogUnusable
from deltavc.catalog.reader import CatalogReader
from deltavc.catalog.writer import Catalog
from deltavc.errors import DeltavcError, UnknownRevision


@pytest.fixture
def built(tmp_path, history):
    """Makes the catalog of the history as it is now, and returns a reader."""
    readers = []

    def build():
        with Catalog.open_or_create(tmp_path / "catalog.db") as catalog:
            catalog.catch_up(history, history.load)
        readers.append(CatalogReader(tmp_path / "catalog.db"))
        return readers[-1]

    yield build
    for reader in readers:
        reader.close()


def test_a_small_graph_with_a_merge(history, built):
    root = history.commit(message="root")
    left = history.commit([root], branch="left", message="left")
    right = history.commit([root], branch="right", message="right")
    top = history.commit([left, right], branch="left", message="top")
    reader = built()
    assert [c.message for c in reader.log([top])] == ["top", "right", "left", "root"]
    assert [c.message for c in reader.log([top], limit=2)] == ["top", "right"]
    assert [c.message for c in reader.log([top], exclude=[right])] == ["top", "left"]
    assert [c.message for c in reader.log([left, right])] == ["right", "left", "root"]
    assert list(reader.log([top], exclude=[top])) == []
    assert list(reader.log([])) == []
    assert list(reader.ancestors([top], exclude=[left])) == [top, right]
    assert reader.parents(top) == (left, right)
    assert reader.children(root) == [left, right]
    assert reader.is_ancestor(root, top)
    assert not reader.is_ancestor(top, root)
    assert not reader.is_ancestor(left, right)
    assert reader.is_ancestor(top, top)
    assert reader.merge_bases(left, right) == [root]
    assert reader.merge_bases(top, right) == [right]
    found = reader.commits([top, root, "0" * 64])
    assert set(found) == {top, root}
    assert found[top].parents == (left, right)
    assert found[top].branch == "left"
    assert found[root].generation == 1


def test_order_is_by_record_and_not_by_clock(history, built):
    first = history.commit(time=9_000)
    second = history.commit([first], time=10)
    third = history.commit([second], time=5_000)
    assert [c.id for c in built().log([third])] == [third, second, first]


def test_unknown_ids_are_named(history, built):
    first = history.commit()
    reader = built()
    ask = [
        lambda: reader.commit("0" * 64),
        lambda: list(reader.log(["0" * 64])),
        lambda: list(reader.log([first], exclude=["0" * 64])),
        lambda: reader.is_ancestor(first, "0" * 64),
        lambda: reader.merge_bases("0" * 64, first),
        lambda: reader.parents("0" * 64),
    ]
    for question in ask:
        with pytest.raises(UnknownRevision) as caught:
            question()
        assert caught.value.context["revision"] == "0" * 64


def test_prefixes(history, built):
    ids = sorted(history.commit(message=str(n)) for n in range(300))
    reader = built()
    for digits in (1, 2, 3, 64):
        for prefix in {oid[:digits] for oid in ids[:40]}:
            wanted = [oid for oid in ids if oid.startswith(prefix)]
            assert reader.find_prefix(prefix) == wanted
    assert reader.find_prefix(ids[0] + "0") == []
    for nonsense in ("", "%", "_", "A", "é", "'", "0x", " "):
        assert reader.find_prefix(nonsense) == []
    assert len(reader.find_prefix(ids[0][0], limit=2)) == 2
    event_hash = history.entries[17][1]
    assert [e.number for e in reader.find_event(event_hash[:12])] == [18]
    assert reader.find_event("zz") == []


def test_events_newest_first(history, built):
    for _ in range(5):
        history.commit()
    history.event(command="undo", objects=["c" * 64], detail_key={"ü": [1, None]})
    reader = built()
    assert [e.number for e in reader.events(2)] == [6, 5]
    assert [e.number for e in reader.events(2, before=5)] == [4, 3]
    assert [e.number for e in reader.events()] == [6, 5, 4, 3, 2, 1]
    assert reader.event(7) is None
    event, event_hash = history.entries[5]
    row = reader.event(6)
    assert (row.hash, row.command, row.time) == (event_hash, "undo", event.time)
    assert (row.objects, row.detail) == (("c" * 64,), {"detail_key": {"ü": [1, None]}})
    assert reader.event(2).refs == (
        ("branch:main", history.entries[0][0].refs[0].after, history.entries[1][0].refs[0].after),
    )


def test_the_latest_is_what_was_recorded_last_whatever_its_clock_says(history, built):
    first = history.commit(kpis={"accuracy": 0.5})
    for value, clock in ((0.9, 50), (None, 10), (0.7, 5)):
        measured = history.make_measurement(first, "accuracy", value, time=clock, samples=clock)
        history.event(measurements=[measured])
        assert built().latest([first])[first] == {"accuracy": value}
    reader = built()
    assert [m.value for m in reader.measurements(first)] == [0.5, 0.9, None, 0.7]
    assert [m.samples for m in reader.measurements(first)] == [None, 50, 10, 5]
    assert reader.latest([first], ["loss"]) == {}
    assert reader.latest(["0" * 64]) == {}


def test_a_correction_counts_in_the_place_of_what_it_corrects(history, built):
    first, second = history.commit(kpis={"acc": 0.5}), history.commit(kpis={"acc": 0.6})
    ids = []
    for value, fields in (
        (0.7, {}),
        (0.4, {"supersedes": "old", "reason": "typing error"}),
        (0.9, {"slice": "rare", "samples": 8, "stderr": 0.25, "tool": "eval 1", "seed": 7}),
    ):
        if fields.get("supersedes"):
            fields["supersedes"] = built().measurements(first)[0].id
        ids.append(history.make_measurement(first, "acc", value, **fields))
        history.event(measurements=[ids[-1]])
    reader = built()
    assert reader.latest([first]) == {first: {"acc": 0.7, "acc[rare]": 0.9}}
    rows = reader.measurements(first)
    assert [(m.value, m.is_latest) for m in rows] == [(0.5, 0), (0.7, 1), (0.4, 0), (0.9, 1)]
    assert (rows[0].superseded_by, rows[2].supersedes) == (ids[1], rows[0].id)
    assert rows[3].series == "acc[rare]"
    assert (rows[3].samples, rows[3].stderr, rows[3].tool, rows[3].seed) == (8, 0.25, "eval 1", 7)
    assert reader.measurement(ids[1]).reason == "typing error"
    assert reader.measurement("0" * 64) is None
    assert [m.id for m in reader.find_measurement(ids[1][:20])] == [ids[1]]
    assert reader.kpis() == {"acc": 2, "acc[rare]": 1}
    assert reader.best("acc[rare]", "higher").commit == first
    moved = history.make_measurement(second, "acc", 0.7, supersedes=ids[0], reason="of another")
    history.event(measurements=[moved])
    assert built().latest([first, second]) == {
        first: {"acc": 0.4, "acc[rare]": 0.9},
        second: {"acc": 0.7},
    }


def test_best(history, built):
    values = {"low": 0.1, "high": 0.9, "same": 0.9, "nan": None, "below": -math.pi}
    ids = {name: history.commit(message=name, kpis={"kpi": v}) for name, v in values.items()}
    reader = built()
    assert reader.best("kpi", "higher").commit == ids["same"]
    assert reader.best("kpi", "lower").commit == ids["below"]
    assert reader.best("kpi", "lower").value == -math.pi
    assert reader.best("other", "higher") is None


def test_best_among_ancestors(history, built):
    first = history.commit(kpis={"kpi": 0.5})
    side = history.commit([first], kpis={"kpi": 0.9})
    other = history.commit([first], kpis={"kpi": 0.4})
    merged = history.commit([other, side], kpis={"kpi": None})
    last = history.commit([other], kpis={"kpi": 0.95})
    reader = built()
    assert reader.best("kpi", "higher").commit == last
    assert reader.best("kpi", "higher", within=merged).commit == side
    assert reader.best("kpi", "lower", within=merged).commit == other
    assert reader.best("kpi", "higher", within=other).commit == first
    assert reader.best("kpi", "higher", within=last).commit == last


def test_a_reader_sees_what_is_applied_later(history, built):
    history.commit()
    reader = built()
    assert reader.applied() == (1, history.entries[0][1])
    history.commit()
    built()
    assert reader.applied() == (2, history.entries[1][1])
    assert reader.refs() == history.refs


def test_a_reader_cannot_write(history, built):
    history.commit()
    db = built()._db._connection
    for statement in ("DELETE FROM refs", "PRAGMA user_version = 5", "CREATE TABLE x (y)"):
        with pytest.raises(sqlite3.Error):
            db.execute(statement)


# what cannot be used ---------------------------------------------------------


def ask(path, **how):
    with CatalogReader(path, **how) as reader:
        list(reader.log([reader.refs()["branch:main"]]))


def reason(path, **how):
    with pytest.raises(CatalogUnusable) as caught:
        ask(path, **how)
    assert caught.value.exit_code == 40
    assert caught.value.slug == "catalog-unusable"
    assert "doctor" in caught.value.hint or "upgrade" in caught.value.hint
    return caught.value.context["reason"]


@pytest.fixture
def path(tmp_path, history, built):
    history.commit(kpis={"accuracy": 0.5})
    built().close()
    return tmp_path / "catalog.db"


def test_missing(tmp_path):
    assert reason(tmp_path / "catalog.db") == "missing"
    assert reason(tmp_path / "nowhere" / "catalog.db") == "missing"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"garbage" * 1000, b"SQLite format 3\0" + b"\xff" * 8000])
def test_not_a_database(path, content):
    path.write_bytes(content)
    assert reason(path) == "damaged"


def test_an_empty_file_is_an_old_schema(path):
    path.write_bytes(b"")
    assert reason(path) == "older"


def test_a_table_is_gone(path):
    db = sqlite3.connect(path)
    db.execute("DROP TABLE parents")
    db.close()
    assert reason(path) == "damaged"


def test_newer(path):
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 99")
    db.close()
    assert reason(path) == "newer"


def test_held_exclusively(path):
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("PRAGMA locking_mode = EXCLUSIVE")
    other.execute("BEGIN EXCLUSIVE")
    assert reason(path, timeout=0.1) == "locked"
    other.close()


def test_a_writer_does_not_make_readers_wait(path):
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    other.execute("UPDATE meta SET applied_number = 77")
    with CatalogReader(path, timeout=0) as reader:
        assert reader.applied()[0] == 1
    other.close()


def test_every_damaged_page_gives_an_answer_or_the_one_error(path):
    """Bytes overwritten at random: never another exception than the one to be handled."""
    whole = path.read_bytes()
    chance = random.Random(3)
    unusable = 0
    for _ in range(150):
        data = bytearray(whole)
        at = chance.randrange(len(data))
        length = chance.choice([1, 16, 4096])
        data[at : at + length] = chance.randbytes(len(data[at : at + length]))
        path.write_bytes(data)
        try:
            with CatalogReader(path, timeout=0.1) as reader:
                for oid in list(reader.refs().values()):
                    for row in reader.log([oid], limit=50):
                        reader.measurements(row.id)
                reader.events(), reader.tags(), reader.bases()
        except DeltavcError as error:
            unusable += isinstance(error, CatalogUnusable)
    assert unusable > 10


def test_check(path):
    with CatalogReader(path) as reader:
        assert reader.check() == []
    db = sqlite3.connect(path)
    db.execute("DELETE FROM commits")
    db.commit()
    db.close()
    with CatalogReader(path) as reader:
        assert "a row of measurements refers to a missing row of commits" in reader.check()


def test_a_folder_that_may_not_be_written(path):
    """As another user: a catalog that cannot be opened is said to be so, nothing else breaks."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    try:
        shutil.copy(path, folder / "catalog.db")
        folder.chmod(0o555)
        program = (
            "import os, sys; from pathlib import Path\n"
            "from deltavc.catalog.reader import CatalogReader\n"
            "from deltavc.catalog.errors import CatalogUnusable\n"
            "if os.getuid() == 0: os.setuid(65534)\n"
            "try:\n    print(len(CatalogReader(Path(sys.argv[1])).refs()))\n"
            "except CatalogUnusable as error: print(error.context['reason'])\n"
        )
        run = subprocess.run(
            [sys.executable, "-c", program, folder / "catalog.db"], capture_output=True, text=True
        )
        assert run.stderr == ""
        assert run.stdout.strip() in ("1", "unwritable")
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)


def test_the_reader_starts_without_the_heavy_packages():
    program = (
        "import sys, deltavc.catalog.reader, deltavc.catalog.errors, deltavc.ledger.state,"
        " deltavc.ledger.log, deltavc.ledger.lock\n"
        "print([m for m in ('sqlalchemy', 'alembic', 'numpy', 'torch') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.stdout.strip() == "[]", run.stderr


# ten thousand commits --------------------------------------------------------

SIZE = 10_000


@pytest.fixture(scope="module")
def large(tmp_path_factory, new_history):
    """Ten thousand commits with a merge in twenty, fifty branches, and their plain graph."""
    history = new_history()
    chance = random.Random(5)
    tips, parents, order = {}, {}, []
    begin = time.perf_counter()
    for number in range(SIZE):
        branch = f"b{chance.randrange(50)}"
        mine = [tips[branch]] if branch in tips else order[-1:]
        if order and chance.random() < 0.05:
            other = tips[chance.choice(sorted(tips))]
            mine = [*mine, other] if other not in mine else mine
        oid = history.commit(mine, branch=branch, time=number, kpis={"accuracy": chance.random()})
        tips[branch] = oid
        parents[oid] = mine
        order.append(oid)
    made = time.perf_counter() - begin
    path = tmp_path_factory.mktemp("large") / "catalog.db"
    begin = time.perf_counter()
    with Catalog.open_or_create(path) as catalog:
        catalog.catch_up(history, history.load)
    print(f"\n{SIZE} commits: made in {made:.1f} s, applied in {time.perf_counter() - begin:.1f} s")
    with CatalogReader(path) as reader:
        yield reader, parents, order, tips


def ancestors(parents, start):
    found, stack = set(), [start]
    while stack:
        oid = stack.pop()
        if oid not in found:
            found.add(oid)
            stack.extend(parents[oid])
    return found


def timed(function, *args, **kwargs):
    """Answer and seconds of this process: nothing here waits, and others' load is not meant."""
    begin = time.process_time()
    answer = function(*args, **kwargs)
    return answer, time.process_time() - begin


@pytest.mark.slow
def test_ten_thousand_commits(large):
    reader, parents, order, tips = large
    place = {oid: i for i, oid in enumerate(order)}
    chance = random.Random(8)
    times = {
        "log": [],
        "all": [],
        "range": [],
        "ancestor": [],
        "base": [],
        "prefix": [],
        "latest": [],
    }
    everything, _ = timed(lambda: [row.id for row in reader.log(tips.values())])
    assert everything == order[::-1]
    for _ in range(25):
        a, b = chance.choice(order), chance.choice(order)
        of_a, of_b = ancestors(parents, a), ancestors(parents, b)
        top, seconds = timed(lambda: [row.id for row in reader.log([a], limit=20)])  # noqa: B023
        times["log"].append(seconds)
        assert top == sorted(of_a, key=place.get, reverse=True)[:20]
        top, seconds = timed(lambda: [r.id for r in reader.log(tips.values(), limit=20)])
        times["all"].append(seconds)
        assert top == order[:-21:-1]
        found, seconds = timed(lambda: list(reader.ancestors([a], exclude=[b])))  # noqa: B023
        times["range"].append(seconds)
        assert found == sorted(of_a - of_b, key=place.get, reverse=True)
        answer, seconds = timed(reader.is_ancestor, a, b)
        times["ancestor"].append(seconds)
        assert answer == (a in of_b)
        common = of_a & of_b
        inner = set()
        for oid in common:
            inner.update(parents[oid])
        found, seconds = timed(reader.merge_bases, a, b)
        times["base"].append(seconds)
        assert found == sorted(common - inner, key=place.get, reverse=True)
        found, seconds = timed(reader.find_prefix, a[:10])
        times["prefix"].append(seconds)
        assert found == [a]
        found, seconds = timed(reader.latest, top, ["accuracy"])
        times["latest"].append(seconds)
        assert set(found) == set(top)
    first, last = order[0], order[-1]
    times["whole history"] = [timed(reader.is_ancestor, first, last)[1] for _ in range(3)]
    for name, seconds in times.items():
        print(f"{name:14} median {1e3 * statistics.median(seconds):7.2f} ms")
        assert statistics.median(seconds) < 0.05, name
