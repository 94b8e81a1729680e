"""What environments serve, told beside revisions: ``log``, ``show``, ``status``, completion."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]


SHOP = (
    "init",
    "base add tiny base",
    "commit adapter-1 -m change-0 --kpi acc=0.8",
    "commit full -m change-1 --kpi acc=0.9",
    "commit adapter-2 -m change-2 --kpi acc=0.8",
    "commit adapter-3 -m change-3 --kpi acc=0.9",
    "switch -c side --start HEAD~2",
    "commit base -m aside",
    "switch main",
    "env define production",
    "env define qa",
)


@pytest.fixture
def shop(deltavc: Run, models: Any, built: Run) -> list[str]:
    """Five revisions, the last on a branch of its own; two environments."""
    built(SHOP, deltavc)
    return [*deltavc("log", "-q").out.split()[::-1], deltavc("show", "side", "-q").out.strip()]


def serve(deltavc: Run, rev: str, env: str) -> None:
    ran = deltavc("deploy", rev, "--env", env, "--yes", "--reason", "x")
    assert ran.code == 0, ran.err


def told(deltavc: Run, rev: str) -> str:
    lines = [line for line in deltavc("show", rev).out.splitlines() if line.startswith("served")]
    return lines[0] if lines else ""


def test_show(deltavc: Run, shop: list[str]) -> None:
    short = [rev[:10] for rev in shop]
    assert told(deltavc, shop[0]) == "served by nobody yet"
    serve(deltavc, shop[0], "production")
    serve(deltavc, shop[1], "production")
    serve(deltavc, shop[1], "qa")
    assert told(deltavc, shop[1]) == "served by production, qa"
    assert told(deltavc, shop[3]) == (
        f"served by nobody yet; ancestor {short[1]} is in production, qa"
    )
    first = told(deltavc, shop[0])
    assert first.startswith("served by nobody now; production served it until 2027-")
    assert first.endswith(f"; descendant {short[1]} is in production, qa")
    serve(deltavc, shop[4], "qa")
    assert told(deltavc, shop[3]) == f"served by nobody yet; ancestor {short[1]} is in production"
    assert told(deltavc, shop[4]) == f"served by qa; ancestor {short[1]} is in production"
    rows = deltavc("show", shop[3], "--json").document["data"]["commit"]["served"]
    assert {(row["environment"], row["revision"], row["relation"]) for row in rows} == {
        ("production", shop[1], "ancestor"),
        ("qa", shop[4], "apart"),
    }


def test_without_environments_nothing_is_said(deltavc: Run, models: Any) -> None:
    deltavc("init")
    deltavc("base", "add", "tiny", "base")
    deltavc("commit", "full", "-m", "one")
    assert told(deltavc, "HEAD") == ""
    assert "Environments" not in deltavc("status").out
    assert deltavc("show", "HEAD", "--json").document["data"]["commit"]["served"] is None
    Path("deltavc.toml").write_text("[env.stage]\n")
    assert told(deltavc, "HEAD") == "served by nobody yet"
    assert "Environments: stage (nothing)" in deltavc("status").out


def test_status(deltavc: Run, shop: list[str]) -> None:
    serve(deltavc, shop[3], "production")
    short = [rev[:10] for rev in shop]
    ran = deltavc("status")
    assert f"KPIs of HEAD: acc 0.9\nEnvironments: production {short[3]}   qa (nothing)" in ran.out
    serve(deltavc, shop[0], "production")
    serve(deltavc, shop[4], "qa")
    assert (
        f"Environments: production {short[0]} (3 behind main)"
        f"   qa {short[4]} (2 behind, 1 ahead of main)"
    ) in deltavc("status").out
    assert deltavc("status", "--json").document["data"]["environments"] == [
        {"environment": "production", "revision": shop[0], "behind": 3, "ahead": 0},
        {"environment": "qa", "revision": shop[4], "behind": 2, "ahead": 1},
    ]


@pytest.mark.parametrize("text", ["[env.x]\nnonsense = 1\n", "env = 3\n"])
def test_status_stands_a_policy_that_makes_no_sense(
    deltavc: Run, shop: list[str], text: str
) -> None:
    serve(deltavc, shop[3], "production")
    Path("deltavc.toml").write_text(text)
    ran = deltavc("status")
    assert ran.code == 0
    assert f"Environments: production {shop[3][:10]}   qa (nothing)" in ran.out
    assert "warning:" in ran.err


def test_log_names_what_is_served(deltavc: Run, shop: list[str]) -> None:
    serve(deltavc, shop[1], "production")
    serve(deltavc, shop[4], "qa")
    deltavc("branch", "--delete", "side", "--yes")
    deltavc("branch", "qa", shop[0])
    lines = deltavc("log", "--all", "--graph").out.splitlines()
    named = {line.split()[-1]: line for line in lines if "change" in line or "aside" in line}
    assert "production" in named["change-1"]
    assert "env:qa" in named["aside"]  # not reachable by any branch, and told from the branch
    assert " qa " in named["change-0"]
    assert "aside" not in deltavc("log").out
    rows = deltavc("log", "--all", "--json").document["data"]
    assert {row["commit"]: row["environments"] for row in rows if row["environments"]} == {
        shop[1]: ["production"],
        shop[4]: ["qa"],
    }
    header, *rest = deltavc("log", "--format", "csv").out.splitlines()
    assert header.split(",")[:4] == ["commit", "branches", "tags", "environments"]
    assert [row.split(",")[3] for row in rest] == ["", "", "production", ""]


def test_as_it_was_before(deltavc: Run, shop: list[str]) -> None:
    serve(deltavc, shop[0], "production")
    before = deltavc("op", "log", "-l", "1", "-q").out.strip()
    serve(deltavc, shop[2], "production")
    rows = deltavc("log", "--all", "--json", "--at-op", before).document["data"]
    assert [row["commit"] for row in rows if row["environments"]] == [shop[0]]
    assert deltavc("show", shop[0], "--at-op", before).out.count("served by production") == 1


def test_a_kpi_is_drawn(deltavc: Run, on_terminal: Any, shop: list[str]) -> None:
    line = "acc  ▁█▁█  0.8 to 0.9, now 0.9; 4 revisions, oldest at the left"
    assert deltavc("log", "-k", "acc", "--graph").out.splitlines()[-1] == line
    assert "▁" not in deltavc("log", "-k", "acc").out
    assert "▁" not in deltavc("log", "-k", "acc", "--graph", "--json").out
    assert line in on_terminal("log", "-k", "acc", "--no-pager", columns=100).out
    assert "▁" not in on_terminal("log", "-k", "acc", "--no-graph").out
    code = "import sys; sys.stdout.reconfigure(encoding='ascii')"
    plain = on_terminal("log", "-k", "acc", "--no-pager", columns=100, code=code).out
    assert line.replace("▁█▁█", "_#_#") in plain
    deltavc("kpi", "add", "HEAD", "acc=nan", "new=1")
    lines = deltavc("log", "-k", "acc", "-k", "new", "--graph").out.splitlines()
    assert lines[-1] == "acc  ▁█▁?  0.8 to 0.9, now NaN; 4 revisions, oldest at the left"


def test_only_the_newest_are_drawn(deltavc: Run, shop: list[str], monkeypatch: Any) -> None:
    from deltavc.cli.commands import log

    monkeypatch.setattr(log, "MOST_DRAWN", 3)
    last = deltavc("log", "-k", "acc", "--graph").out.splitlines()[-1]
    assert last == "acc  █▁█  0.8 to 0.9, now 0.9; 3 of 4 revisions, oldest at the left"


# completion ---------------------------------------------------------------------


@pytest.fixture
def offered(deltavc_process: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """What a shell is offered for words; the last one is being typed."""

    def ask(*words: str, shell: str = "bash") -> list[str]:
        monkeypatch.setenv("_DELTAVC_COMPLETE", f"{shell}_complete")
        monkeypatch.setenv("COMP_WORDS", " ".join(("deltavc", *words)))
        monkeypatch.setenv("COMP_CWORD", str(len(words)))
        ran = deltavc_process()
        assert ran.stderr == ""
        return [line for line in ran.stdout.splitlines() if line]

    return ask


def test_names_are_offered(offered: Any, deltavc: Run, shop: list[str]) -> None:
    Path("deltavc.toml").write_text(
        '[env.canary]\n[env."$(x) *"]\n[kpi.latency]\ndirection = "lower"\n'
    )
    assert offered("show", "env:") == ["plain,env:production", "plain,env:qa", "plain,env:canary"]
    # bash takes the colon for the end of a word
    assert offered("show", "env", ":") == ["plain,production", "plain,qa", "plain,canary"]
    assert offered("show", "env", ":", "p") == ["plain,production"]
    assert offered("rollback", "p") == ["plain,production"]
    assert offered("env", "show", "c") == ["plain,canary"]
    assert offered("log", "-k", "la") == ["plain,latency"]
    serving = f"dv-{shop[0][:20]}"
    assert offered("show", serving[:9]) == [f"plain,{serving}"]
    assert offered("show", shop[0][:6]) == [f"plain,{shop[0][:10]}"]
    assert "plain,main" in offered("show", "")
    zsh = offered("show", shop[0][:6], shell="zsh")
    assert zsh == ["plain", shop[0][:10], "change-0"]
    Path("deltavc.toml").write_text("[env")
    assert offered("rollback", "c") == []


def test_a_subject_cannot_break_the_answer(offered: Any, deltavc: Run, shop: list[str]) -> None:
    ran = deltavc("commit", "adapter-1", "-m", "a\tb\x1b[2J\nplain\nevil", "-q")
    oid = ran.out.strip()
    assert offered("show", oid[:8], shell="zsh") == ["plain", oid[:10], "a\\tb\\x1b[2J"]


def test_the_document_of_show_is_json(deltavc: Run, shop: list[str]) -> None:
    serve(deltavc, shop[0], "qa")
    assert json.loads(deltavc("show", f"dv-{shop[0][:20]}", "--json").out)["data"]["id"] == shop[0]
