"""Settings: order, origins, refusals; the verbs of config; the small TOML writer."""

from __future__ import annotations

import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltavc.cli.actor import find_actor
from deltavc.cli.context import clock, user_settings_file
from deltavc.cli.settings import SETTINGS, find, parse
from deltavc.cli.toml import edit, quoted
from deltavc.errors import UsageError

Run = Callable[..., Any]


@pytest.fixture
def repository() -> Path:
    folder = Path.cwd() / ".deltavc"
    folder.mkdir()
    return folder


def user_file(content: str) -> Path:
    path = user_settings_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def origin(deltavc: Run, key: str, *options: str) -> tuple[Any, str]:
    data = deltavc("config", "get", key, "--json", *options).document["data"]
    return data["value"], data["origin"]


def test_later_sources_win_and_say_where_from(
    deltavc: Run, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "compute.threads"
    assert origin(deltavc, key) == (None, None)
    path = user_file("[compute]\nthreads = 1\n")
    assert origin(deltavc, key) == (1, str(path))
    extra = Path("extra.toml").absolute()
    extra.write_text("compute.threads = 2\n")
    monkeypatch.setenv("DELTAVC_CONFIG", str(extra))
    assert origin(deltavc, key) == (2, str(extra))
    config = repository / "config.toml"
    config.write_text("[compute]\nthreads = 3\n")
    assert origin(deltavc, key) == (3, str(config))
    monkeypatch.setenv("DELTAVC_THREADS", "4")
    assert origin(deltavc, key) == (4, "DELTAVC_THREADS")
    assert origin(deltavc, key, "--config", "compute.threads=5") == (5, "--config")
    assert origin(deltavc, "ui.color") == ("auto", "built-in")
    Path("deeper").mkdir()
    ran = deltavc("-C", "deeper", "config", "list", "--origin", "--format", "tsv")
    assert "compute.threads\t4\tDELTAVC_THREADS" in ran.out


def test_set_unset_and_doing_it_twice(deltavc: Run, repository: Path) -> None:
    config = repository / "config.toml"
    config.write_text("# kept\n[core]\nbare = false # too\n")
    first = deltavc("config", "set", "compute.threads", "2", "--json").document["data"]
    assert (first["value"], first["before"], first["changed"]) == (2, None, True)
    again = deltavc("config", "set", "compute.threads", "2", "--json").document["data"]
    assert again["changed"] is False
    assert config.read_text() == "# kept\n[core]\nbare = false # too\n\n[compute]\nthreads = 2\n"
    assert deltavc("config", "unset", "compute.threads", "-n").out.startswith("would be: ")
    assert deltavc("config", "get", "compute.threads").out == "2\n"
    assert deltavc("config", "unset", "compute.threads").code == 0
    ran = deltavc("config", "get", "compute.threads")
    assert (ran.code, ran.out, ran.err) == (1, "", "")
    assert (
        deltavc("config", "unset", "compute.threads", "--json").document["data"]["changed"] is False
    )
    assert not list(repository.glob(".config*"))


def test_the_user_file(deltavc: Run) -> None:
    assert deltavc("config", "set", "--user", "user.name", 'Ada "L"').code == 0
    assert tomllib.loads(user_settings_file().read_text()) == {"user": {"name": 'Ada "L"'}}
    assert deltavc("config", "get", "user.name", "-q").out == 'Ada "L"\n'
    ran = deltavc("config", "set", "user.name", "Ada")
    assert ran.code == 10, "without a repository there is no other file"


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (["set", "ui.colour", "a"], "there is no setting 'ui.colour'", "did you mean 'ui.color'"),
        (["get", "zzz"], "there is no setting 'zzz'", "list the settings: deltavc config list"),
        (["get", "hints"], "there is no setting 'hints'", ""),
        (["set", "--user", "ui.color", "pink"], "'pink' is not a value", "it takes one of: auto"),
        (["set", "--user", "compute.threads", "0"], "'0' is not a value", "it takes a number"),
        (["set", "--user", "hints.x", "maybe"], "'maybe' is not a value", "it takes true or false"),
        (["set", "ui.pager", "less"], "setting 'ui.pager' is", "deltavc config set --user"),
        (["list", "--config", "ui.colr=x"], "there is no setting 'ui.colr'", "did you mean 'ui."),
    ],
)  # fmt: skip
def test_what_is_no_setting_is_refused(
    words: list[str], message: str, hint: str, deltavc: Run, repository: Path
) -> None:
    ran = deltavc("config", *words)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith(f"error: {message}")
    assert f"hint: {hint}" in ran.err
    assert not (repository / "config.toml").exists()


def test_a_repository_cannot_choose_the_pager(deltavc: Run, repository: Path) -> None:
    (repository / "config.toml").write_text('[ui]\npager = "touch pwned"\ncolr = 1\n')
    ran = deltavc("config", "get", "ui.pager")
    assert (ran.code, ran.out) == (1, "")
    assert "setting 'ui.pager' is ignored" in ran.err
    assert "there is no setting 'ui.colr'" in ran.err
    assert "did you mean 'ui.color'" in ran.err


