"""``deltavc doctor``."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from deltavc.cli.verb import verb
from deltavc.cli.words import plural
from deltavc.errors import DeltavcError, NotARepository, RepositoryUnwritable, UsageError

if TYPE_CHECKING:
    from deltavc.cli.context import Context
    from deltavc.cli.output import Output
    from deltavc.repo.repository import Repository
    from deltavc.repo.results import DoctorReport, Finding


@verb(
    "doctor",
    light=True,
    examples=["deltavc doctor", "deltavc doctor --fix", "deltavc doctor --report doctor.txt"],
    exit_codes={1: "there are problems; warnings exit 0"},
)
@click.option(
    "--fix",
    is_flag=True,
    help="Repair what is safe to repair (left-over files, the catalog)",
)
@click.option(
    "--rebuild-catalog",
    is_flag=True,
    help="Rebuild the catalog from objects and the event log",
)
@click.option("--report", metavar="FILE", help="Write a redacted report for a bug report")
def command(ctx: Context, fix: bool, rebuild_catalog: bool, report: str | None) -> int:
    """Check the installation and the repository.

    Outside a repository, the installation alone. Nothing is changed without --fix
    or --rebuild-catalog.
    """
    from deltavc.repo.doctor import doctor

    findings = list(_settings(ctx))
    repo, found_there = _open(ctx, needed=fix or rebuild_catalog)
    findings += found_there
    done = doctor(repo, fix=fix, rebuild_catalog=rebuild_catalog)
    findings = [*done.findings, *findings]
    ok = not any(f.level == "problem" for f in findings)
    done = type(done)(ok=ok, findings=findings, fixed=done.fixed)
    if fix or rebuild_catalog:
        ctx.out.changed(bool(done.fixed))
    if report is not None:
        _write_report(ctx, done, ctx.directory / report, repo)
    problems = [f.code for f in findings if f.level == "problem"]
    ctx.out.data(done, human=lambda: _lines(ctx.out, done), ids=problems)
    _hints(ctx.out, done, repo)
    return 0 if ok else 1


def _settings(ctx: Context) -> Iterator[Finding]:
    """Reports settings that cannot be read, which every other verb refuses."""
    from deltavc.repo.results import Finding

    try:
        for text in ctx.settings.unknown:
            yield Finding(level="warn", code="setting-unknown", message=text)
    except DeltavcError as error:
        yield Finding(level="problem", code="settings", message=f"{error.message}; {error.hint}")


def _open(ctx: Context, *, needed: bool) -> tuple[Repository | None, list[Finding]]:
    from deltavc.repo.repository import Repository
    from deltavc.repo.results import Finding
    from deltavc.repo.session import Session

    # Not the session of other verbs: that one needs settings.
    session = Session(actor="", clock=ctx.clock, progress=ctx.out.progress)
    try:
        return Repository.open(ctx.start, session), []
    except NotARepository as error:
        if needed:
            raise
        message = f"{error.message}: only the installation was looked at"
        return None, [Finding(level="ok", code=error.slug, message=message)]
    except DeltavcError as error:
        return None, [Finding(level="problem", code=error.slug, message=error.message)]


def _lines(out: Output, done: DoctorReport) -> Iterator[str]:
    roles = {"ok": "good", "warn": "warn", "problem": "bad"}
    for finding in done.findings:
        word = out.style(finding.level.ljust(7), roles[finding.level])
        yield f"{word} {out.foreign(finding.message)}"
    for text in done.fixed:
        yield f"{out.style('fixed'.ljust(7), 'good')} {out.foreign(text)}"
    levels = [finding.level for finding in done.findings]
    yield f"{plural(levels.count('warn'), 'warning')}, {plural(levels.count('problem'), 'problem')}"


def _hints(out: Output, done: DoctorReport, repo: Repository | None) -> None:
    codes = {f.code for f in done.findings if f.level != "ok"}
    extras = sorted({f.subject for f in done.findings if f.code == "extra-missing"})
    if "catalog" in codes:
        out.hint("doctor-fix", "make the catalog anew: deltavc doctor --fix")
    if "base-unavailable" in codes:
        out.hint("base-moved", "say where the base is now: deltavc base add NAME PATH")
    if "switch-interrupted" in codes:
        out.hint("checkout", "write the workspace again: deltavc checkout HEAD")
    if "settings" in codes and repo is not None:
        out.hint("settings", "put the file right, or set it anew: deltavc config set KEY VALUE")
    if extras:
        out.hint("extras", f'pip install "deltavc[{",".join(extras)}]"')


_SECRET_URL = re.compile(r"(?<=//)[^/@\s]+@")
_MAIL = re.compile(r"[\w.+-]+@[\w-]+(\.[\w-]+)+")


def redact(text: str, replacements: dict[str, str]) -> str:
    """Masks what a report must not tell: credentials in URLs, mail addresses, personal paths.

    Args:
        text: What the report would say.
        replacements: Paths to replace, and by what; longer ones first.

    Returns:
        The text for the report.
    """
    text = _SECRET_URL.sub("***@", text)
    text = _MAIL.sub("***", text)
    for path, word in sorted(replacements.items(), key=lambda item: -len(item[0])):
        text = text.replace(path, word)
    return text


def _write_report(ctx: Context, done: DoctorReport, file: Path, repo: Repository | None) -> None:
    if file.exists():
        raise UsageError(
            f"'{file.name}' exists, and a report does not overwrite it", hint="choose another name"
        )
    hidden = {str(Path.home()): "HOME"}
    if repo is not None:
        hidden[str(repo.root)] = "REPOSITORY"
    lines = [
        "deltavc doctor report",
        f"system  {platform.system()} {platform.release()} {platform.machine()}",
        f"python  {platform.python_implementation()} {platform.python_version()}",
        *(f"{f.level.ljust(7)} {f.code}: {f.message}" for f in done.findings),
        *(f"fixed   {text}" for text in done.fixed),
    ]
    text = "".join(redact(line, hidden) + "\n" for line in lines)
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise RepositoryUnwritable(f"'{file}' cannot be written: {error.strerror}") from error
    ctx.out.note(f"wrote {file}")
