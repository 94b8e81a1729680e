"""Charts of KPIs over revisions, as SVG that is the same for the same values.

matplotlib draws with marker colours, which then become variables of the page's style
sheet: one drawing for light, dark and paper. Ids, dates and program names are taken out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from io import StringIO
from typing import Any
from xml.etree import ElementTree

from markupsafe import Markup

from deltavc.errors import MissingExtra
from deltavc.report.data import Point, Series
from deltavc.report.show import day, visible

__all__ = ["Chart", "make_chart"]

Chart = Callable[[Series, str, str], Markup]
"""Draws a series; further arguments are its title and its description for screen readers."""

WIDTH, HEIGHT = 9.0, 2.7  # inches of 72 points
ROW = 0.12  # height of a row of names, of the height of the values
LETTER = 0.0105  # width of a letter, of the width of the chart
STRETCHES = 60  # of an axis on which a thinned series is shaded
INK, GRID, POINT, NOW, LIMIT, SERVED = (f"#0{n}0{n}0{n}" for n in range(1, 7))
_COLORS = {
    INK: "var(--chart-ink)",
    GRID: "var(--chart-grid)",
    POINT: "var(--chart-point)",
    NOW: "var(--chart-now)",
    LIMIT: "var(--chart-limit)",
    SERVED: "var(--chart-served)",
}
_SETTINGS: dict[str, Any] = {
    "svg.fonttype": "none",  # text stays text
    "svg.image_inline": True,
    "font.size": 9.0,
    "axes.formatter.useoffset": False,
    "path.simplify": False,
}
_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_WITH_TEXT = (f"{{{_SVG}}}text", f"{{{_SVG}}}title", f"{{{_SVG}}}desc")
_GROUPS = (f"{{{_SVG}}}g", f"{{{_SVG}}}defs")
_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_FAMILY = re.compile(r"(?:font-family:|(?<=px)) *'[^;]*;? ?")  # the page's own font instead
_REFERENCE = re.compile(r"url\(#([^)]+)\)")


def make_chart() -> Chart:
    """Returns what draws charts.

    Returns:
        The function.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra(
            "the charts of a report need matplotlib",
            hint='pip install "deltavc[report]", or leave them out: deltavc report --no-charts',
            extra="report",
        ) from error

    def draw(series: Series, title: str, description: str) -> Markup:
        with mpl.rc_context():
            mpl.rcdefaults()  # nobody's own settings
            settings: Any = mpl.rcParams
            settings.update(_SETTINGS | {"svg.hashsalt": series.name})
            figure = Figure(figsize=(WIDTH, HEIGHT), facecolor="none")
            axes = figure.add_axes((0.075, 0.13, 0.885, 0.84), facecolor="none")
            _plot(axes, series)
            out = StringIO()
            figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
        return _inline(out.getvalue(), series.name, title, description)

    return draw


def _plot(axes: Any, series: Series) -> None:
    points = series.points
    low, high = _bounds(series)
    now = sorted((p for p in points if p.serving), key=lambda p: p.at)
    names, rows = _placed(now, series.span)
    top = high + ROW * rows * (high - low)
    axes.set_xlim(-0.5 - series.span * 0.01, series.span - 0.5 + series.span * 0.01)
    axes.set_ylim(low, top)
    for value, at_least, _ in series.limits:
        if low <= value <= high:
            failing = (low, value) if at_least else (value, top)
            axes.axhspan(*failing, color=LIMIT, alpha=0.08, linewidth=0)
            axes.axhline(value, color=LIMIT, linewidth=1.2, linestyle=(0, (5, 3)))
    if series.measured > len(points):
        _envelope(axes, points)
    else:
        for line in _lines(points):
            values = [p.value for p in line]
            axes.plot([p.at for p in line], values, color=POINT, linewidth=0.8, alpha=0.45)
    _bars(axes, points)
    _dots(axes, [p for p in points if not p.served and not p.serving], POINT, 9)
    _dots(axes, [p for p in points if p.served and not p.serving], SERVED, 26)
    _dots(axes, now, NOW, 34)
    where = [p.at for p in now], [p.value for p in now]
    axes.scatter(*where, s=120, facecolors="none", edgecolors=NOW)
    for point, (at, level) in zip(now, names, strict=True):
        height = top - ROW * (high - low) * (level + 0.5)
        axes.plot([point.at, point.at], [point.value, height], color=NOW, linewidth=0.7, alpha=0.5)
        text = _names(point)
        axes.text(
            at, height, text, color=NOW, fontweight="bold", ha="center", va="center",
            parse_math=False,
        )  # fmt: skip
    _dress(axes, series)


def _bars(axes: Any, points: Sequence[Point]) -> None:
    bars = [
        (p.at, p.low, p.high)
        for p in points
        if p.low is not None and p.high is not None and math.isfinite(p.low + p.high)
    ]
    if bars:
        axes.vlines(*zip(*bars, strict=True), color=POINT, linewidth=0.9, alpha=0.55)