def test_policy_files_hold_policy_only(deltavc: Run, repository: Path) -> None:
    Path("deltavc.toml").write_text('[kpi.accuracy]\ndirection = "higher"\n')
    assert deltavc("config", "list").code == 0
    Path("deltavc.toml").write_text('[user]\nname = "Mallory"\n')
    ran = deltavc("config", "list")
    assert ran.code == 2
    assert "is for policy only" in ran.err


@pytest.mark.parametrize("content", [b"[broken", b"\xff\xfe", b"a = 1\na = 2\n"])
def test_a_broken_file_is_named_and_help_still_works(content: bytes, deltavc: Run) -> None:
    user_file("").write_bytes(content)
    ran = deltavc("config", "list")
    assert ran.code == 2
    assert str(user_settings_file()) in ran.err
    for line in (["-h"], ["version"], ["help", "environment"], ["config", "set", "-h"]):
        assert deltavc(*line).code == 0
    user_settings_file().unlink()
    user_settings_file().mkdir()
    assert deltavc("config", "list").code == 2


def test_a_folder_that_cannot_be_written(deltavc: Run, repository: Path) -> None:
    (repository / "config.toml").mkdir()
    ran = deltavc("config", "set", "user.name", "x")
    assert ran.code == 2
    assert "cannot be read" in ran.err
    home = user_settings_file().parent
    home.parent.mkdir(parents=True)
    home.write_text("a file where the folder should be")
    ran = deltavc("config", "set", "--user", "user.name", "x", "-C", "/")
    assert ran.code == 14
    assert "cannot be written" in ran.err


def test_hints_are_silenced_by_setting_and_variable(
    deltavc: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "hint:" in deltavc("nope").err
    monkeypatch.setenv("DELTAVC_HINTS", "0")
    assert deltavc("nope").err == "error: no such command 'nope'\n"
    assert deltavc("config", "get", "hints.actor").out == "true\n"


KEYS = st.sampled_from([key for key in SETTINGS if "." in key])
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(TEXT)
def test_quoted_texts_read_back(text: str) -> None:
    assert tomllib.loads(f"a = {quoted(text)}") == {"a": text}


@given(
    st.lists(st.tuples(KEYS, TEXT | st.booleans() | st.integers(0, 99) | st.none()), max_size=12)
)
def test_edits_do_what_a_dictionary_does(edits: list[tuple[str, Any]]) -> None:
    content = '# top\n\n[ui]  # why\ncolor = "auto"\n\n[other."x.y"]\nz = [1,\n  2]\n'
    expected = tomllib.loads(content)
    for key, value in edits:
        table, name = key.split(".")
        content = edit(content, key, value)
        if value is None:
            expected.get(table, {}).pop(name, None)
        else:
            expected.setdefault(table, {})[name] = value
        read = tomllib.loads(content)
        assert {k: v for k, v in read.items() if v} == {k: v for k, v in expected.items() if v}
        assert "# top" in content
        assert "# why" in content


@pytest.mark.parametrize(
    "content", ["user = {name = 'x'}\n", 'user.name = """\nx"""\n', "user = 3\n", "[[user]]\n"]
)
def test_artful_files_are_refused_not_rewritten(content: str) -> None:
    with pytest.raises(UsageError, match="cannot be changed in"):
        edit(content, "user.name", "y")


def test_values_get_their_type() -> None:
    assert parse("core.bare", "yes") is True
    assert parse("hints.base-add", False) is False
    assert parse("compute.threads", "12") == 12
    for key, value in [("compute.threads", "²"), ("compute.threads", True), ("user.name", 3)]:
        with pytest.raises(UsageError):
            parse(key, value)
    assert find("hints.whatever") is SETTINGS["hints"]


def test_who_acts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    environ = {"DELTAVC_ACTOR": " Ada <a@b> "}
    assert find_actor(environ, "Kai", None) == ("Ada <a@b>", True)
    assert find_actor({}, "Kai", "k@x") == ("Kai <k@x>", True)
    assert find_actor({}, "Kai", None) == ("Kai", True)
    actor, certain = find_actor({}, None, None)
    assert not certain
    assert actor
    subprocess.run(["git", "config", "--global", "user.name", "Git\u00e9"], check=True)
    subprocess.run(["git", "config", "--global", "user.email", "g@x"], check=True)
    assert find_actor({}, None, None) == ("Git\u00e9 <g@x>", True)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_actor({}, None, None) == (actor, False)
    for forged in ("a\nb", "x" * 201, "\u202ename"):
        with pytest.raises(UsageError):
            find_actor({"DELTAVC_ACTOR": forged}, None, None)


def test_the_clock_can_be_fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert clock() == 1_700_000_000_000
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(UsageError):
        clock()
    monkeypatch.delenv("SOURCE_DATE_EPOCH")
    assert clock() > 1_700_000_000_000
