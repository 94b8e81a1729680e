"""Walks over random graphs, against answers by brute force."""

from hypothesis import given
from hypothesis import strategies as st

from deltavc.catalog import ancestry


@st.composite
def graphs(draw):
    """Graphs whose keys grow from parents to children, as the catalog gives them."""
    size = draw(st.integers(1, 24))
    return {
        key: draw(st.lists(st.integers(max(1, key - 6), key - 1), max_size=3, unique=True))
        if key > 1
        else []
        for key in range(1, size + 1)
    }


def closure(graph, starts):
    """The starts and all their ancestors, by repetition until nothing new comes."""
    found = set(starts)
    while more := {p for key in found for p in graph[key]} - found:
        found |= more
    return found


def picks(data, graph, least=0):
    return data.draw(st.lists(st.sampled_from(sorted(graph)), min_size=least, max_size=3))


@given(graphs(), st.data())
def test_walk_gives_each_reachable_commit_once_children_first(graph, data):
    starts, excluded = picks(data, graph), picks(data, graph)
    order = list(ancestry.walk(starts, excluded, graph.__getitem__))
    assert len(order) == len(set(order))
    assert set(order) == closure(graph, starts) - closure(graph, excluded)
    place = {key: i for i, key in enumerate(order)}
    assert all(place[key] < place[p] for key in order for p in graph[key] if p in place)


@given(graphs(), st.data())
def test_is_ancestor(graph, data):
    a, b = data.draw(st.sampled_from(sorted(graph))), data.draw(st.sampled_from(sorted(graph)))
    assert ancestry.is_ancestor(a, b, graph.__getitem__) == (a in closure(graph, [b]))


@given(graphs(), st.data())
def test_merge_bases_are_the_common_ancestors_that_no_other_one_has(graph, data):
    a, b = data.draw(st.sampled_from(sorted(graph))), data.draw(st.sampled_from(sorted(graph)))
    common = closure(graph, [a]) & closure(graph, [b])
    best = {k for k in common if not any(k in closure(graph, graph[o]) for o in common)}
    found = ancestry.merge_bases(a, b, graph.__getitem__)
    assert found == sorted(best, reverse=True)
    assert set(ancestry.merge_bases(b, a, graph.__getitem__)) == best


def test_criss_cross_has_two_merge_bases():
    graph = {1: [], 2: [1], 3: [1], 4: [2, 3], 5: [3, 2]}
    assert ancestry.merge_bases(4, 5, graph.__getitem__) == [3, 2]


def test_a_walk_stops_once_only_excluded_commits_are_left():
    looked_up = []

    def parents(key):
        looked_up.append(key)
        return [key - 1] if key > 1 else []

    assert list(ancestry.walk([1000], [997], parents)) == [1000, 999, 998]
    assert looked_up == [1000, 999, 998]
