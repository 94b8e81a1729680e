"""The revisions between two, against sets of ancestors worked out by definition."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltavc.catalog.reader import CatalogReader
from deltavc.catalog.writer import Catalog

DAGS = st.lists(st.lists(st.integers(0, 30), max_size=3, unique=True), min_size=2, max_size=16)


def made(folder, history, dag):
    """A catalog of these commits, each with parents among those before; ids and ancestors."""
    ids, before = [], []
    for number, picks in enumerate(dag):
        parents = sorted({pick % number for pick in picks}) if number else []
        ids.append(history.commit([ids[p] for p in parents], kpis={"acc": number / 8}))
        before.append({number}.union(*(before[p] for p in parents)))
    with Catalog(folder / "catalog.db") as catalog:
        catalog.rebuild(history, history.load)
    return ids, before


@settings(max_examples=6, deadline=None)
@given(DAGS)
def test_a_line_is_what_one_has_and_the_other_has_not(tmp_path_factory, new_history, dag):
    folder = tmp_path_factory.mktemp("line")
    ids, before = made(folder, new_history(), dag)
    with CatalogReader(folder / "catalog.db") as reader:
        for early in range(len(ids)):
            for late in range(len(ids)):
                line = reader.line(ids[early], ids[late])
                assert line.connected == (early != late and early in before[late])
                if line.connected:
                    expected = sorted(before[late] - before[early], reverse=True)
                    assert line.ids(line.keys) == [ids[n] for n in expected]


@settings(max_examples=6, deadline=None)
@given(DAGS, st.lists(st.tuples(st.booleans(), st.integers(0, 30)), max_size=4))
def test_narrowing_a_line_is_narrowing_the_sets(tmp_path_factory, new_history, dag, steps):
    folder = tmp_path_factory.mktemp("line")
    dag = [dag[0], *([n, *picks] for n, picks in enumerate(dag[1:]))]  # connected to the first
    ids, before = made(folder, new_history(), dag)
    with CatalogReader(folder / "catalog.db") as reader:
        line = reader.line(ids[0], ids[-1])
        left = before[len(ids) - 1] - before[0]
        for is_bad, pick in steps:
            if not left:
                break
            number = sorted(left)[pick % len(left)]
            key = reader.key(ids[number])
            (line.leave_ancestors if is_bad else line.drop_ancestors)(key)
            left = left & before[number] if is_bad else left - before[number]
            assert line.ids(line.keys) == [ids[n] for n in sorted(left, reverse=True)]


def test_values_are_those_that_count(tmp_path, history):
    first = history.commit(kpis={"acc": 0.5, "loss": None})
    second = history.commit([first], kpis={"acc": 0.75, "loss": 2.0})
    history.event(measurements=[history.make_measurement(first, "acc", 0.25)])
    with Catalog(tmp_path / "catalog.db") as catalog:
        catalog.rebuild(history, history.load)
    with CatalogReader(tmp_path / "catalog.db") as reader:
        line = reader.line(first, second)
        keys = reader.key(first), reader.key(second)
        assert line.values("acc") == {keys[0]: 0.25, keys[1]: 0.75}
        assert line.values("loss") == {keys[1]: pytest.approx(2.0)}
        assert line.values("none") == {}