def _envelope(axes: Any, points: Sequence[Point]) -> None:
    """Shades where the values of a thinned series lie: its points are ends of stretches."""
    stretches: dict[int, list[Point]] = {}
    for point in points:
        stretches.setdefault(point.at * STRETCHES // (points[-1].at + 1), []).append(point)
    axes.fill_between(
        [sum(p.at for p in found) / len(found) for found in stretches.values()],
        [min(p.value for p in found) for found in stretches.values()],
        [max(p.value for p in found) for found in stretches.values()],
        color=POINT,
        alpha=0.14,
        linewidth=0,
    )


def _names(point: Point) -> str:
    return ", ".join(visible(name, 40) for name in point.serving)


def _placed(now: Sequence[Point], span: int) -> tuple[list[tuple[float, int]], int]:
    """Finds places above the chart for the names of what is served: no name on another.

    Args:
        now: The served points, oldest first.
        span: Length of the axis.

    Returns:
        Middle and row of each name, and how many rows there are.
    """
    ends: list[float] = []  # where the last name of each row ends
    placed = []
    for point in now:
        half = len(_names(point)) * LETTER * span / 2
        at = min(max(point.at, half - 0.5), span - half)
        row = next((row for row, end in enumerate(ends) if end <= at - half), len(ends))
        ends[row : row + 1] = [at + half + LETTER * span]
        placed.append((at, row))
    return placed, len(ends)


def _dots(axes: Any, points: Sequence[Point], color: str, size: float) -> None:
    if points:
        axes.scatter(
            [p.at for p in points], [p.value for p in points], s=size, color=color, linewidths=0
        )


def _dress(axes: Any, series: Series) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.6g}"))
    axes.grid(axis="y", color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, colors=INK)
    days = [day(time) for _, time in series.dates]
    labels = [label if label not in days[:at] else "" for at, label in enumerate(days)]
    axes.set_xticks([at for at, _ in series.dates], labels)


def _bounds(series: Series) -> tuple[float, float]:
    """Returns the ends of the value axis: all values and near limits, wide bars cut."""
    values = [p.value for p in series.points]
    least, most = min(values), max(values)
    reach = (most - least) or abs(most) * 0.05 or 1.0
    ends = [end for p in series.points for end in (p.low, p.high) if end is not None]
    ends += [limit for limit, _, _ in series.limits]
    near = [end for end in ends if least - reach <= end <= most + reach]
    least, most = min([least, *near]), max([most, *near])
    room = 0.1 * ((most - least) or abs(most) or 1.0)
    return least - room, most + room


def _lines(points: Sequence[Point]) -> Iterator[list[Point]]:
    """Yields the points of each branch with more than one: a line of work to follow."""
    by_branch: dict[str | None, list[Point]] = {}
    for point in points:
        by_branch.setdefault(point.branch, []).append(point)
    yield from (line for line in by_branch.values() if len(line) > 1)


# from a drawing to a part of the page


def _inline(text: str, name: str, title: str, description: str) -> Markup:
    """Returns a drawing as a part of the page: its own ids, the page's colours and font."""
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _XLINK)
    root = ElementTree.fromstring(text)  # noqa: S314 - matplotlib wrote it, with escaped text
    _drop(root, {f"{{{_SVG}}}metadata", f"{{{_SVG}}}style", f"{{{_SVG}}}title"})
    for element in root.iter():
        if element.attrib.get("transform", "").startswith("rotate(-0 "):
            del element.attrib["transform"]
    used = set(_references(root))
    prefix = _slug(name)
    for element in root.iter():
        own = element.attrib.pop("id", None)
        if own in used:
            element.set("id", f"{prefix}-{own}")
        for key, value in element.attrib.items():
            element.set(key, _rewritten(value, key, prefix))
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    label, described = f"{prefix}-title", f"{prefix}-desc"
    root.attrib |= {
        "class": "chart",
        "role": "img",
        "aria-labelledby": f"{label} {described}",
        "stroke-linejoin": "round",
    }
    for at, (tag, oid, words) in enumerate(
        (("title", label, title), ("desc", described, description))
    ):
        element = ElementTree.Element(f"{{{_SVG}}}{tag}", {"id": oid})
        element.text = words
        root.insert(at, element)
    return Markup(ElementTree.tostring(root, encoding="unicode"))  # noqa: S704 - serialised XML


def _drop(root: Any, tags: set[str]) -> None:
    """Takes out elements of some kinds, and white space and groups that hold nothing."""
    for parent in root.iter():
        for child in list(parent):
            if child.tag in tags:
                parent.remove(child)
    for element in root.iter():
        if element.tag not in _WITH_TEXT:
            element.text = None
        element.tail = None
    for element in reversed(list(root.iter())):
        for child in list(element):
            if child.tag in _GROUPS and not len(child):
                element.remove(child)


def _references(root: Any) -> Iterator[str]:
    for element in root.iter():
        for key, value in element.attrib.items():
            if key == f"{{{_XLINK}}}href":
                yield value.removeprefix("#")
            yield from _REFERENCE.findall(value)


def _rewritten(value: str, key: str, prefix: str) -> str:
    if key == f"{{{_XLINK}}}href":
        return f"#{prefix}-{value.removeprefix('#')}"
    value = _REFERENCE.sub(lambda found: f"url(#{prefix}-{found[1]})", value)
    for color, variable in _COLORS.items():
        value = value.replace(color, variable)
    if key == "style":
        value = _FAMILY.sub("", value)
    return _NUMBER.sub(lambda found: f"{float(found[0]):.2f}".rstrip("0").rstrip("."), value)


def _slug(name: str) -> str:
    """Returns a name that may be an id in HTML, different for different names."""
    return "kpi-" + "".join(c if c.isascii() and c.isalnum() else f"-{ord(c):x}-" for c in name)
