"""``deltavc status``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from deltavc.cli import units
from deltavc.cli.verb import verb
from deltavc.cli.words import SHOWN, kpi_words, number, place, plural

if TYPE_CHECKING:
    from deltavc.cli.context import Context
    from deltavc.cli.output import Output
    from deltavc.repo.repository import Repository
    from deltavc.repo.results import Status


MOST = 8
"""Environments that are shown; `env list` has all."""


@verb("status", examples=["deltavc status", "deltavc status --no-hash --json"])
@click.option("--no-hash", is_flag=True, help="Compare by size and time only")
def command(ctx: Context, no_hash: bool) -> None:
    """Show where things stand.

    Tensors are read only where a file is not as deltavc left it.
    """
    from deltavc.repo.status import status

    repo = ctx.open_repository()
    found = status(repo, hash_=not no_hash)
    ids = [found.head.commit] if found.head.commit else []
    ctx.out.data(found, human=lambda: _lines(ctx.out, found), ids=ids)
    _hints(ctx.out, repo, found)


def _lines(out: Output, found: Status) -> Iterator[str]:
    yield _head(out, found)
    yield ""
    yield from _workspace(out, found)
    if found.measurements:
        yield ""
        yield f"KPIs of HEAD: {kpi_words(found.measurements)}"
    if found.environments:
        if not found.measurements:
            yield ""
        yield _environments(out, found)


def _environments(out: Output, found: Status) -> str:
    """Returns what each environment serves, and how far that is from HEAD."""
    name = out.foreign(found.head.branch or "HEAD")
    words = []
    for one in found.environments[:MOST]:
        text = out.foreign(one.environment)
        text += " (nothing)" if one.revision is None else f" {out.id(one.revision)}"
        apart = [f"{_far(one.behind)} behind"] if one.behind else []
        apart += [f"{_far(one.ahead)} ahead of"] if one.ahead else []
        words.append(f"{text} ({', '.join(apart)} {name})" if apart else text)
    more = len(found.environments) - MOST
    return f"Environments: {'   '.join(words)}" + (f"   and {more} more" if more > 0 else "")


def _far(count: int) -> str:
    """Returns a number of revisions, which are not counted to the end."""
    from deltavc.repo.served import MOST as COUNTED

    return units.count(count) if count < COUNTED else f"{units.count(COUNTED)} or more"


def _head(out: Output, found: Status) -> str:
    head = found.head
    if head.commit is None:
        return f"On branch {out.style(head.branch or '', 'good')}, no revision yet"
    base = f"base {out.foreign(found.base_name or '')} {out.id(found.base or '')}"
    if head.branch is None:
        return f"HEAD detached at {out.id(head.commit)}, {base}"
    return f"On branch {out.style(head.branch, 'good')} at {out.id(head.commit)}, {base}"


def _workspace(out: Output, found: Status) -> Iterator[str]:
    if found.workspace is None:
        yield "No workspace: a bare repository"
        return
    where = f"Workspace {out.foreign(place(found.workspace))}"
    if found.interrupted:
        yield f"{where}  a rewrite was cut off; it is of no revision now"
    elif not found.workspace_exists:
        yield f"{where}  not written yet"
    elif found.head.commit is None:
        yield f"{where}  nothing to compare it with yet"
    elif found.clean:
        yield f"{where}  holds HEAD, nothing changed"
    elif found.workspace_commit is not None:
        written = out.id(found.workspace_commit)
        yield f"{where}  holds {written} as it was written, HEAD is elsewhere"
    elif not found.hashed:
        yield f"{where}  files are not as deltavc left them (their tensors were not compared)"
    else:
        yield where
        yield from _counts(out, found)


def _counts(out: Output, found: Status) -> Iterator[str]:
    largest = max(found.changed, key=lambda row: row["relative"] or 0.0, default=None)
    text = f"  changed  {plural(len(found.changed), 'parameter')}"
    if largest is not None and largest["relative"]:
        text += (
            f", largest relative change {number(largest['relative'])} "
            f"({out.foreign(largest['name'])})"
        )
    yield text
    yield f"  new      {_named(out, found.new)}"
    yield f"  missing  {_named(out, found.missing)}"
    if found.files:
        yield f"  files    {_named(out, found.files)} differ"


def _named(out: Output, names: list[str]) -> str:
    if not names:
        return "0"
    shown = ", ".join(out.foreign(name) for name in names[:SHOWN])
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{len(names)}: {shown}{more}"


def _hints(out: Output, repo: Repository, found: Status) -> None:
    """Offers what fits the state that was found."""
    name = found.head.branch or "HEAD"
    serving = [row.environment for row in found.environments if row.revision is not None]
    if serving:
        which = "production" if "production" in serving else serving[-1]
        away = f'deltavc rollback {which} --reason "..."'
        out.hint("rollback", f"in an incident:        {away}")
    if found.head.commit is None:
        if repo.base_names(repo.state()):
            out.hint("first-commit", 'record the first revision: deltavc commit PATH -m "why"')
        else:
            out.hint("init-base", "register the frozen model first: deltavc base add NAME PATH")
    elif found.workspace is None:
        return
    elif found.interrupted or not found.workspace_exists:
        out.hint("checkout", f"write it:            deltavc checkout {name}")
    elif found.clean is False and found.workspace_commit is None:
        out.hint("commit", 'record it:           deltavc commit -m "why"')
        out.hint("diff", "see what changed:    deltavc diff")
        out.hint("checkout", f"take it back:        deltavc checkout {name} --force")
    elif not found.clean and found.workspace_commit is not None:
        out.hint("checkout", f"bring it to HEAD:    deltavc checkout {name}")
    elif found.clean is None:
        out.hint("status", "compare its tensors: deltavc status")
