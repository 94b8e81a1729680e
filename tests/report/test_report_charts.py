"""Charts: the same for the same values, parts of a page, and honest about long series."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltavc.report.charts import make_chart
from deltavc.report.data import Point, Series, Version
from deltavc.report.thinning import MOST_POINTS, thinned

SVG = "{http://www.w3.org/2000/svg}"
PLOT = re.compile(r'd="M 48\.6 ')


@pytest.fixture(scope="module")
def chart():
    return make_chart()


def series(values, *, name="accuracy", **more):
    points = tuple(
        Point(Version(f"{n:064x}", "", "", 0), n, value, value - 0.1, value + 0.1)
        for n, value in enumerate(values)
    )
    fields = {"limits": (), "measured": len(points), "span": len(points), "dates": ((0, 0),)}
    return Series(name, "", "higher", "", points=points, **{**fields, **more})


def test_same_values_give_the_same_bytes(chart, report):
    for one in report.kpis:
        assert chart(one, "t", "d") == make_chart()(one, "t", "d")


def test_charts_of_a_page_share_no_id(chart, report):
    ids = [re.findall(r' id="([^"]+)"', chart(one, "t", "d")) for one in report.kpis]
    assert all(ids)
    assert not set(ids[0]) & set(ids[1])
    other = chart(replace(report.kpis[0], name="accuracy[rare]"), "t", "d")
    assert not set(ids[0]) & set(re.findall(r' id="([^"]+)"', other))


def test_chart_has_title_and_description_and_the_pages_colours(chart):
    svg = chart(series([0.5, 0.6]), "a <title>", "what it & shows")
    root = ElementTree.fromstring(svg)
    assert root[0].text == "a <title>"
    assert root[1].text == "what it & shows"
    assert root.attrib["role"] == "img"
    assert root.attrib["aria-labelledby"].split() == [root[0].attrib["id"], root[1].attrib["id"]]
    assert "style>" not in svg
    assert "metadata" not in svg
    assert "var(--chart-point)" in svg
    assert not re.search(r"#0\d0\d0\d", svg)


def uses(svg, color):
    return sum(
        color in (e.get("style") or "") for e in ElementTree.fromstring(svg).iter(f"{SVG}use")
    )


def test_every_point_and_every_limit_is_drawn(chart):
    plain = chart(series([0.5, 0.6, 0.55]), "t", "d")
    assert uses(plain, "--chart-point") == 3
    assert "--chart-limit" not in plain
    limited = chart(series([0.5, 0.6, 0.55], limits=((0.52, True, "accuracy >= 0.52"),)), "t", "d")
    assert limited.count("var(--chart-limit)") >= 2


def test_served_points_stand_out_and_are_named(chart):
    made = series([0.5, 0.6, 0.55])
    points = (
        replace(made.points[0], served=("production",)),
        replace(made.points[1], serving=("production", "staging")),
        replace(made.points[2], serving=("canary",)),
    )
    svg = chart(replace(made, points=points), "t", "d")
    assert uses(svg, "--chart-served") == 1
    texts = [e.text for e in ElementTree.fromstring(svg).iter(f"{SVG}text")]
    assert "production, staging" in texts
    assert "canary" in texts


def test_names_of_close_points_are_on_rows_of_their_own(chart):
    made = series([0.5] * 30)
    points = tuple(
        replace(p, serving=(f"environment-{p.at}",)) if p.at > 26 else p for p in made.points
    )
    root = ElementTree.fromstring(chart(replace(made, points=points), "t", "d"))
    rows = {
        e.attrib["y"] for e in root.iter(f"{SVG}text") if (e.text or "").startswith("environment-")
    }
    assert len(rows) == 3


@pytest.mark.parametrize(
    "values",
    [[0.5], [0.0, 0.0], [-1e300, 1e300], [1e-300, 2e-300], [5e15, 5e15 + 1], [math.pi] * 3],
)
def test_odd_values_can_be_drawn(chart, values):
    limits = ((0.9, True, "k >= 0.9"), (0.1, False, "k <= 0.1"))
    svg = chart(series(values, limits=limits), "t", "d")
    assert "nan" not in svg.lower()
    assert uses(svg, "--chart-point") == len(values)


def test_open_intervals_have_no_bar(chart):
    made = series([0.5, 0.6])
    points = (replace(made.points[0], high=math.inf), replace(made.points[1], low=None))
    assert "inf" not in chart(replace(made, points=points), "t", "d")


def test_hostile_names_are_escaped(chart):
    made = series([0.5, 0.6], name='k"><script>')
    points = tuple(replace(p, serving=("<script>$x$",)) for p in made.points)
    svg = chart(replace(made, points=points), '"><script>', "</desc><script>")
    assert "<script" not in svg
    ElementTree.fromstring(svg)


def test_without_matplotlib_the_extra_is_named(tmp_path):
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from deltavc.errors import MissingExtra\n"
        "from deltavc.report.charts import make_chart\n"
        "try:\n    make_chart()\n"
        "except MissingExtra as error:\n    print(error.exit_code, error.hint)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout.startswith('60 pip install "deltavc[report]"')
    assert "--no-charts" in done.stdout


@given(
    st.lists(st.floats(-1e6, 1e6), max_size=400),
    st.sets(st.integers(0, 399), max_size=20),
    st.integers(2, 60),
)
def test_thinning_keeps_what_matters(values, always, most):
    points = list(enumerate(values))
    kept = thinned(points, always, most)
    assert kept == [point for point in points if point in set(kept)]
    assert len(kept) <= most + len(always) + 2
    if len(points) <= most:
        assert kept == points
        return
    assert kept[0] == points[0]
    assert kept[-1] == points[-1]
    assert {at for at, _ in points} & always <= {at for at, _ in kept}
    assert min(value for _, value in kept) == min(values)
    assert max(value for _, value in kept) == max(values)


def test_a_long_series_is_thinned_to_a_charts_width():
    points = [(n, math.sin(n)) for n in range(10_000)]
    assert len(thinned(points, ())) <= MOST_POINTS + 2
