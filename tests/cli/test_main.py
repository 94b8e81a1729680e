"""The frame: exit codes, global options on both sides, suggestions, start-up."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deltavc.cli.verb import Verb, argument, verb
from deltavc.errors import BaseMismatch, MergeConflict
from deltavc.version import __version__

Run = Callable[..., Any]
HEAVY = {"torch", "numpy", "sqlalchemy", "alembic", "rich", "msgspec", "safetensors"}


def raising(error: BaseException) -> Verb:
    """Makes a verb that ends with an exception."""

    @verb("probe")
    def command(ctx: object) -> None:
        """Probe the frame."""
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code", "slug"),
    [
        (BaseMismatch("it belongs to 'a'", hint="look", found="a"), 25, "base-mismatch"),
        (MergeConflict("8 parameters changed on both sides"), 30, "merge-conflict"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (OSError(errno.ENOSPC, "no space", "a/b"), 14, "repository-unwritable"),
        (OSError(errno.EROFS, "read-only"), 14, "repository-unwritable"),
        (PermissionError(errno.EACCES, "denied", "x"), 14, "repository-unwritable"),
        (OSError(errno.EIO, "disk on fire"), 70, "internal"),
        (ZeroDivisionError("division by zero"), 70, "internal"),
        (RecursionError("too deep"), 70, "internal"),
    ],
)  # fmt: skip
def test_every_exception_has_its_code_a_sentence_and_a_document(
    error: BaseException, code: int, slug: str, deltavc: Run, register: Callable[[Verb], None]
) -> None:
    register(raising(error))
    ran = deltavc("probe")
    assert (ran.code, ran.out) == (code, "")
    assert ran.err.startswith("error: ")
    assert len(ran.err.splitlines()) <= 2
    assert "Traceback" not in ran.err
    assert type(error).__name__ not in ran.err
    document = deltavc("probe", "--json").document
    assert document["schema"] == "deltavc.probe/1"
    assert document["ok"] is False
    assert document["error"]["slug"] == slug
    assert document["error"]["exit_code"] == code
    assert set(document["error"]) == {"slug", "message", "hint", "exit_code", "context"}
    assert document["error"]["message"] in ran.err


def test_a_bug_says_where_and_shows_its_traceback_on_request(
    deltavc: Run, register: Callable[[Verb], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    register(raising(ZeroDivisionError("one by nought")))
    context = deltavc("probe", "--json").document["error"]["context"]
    assert context["exception"] == "ZeroDivisionError"
    assert context["text"] == "one by nought"
    assert "test_main.py:" in context["place"]
    monkeypatch.setenv("DELTAVC_DEBUG", "1")
    assert "Traceback" in deltavc("probe").err


def test_an_error_keeps_to_its_lines_and_its_context_always_has_a_form(
    deltavc: Run, register: Callable[[Verb], None]
) -> None:
    hostile = "x\x1b[2J\nerror: forged"
    register(raising(BaseMismatch(f"'{hostile}' is wrong", hint="a\nb", thing=object())))
    ran = deltavc("probe")
    assert ran.err == "error: 'x\\x1b[2J\\nerror: forged' is wrong\nhint: a\nhint: b\n"
    assert "object object" in deltavc("probe", "--json").document["error"]["context"]["thing"]


def test_ctrl_c_ends_a_process_with_130(tmp_path: Path) -> None:
    program = """
import sys, time, types
from deltavc.cli.verb import verb
from deltavc.cli.verbs import VERBS, VerbRow
from deltavc.cli.main import run
@verb("probe")
def command(ctx):
    '''Probe.'''
    ctx.out.line("ready"); sys.stdout.flush(); time.sleep(60)
VERBS["probe"] = VerbRow("Help", "Probe")
sys.modules["deltavc.cli.commands.probe"] = types.SimpleNamespace(command=command)
run()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program, "probe"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, b"error: interrupted\n")


