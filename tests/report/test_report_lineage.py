"""The reduced history against a walk by hand, and the drawing of it."""

from __future__ import annotations

from itertools import pairwise
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from deltavc.report.data import Edge, Node, Version
from deltavc.report.drawing import GAP, HEIGHT, draw
from deltavc.report.lineage import reduced


@st.composite
def histories(draw_):
    """Parents by key, and some keys to keep."""
    count = draw_(st.integers(1, 25))
    parents = {}
    for key in range(2, count + 1):
        earlier = st.lists(st.integers(1, key - 1), max_size=3, unique=True)
        if found := draw_(earlier):
            parents[key] = tuple(found)
    wanted = draw_(st.sets(st.integers(1, count)))
    allowed = draw_(st.none() | st.frozensets(st.integers(1, count)))
    return parents, wanted, allowed


def up(parents, allowed, key):
    return [p for p in parents.get(key, ()) if allowed is None or p in allowed]


def first_parents(parents, allowed, key):
    """A revision and its first parents, as far as they may be listed."""
    while True:
        yield key
        above = up(parents, allowed, key)
        if not above:
            return
        key = above[0]


@given(histories())
def test_edges_pass_over_what_first_parents_pass_over(history):
    parents, wanted, allowed = history
    rows = reduced(wanted, parents, allowed)
    kept = [key for key, _ in rows]
    assert kept == sorted(set(kept), reverse=True)
    assert wanted & (wanted if allowed is None else allowed) <= set(kept)
    for key, edges in rows:
        expected = []
        for parent in up(parents, allowed, key):
            line = list(first_parents(parents, allowed, parent))
            at = next((n for n, one in enumerate(line) if one in kept), None)
            expected.append((-1, len(line)) if at is None else (line[at], at))
        if not expected and parents.get(key):
            expected = [(-1, 0)]
        assert edges == tuple(dict.fromkeys(expected))


@given(histories())
def test_lines_meet_at_rows_only(history):
    """A revision that two lines pass over would be told twice."""
    parents, wanted, allowed = history
    rows = reduced(wanted, parents, allowed)
    kept = {key for key, _ in rows}
    passed = set()
    for key, _ in rows:
        mine = set()
        for parent in up(parents, allowed, key):
            for one in first_parents(parents, allowed, parent):
                if one in kept:
                    break
                mine.add(one)
        assert not mine & passed
        passed |= mine


def node(number, *edges):
    return Node(Version(f"{number:064x}", "", "", 0), tuple(Edge(*edge) for edge in edges))


@given(histories())
def test_drawing_has_a_row_for_each_revision_and_each_gap(history):
    parents, wanted, allowed = history
    rows = reduced(wanted, parents, allowed)
    at = {key: number for number, (key, _) in enumerate(rows)}
    nodes = [
        node(key, *((at.get(to, -1), skipped) for to, skipped in edges)) for key, edges in rows
    ]
    drawn = draw(nodes)
    assert [row.node for row in drawn if row.node is not None] == nodes
    gaps = [(e.skipped, e.to < 0) for n in nodes for e in n.edges if e.skipped or e.to < 0]
    assert [(row.skipped, row.ends) for row in drawn if row.node is None] == gaps
    widths = set()
    for row in drawn:
        svg = ElementTree.fromstring(row.svg)
        assert int(svg.attrib["height"]) == (GAP if row.node is None else HEIGHT)
        widths.add(svg.attrib["width"])
    assert len(widths) <= 1


def lines_at(svg, y):
    """The lanes whose lines touch the upper or lower edge of a row."""
    found = set()
    for path in ElementTree.fromstring(svg).iter("path"):
        numbers = path.attrib["d"].replace("M", " ").replace("C", " ").replace("V", " ").split()
        x, top = int(numbers[0]), int(numbers[1])
        end_x = int(numbers[-2]) if "C" in path.attrib["d"] else x
        found |= {x} if top == y else set()
        found |= {end_x} if int(numbers[-1]) == y else set()
    return found


@given(histories())
def test_lines_go_on_from_row_to_row(history):
    parents, wanted, allowed = history
    rows = reduced(wanted, parents, allowed)
    at = {key: number for number, (key, _) in enumerate(rows)}
    nodes = [
        node(key, *((at.get(to, -1), skipped) for to, skipped in edges)) for key, edges in rows
    ]
    drawn = draw(nodes)
    for above, below in pairwise(drawn):
        bottom = HEIGHT if above.node is not None else GAP
        assert lines_at(above.svg, bottom) == lines_at(below.svg, 0)


def test_a_served_revision_is_marked():
    svg = draw([Node(Version("a" * 64, "", "", 0), (), serving=("production",))])[0].svg
    assert 'class="now"' in svg
    assert 'class="now"' not in draw([node(1)])[0].svg
