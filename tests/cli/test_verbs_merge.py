"""The command line of merge: what people read, what programs get, what is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

Run = Callable[..., Any]


def head(run: Run) -> str:
    return str(run("show", "HEAD", "-q").out.strip())


def ids(text: str) -> str:
    return re.sub(r"\b[0-9a-f]{10}\b", "ID", text)


class TestConflict:
    def test_people_see_how_the_sides_meet(self, branches: Run) -> None:
        before = head(branches)
        ran = branches("merge", "side")
        assert (ran.code, ran.out) == (30, "")
        first, row, *hints = ids(ran.err).splitlines()
        assert first == "error: 1 parameter changed on both sides since ID"
        assert re.fullmatch(
            r"  layers\.0\.q\.weight  cosine -?\d\.\d\d(  sign conflicts \d+%)?", row
        )
        assert hints == [
            'hint: choose for each: deltavc merge side --resolve "layers.0.q.weight=ours"',
            "hint: or add up:       deltavc merge side -s sum",
            "hint: or blend:        deltavc merge side -s ties --density 0.4",
        ]
        assert head(branches) == before

    def test_programs_get_all_of_it(self, branches: Run) -> None:
        for extra in ((), ("-n",)):
            document = branches("merge", "side", "--json", *extra).document
            assert document["ok"] is False
            error = document["error"]
            assert (error["slug"], error["exit_code"]) == ("merge-conflict", 30)
            (row,) = error["context"]["conflicts"]
            assert row["name"] == "layers.0.q.weight"
            assert len(row["norms"]) == 2


class TestMerge:
    def test_a_strategy_records_it(self, branches: Run) -> None:
        ran = branches("merge", "side", "-s", "sum")
        assert ran.code == 0
        first, counts, stored = ids(ran.out).splitlines()
        assert first == "[main ID] merge side with sum"
        assert counts.startswith("  4 parameters changed: 1 by sum, 3 from ours")
        assert "the rest shared; exact" in stored
        shown = branches("show", "HEAD").out
        assert ids(shown).count("parent    ID") == 2
        assert re.search(r"^merged    since [0-9a-f]{10}$", shown, re.MULTILINE)
        assert "merged    by sum" in shown
        assert branches("log", "-l", "1", "-q").out.strip() == head(branches)
        assert branches("fsck", "--deep").out.splitlines()[1].startswith("  1 merge done again")
        again = branches("merge", "side")
        assert (again.code, ids(again.out)) == (
            0,
            "Already up to date: main holds all of it (ID).\n",
        )

    def test_a_plan_changes_nothing(self, branches: Run) -> None:
        before = head(branches)
        ran = branches("merge", "side", "-s", "ties", "--density", "0.5", "-n")
        assert ran.code == 0
        assert ran.out.startswith("would commit on main: merge side with ties\n")
        assert re.search(r"layers\.0\.q\.weight +ties +\d", ran.out)
        document = branches("merge", "side", "-s", "sum", "-n", "--json").document
        assert document["data"]["changed"] is False
        assert document["data"]["would_change"] is True
        assert document["data"]["commit"] is None
        assert head(branches) == before

    def test_rules_and_message(self, branches: Run) -> None:
        ran = branches("merge", "side", "--resolve", "layers.0.*=theirs", "-m", "side it is")
        assert ids(ran.out).startswith("[main ID] side it is\n")
        recipe = branches("show", "HEAD", "--json").document["data"]["commit"]["recipe"]
        assert recipe["rules"] == ["layers.0.*=theirs"]
        assert recipe["outcomes"]["layers.0.q.weight"] == "theirs"
        assert "merged    layers.0.*=theirs" in branches("show", "HEAD").out

    def test_forward(self, branches: Run) -> None:
        branches("switch", "-c", "old", "--start", "main~2")
        assert branches("merge", "main", "-n").out.startswith("would move old forward to ")
        ran = branches("merge", "main", "--ff-only", "-q")
        assert ran.out.strip() == branches("show", "main", "-q").out.strip()
        branches("undo")
        ran = branches("merge", "main", "--no-ff")
        assert ids(ran.out).startswith("[old ID] merge main\n")

    def test_reverted_it_stays_out_and_the_hint_says_how_to_get_it_back(
        self, branches: Run
    ) -> None:
        branches("merge", "side", "-s", "sum")
        merged = head(branches)
        assert branches("revert", "HEAD").code == 2
        branches("revert", "HEAD", "--mainline", "1")
        assert "no difference" in branches("diff", "HEAD", f"{merged}~1").out
        ran = branches("merge", "side", "-s", "sum")
        short = head(branches)[:10]
        assert (
            f"hint: it was taken back by {short}; bring it back: deltavc revert {short}" in ran.err
        )
        branches("revert", short)
        assert "no difference" in branches("diff", "HEAD", merged).out


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["-s", "tise"], 2, "there is no merge strategy 'tise'"),
        (["-s", "sum", "--density", "0.5"], 2, "sum has no option 'density'"),
        (["-s", "ties", "--density", "2"], 2, "density"),
        (["-s", "linear", "--weights", "1"], 2, "linear has 1 weights for 2 sides"),
        (["--density", "0.4"], 2, "'density' is an option of a strategy"),
        (["--resolve", "x"], 2, "'x' is not a rule GLOB=CHOICE"),
        (["--resolve", "x=y"], 2, "there is no merge strategy 'y'"),
        (["--ff-only"], 33, "side cannot be reached by moving forward"),
        (["--ff-only", "--no-ff"], 2, "give --ff-only or --no-ff, not both"),
        (["-s", "ties", "--option", "sign=sideways"], 2, "sign"),
    ],
)
def test_refusals(branches: Run, options: list[str], code: int, message: str) -> None:
    before = head(branches)
    ran = branches("merge", "side", *options)
    assert ran.code == code
    assert message in ran.err
    assert ran.err.startswith("error: ")
    assert "hint: " in ran.err
    assert head(branches) == before


def test_nobody_to_merge(branches: Run) -> None:
    assert branches("merge").code == 2
    assert branches("merge", "nobody").code == 20
