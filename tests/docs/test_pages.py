"""The commands that the documentation shows do what it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import pages  # type: ignore[attr-defined]


@pytest.mark.parametrize("page", pages.pages(), ids=lambda path: str(path.relative_to(pages.DOCS)))
def test_page(page: Path, tmp_path: Path) -> None:
    wrong = pages.check(page, tmp_path)
    if wrong:
        advice = f"if the page is what is out of date: python tests/docs/pages.py {page}"
        pytest.fail("\n".join([*wrong, advice]), pytrace=False)


def test_a_wrong_page_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```console\n$ echo one 0123456789\none 9876543210\n$ echo two\ntoo\n```\n")
    (tmp_path / "run").mkdir()
    assert pages.check(page, tmp_path / "run")[0] == "$ echo two"


def test_ids_are_matched_by_their_order(tmp_path: Path) -> None:
    ids = pages.Ids()
    assert pages.matches(["a 1111111111 2222222222"], ["a 3333333333 4444444444"], ids)
    assert ids.translate("show 1111111111") == "show 3333333333"
    assert not pages.matches(["b 1111111111"], ["b 4444444444"], ids)
    assert pages.matches(["...", "took 1.5 s"], ["x", "y", "took 0.2 s"], ids)
