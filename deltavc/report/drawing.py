"""Drawing the lineage: a column for each line of descent, one small SVG a row.

Rows of a table instead of one tall picture: text stays text, the drawing breaks across
printed pages, and a narrow screen can shorten a subject without shrinking the drawing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from deltavc.report.data import Edge, Node

__all__ = ["GraphRow", "draw"]

STEP, HEIGHT, GAP = 16, 36, 26  # pixels: a lane, a revision's row, a gap's row
END = -1


@dataclass(frozen=True)
class GraphRow:
    """A row of the drawing: a revision, or a gap of ``skipped`` revisions.

    ``ends`` says that the line goes on into what is not listed, or to a first revision.
    """

    svg: Markup
    node: Node | None
    skipped: int = 0
    ends: bool = False


@dataclass
class _Lane:
    """A line that waits for a row; ``dashed`` where it passes over revisions."""

    to: int
    dashed: bool


def draw(nodes: Sequence[Node]) -> list[GraphRow]:
    """Returns the rows of a drawing.

    Args:
        nodes: The revisions, newest first; an edge names the row of an older one.

    Returns:
        A row a revision, and behind it one for each of its edges that passes over others.
    """
    rows = list(_rows(nodes))
    width = max((lanes for _, lanes, *_ in rows), default=1) * STEP
    return [
        GraphRow(_svg(width, height, parts), node, skipped, ends)
        for parts, _, height, node, skipped, ends in rows
    ]


_Row = tuple[list[str], int, int, Node | None, int, bool]


def _rows(nodes: Sequence[Node]) -> Iterator[_Row]:
    lanes: list[_Lane | None] = []
    for number, node in enumerate(nodes):
        arriving = [at for at, lane in enumerate(lanes) if lane and lane.to == number]
        here = arriving[0] if arriving else _free(lanes)
        passing = [at for at, lane in enumerate(lanes) if lane and at not in arriving]
        for at in arriving:
            lanes[at] = None
        parts = [_line(at, 0, at, HEIGHT) for at in passing]
        parts += [_line(at, 0, here, HEIGHT // 2) for at in arriving]
        leaving = _leave(lanes, here, node.edges)
        parts += [_line(here, HEIGHT // 2, at, HEIGHT) for at, _ in leaving]
        parts.append(_dot(here, node))
        yield parts, len(lanes), HEIGHT, node, 0, False
        yield from _gaps(lanes, leaving)


def _leave(lanes: list[_Lane | None], here: int, edges: Sequence[Edge]) -> list[tuple[int, Edge]]:
    """Gives each edge a lane: the node's own, one that waits for the same row, or a new one."""
    found = []
    own = here
    for edge in edges:
        waiting = [
            at for at, lane in enumerate(lanes) if lane and lane.to == edge.to and edge.to != END
        ]
        if waiting and not edge.skipped and own < 0:
            found.append((waiting[0], edge))
            continue
        at, own = (own, -1) if own >= 0 else (_free(lanes), -1)
        _put(lanes, at, _Lane(edge.to, dashed=edge.skipped > 0))
        found.append((at, edge))
    if not edges:
        _put(lanes, here, None)
    return found


def _gaps(lanes: list[_Lane | None], leaving: Sequence[tuple[int, Edge]]) -> Iterator[_Row]:
    for at, edge in leaving:
        if not edge.skipped and edge.to != END:
            continue
        parts = [
            _line(other, 0, other, GAP) for other, lane in enumerate(lanes) if lane and other != at
        ]
        bottom = GAP // 2 if edge.to == END else GAP
        parts.append(_line(at, 0, at, bottom, dashed=True))
        width = len(lanes)
        if edge.to == END:
            _put(lanes, at, None)
        yield parts, width, GAP, None, edge.skipped, edge.to == END


def _free(lanes: list[_Lane | None]) -> int:
    return lanes.index(None) if None in lanes else len(lanes)


def _put(lanes: list[_Lane | None], at: int, lane: _Lane | None) -> None:
    lanes.extend([None] * (at + 1 - len(lanes)))
    lanes[at] = lane


def _x(lane: int) -> int:
    return lane * STEP + STEP // 2


def _line(lane: int, top: int, to: int, bottom: int, *, dashed: bool = False) -> str:
    kind = f"l{lane % 6}" if lane == to or bottom == HEIGHT // 2 else f"l{to % 6}"
    style = f'class="{kind}{" gap" if dashed else ""}"'
    if lane == to:
        return f'<path {style} d="M{_x(lane)} {top}V{bottom}"/>'
    middle = (top + bottom) // 2
    return (
        f'<path {style} d="M{_x(lane)} {top}C{_x(lane)} {middle} '
        f'{_x(to)} {middle} {_x(to)} {bottom}"/>'
    )


def _dot(lane: int, node: Node) -> str:
    x, y = _x(lane), HEIGHT // 2
    if node.serving:
        return (
            f'<circle class="now" cx="{x}" cy="{y}" r="7"/><circle class="dot" cx="{x}" '
            f'cy="{y}" r="3.5"/>'
        )
    kind = "dot" if node.served or node.is_head else "plain"
    return f'<circle class="{kind} l{lane % 6}" cx="{x}" cy="{y}" r="5"/>'


def _svg(width: int, height: int, parts: Sequence[str]) -> Markup:
    # Only numbers and fixed words went into the parts, so nothing is left to escape.
    return Markup(  # noqa: S704
        f'<svg class="graph" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'aria-hidden="true" focusable="false">{"".join(parts)}</svg>'
    )
