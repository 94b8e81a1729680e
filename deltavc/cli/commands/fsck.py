"""``deltavc fsck``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from deltavc.cli import options, units
from deltavc.cli.verb import verb
from deltavc.cli.words import id_list, plural

if TYPE_CHECKING:
    from deltavc.cli.context import Context
    from deltavc.cli.output import Output
    from deltavc.repo.results import Checked, Finding


@verb(
    "fsck",
    examples=["deltavc fsck", "deltavc fsck --quick --only v1.0", "deltavc fsck --repair"],
    exit_codes={1: "there are problems"},
)
@click.option("--quick", is_flag=True, help="Names and sizes only")
@click.option(
    "--only", metavar="REV", multiple=True, type=options.REVISION, help="Just what these need"
)
@click.option("--repair", is_flag=True, help="Move damaged objects to quarantine")
@click.option("--deep", is_flag=True, help="Also do recorded merges again from their recipes")
def command(ctx: Context, quick: bool, only: tuple[str, ...], repair: bool, deep: bool) -> int:
    """Check that what is stored is whole.

    Reads every object and compares it with its id, follows every revision to what it
    needs, and verifies the chain of the event log. Nothing is ever deleted: --repair
    moves damaged files aside and saves what is whole in them.
    """
    from deltavc.repo import checks

    if repair:
        ctx.changes()
    found = checks.fsck(ctx.open_repository(), quick=quick, only=only, repair=repair, deep=deep)
    problems = [f for f in found.findings if f.level == "problem"]
    if repair:
        ctx.out.changed(bool(found.quarantined))
    ctx.out.data(
        found,
        human=lambda: _lines(ctx.out, found, quick=quick),
        ids=[finding.subject for finding in problems if finding.subject],
    )
    if any(_word(f) == "damaged" for f in problems) and not repair:
        ctx.out.hint("fsck-repair", "move damaged files aside: deltavc fsck --repair")
    if any(f.code == "catalog-differs" for f in problems):
        ctx.out.hint("rebuild", "make the catalog anew: deltavc doctor --rebuild-catalog")
    return 0 if found.ok else 1


def _word(finding: Finding) -> str:
    """Returns what is the matter with a subject, in one word."""
    if finding.code in ("object-corrupt", "pack-name") or finding.code.endswith("-damaged"):
        return "damaged"
    return {"object-missing": "missing", "salvaged": "saved"}.get(finding.code, finding.level)


def _lines(out: Output, found: Checked, *, quick: bool) -> Iterator[str]:
    problems = [f for f in found.findings if f.level == "problem"]
    if not problems:
        verdict = "all there (their content was not read)" if quick else "all whole"
    else:
        verdict = plural(len(problems), "problem")
    yield (
        f"{plural(found.objects, 'object')}, {plural(found.events, 'event')}: {verdict}, "
        f"{units.seconds(found.seconds)}"
    )
    if found.merges is not None:
        yield f"  {plural(found.merges, 'merge')} done again from their recipes"
    for finding in found.findings:
        yield _line(out, finding)
    for name in found.quarantined:
        yield f"  moved    {out.foreign(name)} to quarantine"


def _line(out: Output, finding: Finding) -> str:
    role = {"problem": "bad", "warn": "warn"}.get(finding.level, "good")
    about = out.foreign(finding.message)
    if finding.subject and finding.subject[:10] not in finding.message:
        about = f"{out.id(finding.subject)}  {about}"
    text = f"  {out.style(_word(finding).ljust(8), role)} {about}"
    if finding.needed_by:
        text += f", needed by {id_list(out, finding.needed_by)}"
    return text
