"""``deltavc audit``: log, head, query, verify, export."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deltavc.cli import evidence, options, units
from deltavc.cli.tables import Column
from deltavc.cli.verb import argument, group, verb
from deltavc.cli.words import aligned, plural, ref_words, who
from deltavc.errors import UsageError
from deltavc.ids import is_object_id

if TYPE_CHECKING:
    from deltavc.cli.context import Context
    from deltavc.cli.output import Output
    from deltavc.repo.results_audit import AuditRow, AuditVerified, Exported, QueryAnswer

command = group(
    "audit",
    "Ask what happened, and check that nobody touched it.\n\n"
    "Every change is an event in a chained log. The head of the log, noted elsewhere, shows later "
    "whether the log was cut off or rewritten.",
)

TRAIL = ("jsonl", "csv", "sqlite", "pack")
"""What ``export --as`` takes of the trail: :data:`deltavc.repo.audit_export.KINDS`."""

LIST = "\0list"
"""What ``--saved`` says when it has no name."""


# log


@verb(
    "log",
    group=command,
    tabular=True,
    examples=[
        "deltavc audit log -l 20",
        "deltavc audit log --action deploy --action rollback --since '30 days ago'",
        "deltavc audit log --about env:production --format csv",
    ],
    exit_codes={20: "nothing has the name that --about gives"},
)
@options.since()
@options.until()
@click.option("--actor", metavar="TEXT", help="Only by this actor")
@click.option("--action", "actions", metavar="NAME", multiple=True, help="Only these verbs")
@click.option("--about", metavar="NAME", help="Only about this ref, environment or revision")
@options.limit("events")
def log(
    ctx: Context,
    since: int | None,
    until: int | None,
    actor: str | None,
    actions: tuple[str, ...],
    about: str | None,
    limit: int | None,
) -> None:
    """List events, newest first.

    Read from the log itself, so it works without the catalog. The order is that of the
    event numbers; where a clock stood before that of the event before, it is said.
    """
    from deltavc.repo import audit

    rows = audit.log(
        ctx.open_repository(),
        since=since,
        until=until,
        actor=actor,
        actions=actions,
        about=about,
        limit=limit,
    )
    out = ctx.out
    if out.is_human or out.is_document or out.manners.quiet:
        out.data(rows, human=lambda: _log_lines(out, rows), ids=(row.hash for row in rows))
    else:
        out.table(_LOG, (_flat(out, row) for row in rows))


_LOG = [
    Column("number", "count", title="event"),
    Column("time", "time", title="when"),
    Column("actor"),
    Column("user"),
    Column("host"),
    Column("command"),
    Column("summary"),
    Column("refs"),
    Column("reason"),
    Column("clock_back", "count", title="clock back (ms)"),
    Column("hash", "id"),
]


def _flat(out: Output, row: AuditRow) -> dict[str, Any]:
    return {
        "number": row.number,
        "time": row.time,
        "actor": row.actor,
        "user": row.user,
        "host": row.host,
        "command": row.command,
        "summary": row.summary,
        "refs": ", ".join(ref_words(out, ref) for ref in row.refs),
        "reason": row.reason,
        "clock_back": row.clock_back,
        "hash": row.hash,
    }


def _log_lines(out: Output, rows: Sequence[AuditRow]) -> Iterator[str]:
    cells = []
    for row in rows:
        what = out.foreign(row.summary)
        if row.reason:
            what += f"  ({out.foreign(row.reason)})"
        if row.clock_back:
            back = units.seconds(row.clock_back / 1000)
            what += "  " + out.style(f"clock {back} back", "warn")
        cells.append(
            (
                str(row.number),
                out.style(row.hash[:8], "id"),
                units.stamp(row.time),
                out.foreign(who(row.actor)),
                out.foreign(row.command),
                what,
            )
        )
    yield from aligned(cells, width=out.width, shrink=5) if cells else ["No events."]


# head


@verb("head", group=command, examples=["deltavc audit head > head.txt"])
def head(ctx: Context) -> None:
    """Print the number and the hash of the last event.

    Noted somewhere else, it shows later that nothing before it was changed and that the
    log was not cut off: deltavc audit verify --anchor FILE.
    """
    from deltavc.repo import audit

    found = audit.head(ctx.open_repository())
    ctx.out.data(found, human=f"{found.number} {found.hash}", ids=[found.hash])


# query


@verb(
    "query",
    group=command,
    tabular=True,
    examples=[
        "deltavc audit query --saved",
        "deltavc audit query --saved live-at --param at=2026-10-01T12:00Z",
        'deltavc audit query "select environment, revision, actor from v_deployments" --format csv',
        "deltavc audit query --views",
    ],
    exit_codes={1: "a saved query that should find nothing found something"},
)
@argument("sql", "One SELECT on the views; :NAME stands for a value", required=False)
@click.option(
    "--saved",
    metavar="NAME",
    is_flag=False,
    flag_value=LIST,
    help="Run a named query instead; without a name, list them",
)
@click.option(
    "--param",
    "values",
    metavar="KEY=VALUE",
    type=options.KEY_VALUE,
    multiple=True,
    help="Bind a value",
)
@click.option("--views", is_flag=True, help="Print the views and their columns")
@click.option(
    "-l",
    "--limit",
    metavar="N",
    type=click.IntRange(min=1, max=1_000_000),
    default=10_000,
    help="At most N rows; default: 10000",
)
@click.option(
    "--timeout",
    metavar="SECONDS",
    type=click.FloatRange(min=0, max=3600, min_open=True),
    default=10.0,
    help="Stop after this time; default: 10",
)
def query(
    ctx: Context,
    sql: str | None,
    saved: str | None,
    values: tuple[tuple[str, str], ...],
    views: bool,
    limit: int,
    timeout: float,
) -> int:
    """Ask the views of the catalog in SQL, or run a saved query.

    Only reading is possible: one statement, on a read-only connection, within limits of
    time and rows. Times of saved queries are written as everywhere: 2026-10-01, '3 h ago'.
    """
    if sum((sql is not None, saved is not None, views)) != 1:
        raise UsageError(
            "a query is one of: SQL, --saved, --views", hint="list the saved ones: --saved"
        )
    if views:
        _tell_views(ctx.out)
        return 0
    if saved == LIST:
        _tell_saved(ctx.out)
        return 0
    from deltavc.repo import audit_query

    limits = audit_query.Limits(seconds=timeout, rows=limit)
    repo = ctx.open_repository()
    if saved is None:
        assert sql is not None
        answer = audit_query.query(repo, sql, dict(values), limits=limits)
    else:
        given = _read_times(saved, dict(values))
        answer = audit_query.run_saved(repo, saved, given, limits=limits)
    _tell_answer(ctx.out, answer)
    return 1 if answer.expects_nothing and answer.rows else 0


def _read_times(saved: str, values: dict[str, str]) -> dict[str, str | int]:
    """Reads the times among the parameters as all verbs do."""
    from deltavc.repo.audit_query import find_saved

    times = {param.name for param in find_saved(saved).params if param.kind == "TIME"}
    return {
        name: options.TIME.convert(text, None, None) if name in times else text
        for name, text in values.items()
    }


def _tell_answer(out: Output, answer: QueryAnswer) -> None:
    def word(value: Any) -> str:
        if isinstance(value, float):
            return f"{value:.0f}" if value.is_integer() else f"{value:.6g}"
        return out.id(value) if isinstance(value, str) and is_object_id(value) else str(value)

    ids = [name for name in answer.columns if name in ("revision", "id")][:1]
    columns = [
        Column(name, "id" if name in ids else "text", title=name, missing="", word=word)
        for name in answer.columns
    ]
    empty = "No rows: as it should be." if answer.expects_nothing else "No rows."
    out.table(columns, answer.rows, empty=empty)
    if answer.cut:
        out.warn(f"cut after {plural(len(answer.rows), 'row')}; -l allows more")


def _tell_views(out: Output) -> None:
    from deltavc.repo.audit_query import views

    columns = [Column("view"), Column("column"), Column("meaning", shrink=True)]
    out.table(
        columns, ({"view": r.view, "column": r.column, "meaning": r.meaning} for r in views())
    )


def _tell_saved(out: Output) -> None:
    from deltavc.repo.audit_query import saved_queries

    columns = [
        Column("name"),
        Column("question"),
        Column("params"),
        Column("title", title="what it answers", shrink=True),
    ]
    rows = [
        {
            "name": row.name,
            "question": row.question,
            "params": [
                f"{p['name']}={p['kind']}" if p["default"] is None else f"[{p['name']}={p['kind']}]"
                for p in row.params
            ],
            "title": row.title,
            "expects_nothing": row.expects_nothing,
        }
        for row in saved_queries()
    ]
    out.table(columns, rows)


# verify


@verb(
    "verify",
    group=command,
    examples=["deltavc audit verify", "deltavc audit verify --deep --anchor head.txt"],
    exit_codes={1: "something is not as it should be"},
)
@click.option("--deep", is_flag=True, help="Also read every object that an event names")
@click.option("--anchor", metavar="FILE", help="Check against a head hash written earlier")
def verify(ctx: Context, deep: bool, anchor: str | None) -> int:
    """Check that nobody touched the history.

    The chain of the log, the objects that it names, the catalog's rows against the files,
    and the signatures. A chain alone cannot show that its end was cut off: --anchor can.
    """
    from deltavc.repo import audit_anchor, audit_verify

    noted = None if anchor is None else audit_anchor.read_anchor(ctx.directory / anchor)
    found = audit_verify.verify(ctx.open_repository(), deep=deep, anchor=noted)
    problems = [finding for finding in found.findings if finding.level == "problem"]
    ctx.out.data(
        found,
        human=lambda: _verify_lines(ctx.out, found),
        ids=[finding.code for finding in problems],
    )
    codes = {finding.code for finding in problems}
    if "catalog-differs" in codes:
        ctx.out.hint("rebuild", "make the catalog anew: deltavc doctor --rebuild-catalog")
    if codes & {"object-missing", "object-corrupt", "object-damaged"}:
        ctx.out.hint("fsck", "see who needs it: deltavc fsck")
    if anchor is None and found.ok:
        ctx.out.hint("anchor", "note the head somewhere else: deltavc audit head")
    return 0 if found.ok else 1


def _verify_lines(out: Output, found: AuditVerified) -> Iterator[str]:
    broken = found.first_broken
    chain = "chain whole" if broken is None else f"chain broken at event {broken}"
    role = "good" if broken is None else "bad"
    head = f"head {found.head.number} {found.head.hash}"
    yield f"{plural(found.events, 'event')}, {out.style(chain, role)}, {head}"
    if found.first_time is not None and found.last_time is not None:
        yield f"first event {units.stamp(found.first_time)}, last {units.stamp(found.last_time)}"
    if found.anchor is not None:
        bad = any(finding.code == "log-anchor" for finding in found.findings)
        word = out.style("is not in the log", "bad") if bad else "is in the log"
        yield f"noted head {found.anchor.number} {found.anchor.hash[:10]} {word}"
    objects = plural(found.objects, "object")
    if found.deep:
        yield f"{objects} read and compared with their ids"
    else:
        yield f"{objects} looked for (not read; --deep reads them)"
    rows = f"{plural(found.rows, 'row')} of the catalog compared with the files"
    yield rows if found.rows_full else f"{rows} (events and refs only)"
    if found.signatures:
        yield f"{plural(found.signatures, 'signature')} checked"
    for finding in found.findings:
        role = "bad" if finding.level == "problem" else "warn"
        yield f"  {out.style(finding.level.ljust(7), role)} {out.foreign(finding.message)}"
    problems = sum(finding.level == "problem" for finding in found.findings)
    warnings = len(found.findings) - problems
    yield f"{plural(warnings, 'warning')}, {plural(problems, 'problem')}"


# export


@verb(
    "export",
    group=command,
    examples=[
        "deltavc audit export --as pack -o q3.zip --since 2026-07-01 --until 2026-10-01 --sign",
        "deltavc audit export --as sqlite -o trail.db",
        "deltavc audit export --as csv -o trail/ --about env:production",
        "deltavc audit export --as cyclonedx -o bom.json --about v1.0",
        "deltavc audit export --as oms -o model.sig --about v1.0 --folder ./out --key-file key.pem",
    ],
    exit_codes={
        31: "the folder does not hold the revision",
        44: "the key cannot sign",
        60: "the extra 'attest' is not installed",
    },
)
@click.option("-o", "--output", metavar="FILE", required=True, help="File or folder")
@options.as_kind(
    "jsonl, csv, sqlite or pack; about one revision: oms, in-toto, cyclonedx or card",
    (*TRAIL, *evidence.KINDS),
    "jsonl",
)
@options.since()
@options.until()
@click.option(
    "--about", metavar="NAME", multiple=True, help="Only about these refs, environments, revisions"
)
@click.option(
    "--sign", is_flag=True, help="Sign the pack, or the document, with the configured key"
)
@click.option("--deep", is_flag=True, help="Put the weights into the pack too")
@evidence.particular
def export(
    ctx: Context,
    output: str,
    kind: str,
    since: int | None,
    until: int | None,
    about: tuple[str, ...],
    sign: bool,
    deep: bool,
    **particular: Any,
) -> None:
    """Write the trail, or a part of it, to a file or folder; or evidence about a revision.

    A pack is a zip that can be checked without deltavc, with sha256sum or with the script
    in it. Evidence about one revision (--about, default: HEAD) is for the tools of others: a
    signature of a checkout's files (oms), what the gates said (in-toto), a bill of materials
    (cyclonedx), a model card (card). Nothing that is there is overwritten.
    """
    from deltavc.repo import audit_export

    if sign:
        ctx.changes()  # who signs must be known
    if kind in evidence.KINDS:
        if since is not None or until is not None or deep or len(about) > 1:
            raise UsageError(
                f"an export as '{kind}' is about one revision",
                hint=f"deltavc audit export --as {kind} --about REV -o FILE",
            )
        evidence.write(ctx, output, kind, about[0] if about else "HEAD", particular, sign=sign)
        return
    evidence.refuse(kind, particular)
    done = audit_export.export(
        ctx.open_repository(),
        ctx.directory / output,
        kind,
        since=since,
        until=until,
        about=about,
        sign=sign,
        deep=deep,
        evidence=evidence.for_pack() if kind == "pack" else None,
    )
    ctx.out.data(
        done,
        human=lambda: _export_lines(ctx.out, done),
        ids=[done.sha256 if done.sha256 is not None else done.path],
    )
    if done.missing:
        ctx.out.warn(
            f"{plural(len(done.missing), 'object')} that the events name could not be read; "
            "the pack says which (deltavc fsck)"
        )
    if done.kind == "pack":
        ctx.out.hint("pack", f"check it: unzip {Path(done.path).name}, python3 -I verify.py")


def _export_lines(out: Output, done: Exported) -> Iterator[str]:
    signed = f", signed by {out.foreign(done.signed_by)}" if done.signed_by else ""
    name = out.foreign(Path(done.path).name)
    yield (
        f"Wrote {name}: {plural(done.events, 'event')}, {plural(done.files, 'file')}, "
        f"{units.size(done.bytes)}{signed}"
    )
    if done.sha256:
        yield f"  sha256 {done.sha256}"
    yield f"  head   {done.head.number} {done.head.hash}"
