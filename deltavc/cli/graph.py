"""Drawing the lineage: a column of the terminal for each line of descent.

Plain ASCII, so that a log can be pasted anywhere. Two revisions stand right
below each other in a column only if the one descends from the other: where a
parent is not listed, a ``~`` comes between, and below a first revision a gap.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

__all__ = ["Node", "draw"]


@dataclass(frozen=True)
class Node:
    """One listed revision.

    Attributes:
        name: Its id.
        parents: Ids of its parents, listed or not.
        mark: How it is drawn, such as ``@`` for the current one.
    """

    name: str
    parents: Sequence[str]
    mark: str = "*"


def draw(nodes: Iterable[Node]) -> Iterator[tuple[str, Node | None]]:
    """Yields the lines of a drawing.

    Args:
        nodes: The revisions, children before their parents.

    Yields:
        The drawing's part of a line, and the revision that belongs on it; None where the
        line only connects.
    """
    listed = list(nodes)
    names = {node.name for node in listed}
    lanes: list[str] = []  # each lane waits for this revision
    pending: list[str] = []  # drawn only if another revision follows
    for node in listed:
        yield from ((line, None) for line in pending)
        if node.name not in lanes:
            lanes.append(node.name)
        at = lanes.index(node.name)
        yield from ((line, None) for line in _join(lanes, node.name))
        marks = [node.mark if lane == at else "|" for lane in range(len(lanes))]
        yield " ".join(marks), node
        pending = _descend(lanes, at, node, names)


def _join(lanes: list[str], name: str) -> Iterator[str]:
    """Leads all lanes that wait for a revision into the leftmost of them."""
    at = lanes.index(name)
    while lanes.count(name) > 1:
        last = len(lanes) - 1 - lanes[::-1].index(name)
        cells = [*_bars(lanes[:last]), *" " * (2 * (len(lanes) - last))]
        for right in range(last, len(lanes)):
            cells[2 * right - 1] = "/"
        for between in range(2 * at + 1, 2 * last - 1, 2):
            cells[between] = "_"
        del lanes[last]
        yield "".join(cells).rstrip()


def _descend(lanes: list[str], at: int, node: Node, names: set[str]) -> list[str]:
    """Leads a lane on to the revision's parents; returns the connecting lines."""
    parents = [parent for parent in node.parents if parent in names]
    if not parents:
        return _end(lanes, at, is_root=not node.parents)
    lanes[at] = parents[0]
    lines = []
    for number, parent in enumerate(dict.fromkeys(parents[1:]), start=at + 1):
        cells = [*_bars(lanes), " ", " "]
        for right in range(number, len(lanes)):
            cells[2 * right] = " "
        for right in range(number - 1, len(lanes)):
            cells[2 * right + 1] = "\\"
        lanes.insert(number, parent)
        lines.append("".join(cells).rstrip())
    return lines


def _end(lanes: list[str], at: int, *, is_root: bool) -> list[str]:
    """Ends a lane; the lanes at its right move up."""
    lines = []
    if not is_root:
        cells = _bars(lanes)
        cells[2 * at] = "~"
        lines.append("".join(cells).rstrip())
    if is_root or at < len(lanes) - 1:
        cells = [*_bars(lanes), " "]
        cells[2 * at] = " "
        for right in range(at + 1, len(lanes)):
            cells[2 * right] = " "
            cells[2 * right - 1] = "/"
        lines.append("".join(cells).rstrip())
    del lanes[at]
    return lines


def _bars(lanes: Sequence[str]) -> list[str]:
    """Returns the cells of a line on which every lane just goes on."""
    return list("| " * len(lanes))
