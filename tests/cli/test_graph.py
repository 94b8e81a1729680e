"""The drawing of the lineage: as drawn by hand, and laws over random histories."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from deltavc.cli.graph import Node, draw


def drawing(*history: str) -> list[str]:
    """Draws a history written as ``child parent parent``, newest first."""
    nodes = [Node(words[0], words[1:]) for words in (text.split() for text in history)]
    return [f"{prefix} {node.name}" if node else prefix for prefix, node in draw(nodes)]


def test_a_line() -> None:
    assert drawing("c b", "b a", "a") == ["* c", "* b", "* a"]


def test_two_branches_meet_at_their_root() -> None:
    assert drawing("c b", "b a", "g a", "a") == ["* c", "* b", "| * g", "|/", "* a"]


def test_a_merge_opens_and_closes() -> None:
    assert drawing("m x y", "x a", "y a", "a") == [
        "* m",
        "|\\",
        "* | x",
        "| * y",
        "|/",
        "* a",
    ]


def test_three_parents_beside_another_branch() -> None:
    assert drawing("m x y z", "t a", "x a", "y a", "z a", "a") == [
        "* m",
        "|\\",
        "| |\\",
        "| | | * t",
        "* | | | x",
        "| * | | y",
        "| | * | z",
        "|_|_|/",
        "|_|/",
        "|/",
        "* a",
    ]


def test_lines_at_the_right_move_up_when_one_ends() -> None:
    assert drawing("s r", "t q", "u r", "r", "q") == [
        "* s",
        "| * t",
        "| | * u",
        "|_|/",
        "* | r",
        " /",
        "* q",
    ]


def test_what_is_not_listed_is_no_descent() -> None:
    assert drawing("c hidden", "b a", "a") == ["* c", "~", "* b", "* a"]
    assert drawing("c", "b") == ["* c", "", "* b"]
    assert drawing("c hidden") == ["* c"]
    assert drawing() == []


@st.composite
def histories(draw_value: st.DrawFn) -> list[Node]:
    """Random histories, newest first; some parents are not listed."""
    count = draw_value(st.integers(1, 14))
    nodes = []
    for number in range(count):
        older = [f"n{other}" for other in range(number + 1, count)] + ["hidden"]
        chosen = draw_value(st.lists(st.sampled_from(older), max_size=3, unique=True))
        nodes.append(Node(f"n{number}", chosen))
    return nodes


@given(histories())
def test_every_revision_is_drawn_once_and_in_order(nodes: list[Node]) -> None:
    drawn = [node for _, node in draw(nodes) if node is not None]
    assert drawn == nodes
    for prefix, node in draw(nodes):
        assert prefix.count("*") == (node is not None)
        assert set(prefix) <= set("*|/\\_~ ")


@given(histories())
def test_lines_lead_from_a_revision_to_its_listed_parents_and_nowhere_else(
    nodes: list[Node],
) -> None:
    """Follows the lines down, as a reader does, from cell to cell."""
    lines = [(prefix, node.name if node else None) for prefix, node in draw(nodes)]
    listed = {node.name for node in nodes}
    found: dict[str, list[str]] = {node.name: [] for node in nodes}
    carried: dict[int, set[str]] = {}
    for prefix, name in lines:
        below: dict[int, set[str]] = {}
        if name is not None:
            at = prefix.index("*")
            for child in carried.get(at, set()):
                found[child].append(name)
            for column, children in carried.items():
                assert column == at or prefix[column] == "|", "a line must go on"
                if column != at:
                    below[column] = children
            below[at] = {name}
        else:
            below = follow(prefix, carried)
        carried = below
    for node in nodes:
        expected = [parent for parent in node.parents if parent in listed]
        assert sorted(found[node.name]) == sorted(expected)


def follow(prefix: str, carried: dict[int, set[str]]) -> dict[int, set[str]]:
    """Returns which columns the lines are in below a connecting line."""
    below: dict[int, set[str]] = {}
    for column, children in carried.items():
        goes_on = column < len(prefix) and prefix[column] == "|"
        if goes_on:
            below.setdefault(column, set()).update(children)
        if column < len(prefix) and prefix[column] == "~":
            continue
        if column + 1 < len(prefix) and prefix[column + 1] == "\\":
            below.setdefault(column + 2, set()).update(children)
        if not goes_on and column > 0 and prefix[column - 1 : column] == "/":
            left = column - 2
            while left > 0 and prefix[left - 1] == "_":
                left -= 2
            below.setdefault(left, set()).update(children)
    return below
