"""What may reach a terminal."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltavc.cli.terminal import ROLES, cut, escape, render, style, visible_width, wants_color

SGR = re.compile(r"\x1b\[[0-9;]*m")
ANY_TEXT = st.text(st.characters(), max_size=40)
BIDIRECTIONAL = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


def is_dangerous(char: str) -> bool:
    """Judges by Unicode's own properties, not by our list."""
    control = unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp")
    return (
        control or unicodedata.bidirectional(char) in BIDIRECTIONAL or char in "\u200e\u200f\u061c"
    )


@given(ANY_TEXT)
def test_foreign_text_never_controls_the_terminal(text: str) -> None:
    shown = render(text, color=False)
    assert not [char for char in shown if is_dangerous(char) and char not in "\n\t"]
    assert not [char for char in render(text, color=False, one_line=True) if is_dangerous(char)]


@given(ANY_TEXT, st.sampled_from(sorted(ROLES)))
def test_styled_foreign_text_ends_its_colour_and_brings_none(text: str, role: str) -> None:
    shown = render(f"<{style(text, role)}>", color=True)
    codes = SGR.findall(shown)
    assert codes[-1] == "\x1b[0m"
    assert len(codes) == 2
    assert not [char for char in SGR.sub("", shown) if is_dangerous(char)]
    assert SGR.sub("", shown) == render(f"<{style(text, role)}>", color=False)


def test_escapes_are_visible() -> None:
    assert render("a\x1b[31mb", color=True) == "a\\x1b[31mb"
    assert escape("x\u202ey\udc80\x9b") == "x\\u202ey\\udc80\\x9b"
    assert escape("two\nlines\t!") == "two\nlines\t!"
    assert escape("two\nlines\t!", one_line=True) == "two\\nlines\\t!"
    assert escape("naïve 模型 👩\u200d🔬") == "naïve 模型 👩\u200d🔬"


@given(ANY_TEXT.map(lambda text: escape(text, one_line=True)), st.integers(1, 30))
def test_cut_text_fits(text: str, width: int) -> None:
    marked = style(text, "id")
    assert visible_width(cut(marked, width)) <= width
    if visible_width(marked) <= width:
        assert cut(marked, width) == marked
    else:
        assert "…" in cut(marked, width)
    assert render(cut(marked, width), color=True).endswith("\x1b[0m")


def test_wide_characters_take_two_columns() -> None:
    assert visible_width("模型") == 4
    assert visible_width("e\u0301") == 1
    assert cut("模型模型", 5) == "模型…"


@pytest.mark.parametrize(
    ("when", "environ", "terminal", "expected"),
    [
        (None, {}, True, True),
        (None, {}, False, False),
        (None, {"TERM": "dumb"}, True, False),
        (None, {"NO_COLOR": "1"}, True, False),
        (None, {"NO_COLOR": ""}, True, True),
        (None, {"FORCE_COLOR": "1"}, False, True),
        (None, {"FORCE_COLOR": "0"}, False, False),
        (None, {"NO_COLOR": "1", "FORCE_COLOR": "1"}, True, False),
        ("always", {"NO_COLOR": "1"}, False, True),
        ("never", {"FORCE_COLOR": "1"}, True, False),
        ("auto", {}, True, True),
    ],
)
def test_colour_rules(
    when: str | None, environ: dict[str, str], terminal: bool, expected: bool
) -> None:
    assert wants_color(when, environ, terminal) is expected