@pytest.mark.parametrize("words", [("help", "glossary"), ("-h",), ("--json", "version")])
def test_a_reader_that_went_away_is_141_and_silence(
    words: tuple[str, ...], deltavc_process: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    ran = deltavc_process(*words, capture_output=False, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (ran.returncode, ran.stderr) == (141, "")


def test_a_full_device_for_stdout_is_an_error_and_no_traceback(
    deltavc_process: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    with open("/dev/full", "w") as full:
        ran = deltavc_process("version", capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert ran.returncode == 14
    assert "Traceback" not in ran.stderr
    assert ran.stderr.startswith("error: ")


def test_closed_streams_are_no_bug(
    deltavc_process: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    program = [sys.executable, "-c", "from deltavc.cli.main import run; run()"]
    shell = f"exec {program[0]} -c '{program[2]}' version >&- 2>&- <&-"
    assert subprocess.run(["sh", "-c", shell], timeout=60, check=False).returncode == 0
    ran = deltavc_process("version", env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (ran.returncode, ran.stdout) == (0, f"deltavc {__version__}\n")


GLOBAL = [
    (["--json"], lambda ran: ran.document["ok"] is True),
    (["--format", "jsonl"], lambda ran: json.loads(ran.out.splitlines()[-1])["summary"]["rows"]),
    (["--format=csv"], lambda ran: ran.out.startswith("key,value")),
    (["-q"], lambda ran: ran.out.splitlines()[0] == "core.bare"),
    (["--color", "always"], lambda ran: "\x1b[" in ran.out),
    (["--config", "ui.color=always"], lambda ran: "\x1b[" in ran.out),
    (["-C", "/"], lambda ran: ran.code == 0),
    (["--no-pager", "--no-input", "-y", "-vv"], lambda ran: ran.code == 0),
    (["--version"], lambda ran: ran.out == f"{__version__}\n"),
    (["-h"], lambda ran: "Usage: deltavc" in ran.out),
    (["--help", "--json"], lambda ran: "Usage" in ran.document["data"]["text"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "holds"), GLOBAL, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_global_options_work_before_between_and_after(
    words: list[str], holds: Callable[[Any], bool], place: int, deltavc: Run
) -> None:
    line = ["config", "list"]
    ran = deltavc(*line[:place], *words, *line[place:])
    assert ran.code == 0
    assert ran.err == ""
    assert holds(ran)


def test_the_later_of_two_formats_wins_and_overrides_add_up(deltavc: Run) -> None:
    assert deltavc("--json", "version", "--format", "human").out == f"deltavc {__version__}\n"
    ran = deltavc(
        "--config", "user.name=A", "config", "list", "--config", "user.email=b@c", "--format", "tsv"
    )
    assert "user.name\tA" in ran.out
    assert "user.email\tb@c" in ran.out


def test_directory_is_entered_for_this_run_only(deltavc: Run, tmp_path: Path) -> None:
    (tmp_path / "r" / ".deltavc").mkdir(parents=True)
    before = Path.cwd()
    assert deltavc("-C", tmp_path / "r", "config", "set", "workspace.path", "w").code == 0
    assert Path.cwd() == before
    assert (tmp_path / "r" / ".deltavc" / "config.toml").read_text() == '[workspace]\npath = "w"\n'
    ran = deltavc("config", "list", "-C", tmp_path / "missing")
    assert ran.code == 2
    assert "is not a folder that can be entered" in ran.err


def test_suggestions_can_be_pasted(deltavc: Run) -> None:
    ran = deltavc("-q", "verson", "--json")
    assert ran.code == 2
    assert ran.document["error"]["message"] == "no such command 'verson'"
    assert ran.document["error"]["hint"] == "did you mean: deltavc -q version --json"
    ran = deltavc("config", "lst")
    assert ran.err == "error: no such command 'lst'\nhint: did you mean: deltavc config list\n"
    ran = deltavc("config", "list", "--orign")
    assert ran.err == "error: no such option '--orign'\nhint: did you mean: --origin\n"
    assert deltavc("config", "list", "--jsn").err.endswith("hint: did you mean: --json\n")
    assert deltavc("xyzzy").err == "error: no such command 'xyzzy'\nhint: deltavc -h\n"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("config", "'deltavc config' needs one of: get, set, unset, list"),
        ("config get", "missing argument 'KEY'"),
        ("version extra", "got unexpected extra argument (extra)"),
        ("version --format xml", "invalid value for '--format': 'xml' is not one of"),
        ("version --format csv", "the answer of 'version' is not a table"),
        ("version --config nonsense", "invalid value for '--config': 'nonsense' is not KEY=VALUE"),
        ("completion tcsh", "invalid value for 'SHELL': 'tcsh' is not one of"),
    ],
)
def test_usage_errors_are_2_and_in_our_words(line: str, message: str, deltavc: Run) -> None:
    ran = deltavc(*line.split())
    assert ran.code == 2
    assert ran.err.startswith(f"error: {message}")
    assert "Usage:" not in ran.err
    if "--format" not in line:
        ran = deltavc(*line.split(), "--json")
        assert (ran.code, ran.err) == (2, "")
        assert ran.document["error"]["message"].startswith(message)


def test_a_format_inside_a_value_is_not_a_format(
    deltavc: Run, register: Callable[[Verb], None]
) -> None:
    @verb("probe")
    @argument("words", "Words", nargs=-1)
    def command(ctx: object, words: tuple[str, ...]) -> None:
        """Probe the frame."""
        ctx.out.line(" ".join(words))  # type: ignore[attr-defined]

    register(command)
    assert deltavc("probe", "--", "--json").out == "--json\n"


def test_a_mutating_verb_refuses_the_past(deltavc: Run, register: Callable[[Verb], None]) -> None:
    @verb("probe", mutating=True)
    def command(ctx: object) -> None:
        """Probe the frame."""

    register(command)
    assert deltavc("probe").code == 0
    ran = deltavc("--at-op", "4f1d", "probe")
    assert ran.code == 2
    assert "cannot run with --at-op" in ran.err


def test_a_default_format_that_a_verb_lacks_falls_back(
    deltavc: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DELTAVC_FORMAT", "json")
    assert deltavc("version").document["data"] == {"version": __version__}
    assert deltavc("version", "--format", "human").out.startswith("deltavc ")
    monkeypatch.setenv("DELTAVC_FORMAT", "csv")
    assert deltavc("version").out == f"deltavc {__version__}\n"
    assert deltavc("config", "list").out.startswith("key,value\n")
    monkeypatch.setenv("DELTAVC_FORMAT", "nonsense")
    ran = deltavc("config", "list")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error: DELTAVC_FORMAT: 'nonsense' is not a value")


@pytest.mark.parametrize(
    "line",
    ["--help", "", "version", "help", "help revisions", "completion bash", "config set -h", "nope"],
)
def test_light_lines_import_nothing_heavy(line: str) -> None:
    program = f"""
import sys
from deltavc.cli.main import main
main({line.split()!r})
print(sorted(set(sys.modules) & {HEAVY!r}), file=sys.stderr)
print([name for name in sys.modules if name.startswith("deltavc.cli.commands.")], file=sys.stderr)
"""
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    heavy, verbs = ran.stderr.splitlines()[-2:]
    assert heavy == "[]"
    if line in ("--help", "", "nope"):
        assert verbs == "[]"


def test_console_script_and_first_screen(deltavc: Run) -> None:
    script = Path(sys.executable).with_name("deltavc")
    ran = subprocess.run([script, "-h"], capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout == deltavc().out == deltavc("--help").out
    assert ran.stdout.startswith("Keep versions of an adapted model")


def test_verbs_reach_the_repository_with_their_surroundings(
    deltavc: Run, register: Callable[[Verb], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deltavc.cli.context import Context
    from deltavc.repo.initialise import init

    @verb("probe")
    def command(ctx: Context) -> None:
        """Probe the frame."""
        repo = ctx.open_repository()
        repo.warnings += ["a branch and a tag", "a branch and a tag"]
        session = repo.session
        ctx.out.data([str(repo.root), session.actor, session.clock(), session.threads])

    register(command)
    ran = deltavc("probe", "--json")
    assert (ran.code, ran.document["error"]["slug"]) == (10, "repository-not-found")
    root = tmp_path / "repository"

    @verb("found", mutating=True)
    def found(ctx: Context) -> None:
        """Found a repository."""
        init(root, ctx.session())

    register(found)
    assert deltavc("found").code == 0
    monkeypatch.setenv("DELTAVC_THREADS", "3")
    expected = [str(root), "", 1_800_000_000_000, 3]
    document = deltavc("probe", "--json", "-C", root).document
    assert (document["data"], document["warnings"]) == (expected, ["a branch and a tag"])
    monkeypatch.setenv("DELTAVC_DIR", str(root / ".deltavc"))
    assert deltavc("probe", "--json").document["data"] == expected
    ran = deltavc("probe", "--at-op", "00000000")
    assert (ran.code, ran.out) == (20, "")
    assert deltavc("probe", "--at-op", "@").code == 0
