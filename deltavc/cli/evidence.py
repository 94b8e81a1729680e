"""What ``audit export`` asks and says where it is about one revision."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from deltavc.cli import options, units
from deltavc.errors import UsageError

if TYPE_CHECKING:
    from deltavc.cli.context import Context
    from deltavc.cli.output import Output
    from deltavc.repo.audit_export import Evidence
    from deltavc.repo.results_audit import Exported

__all__ = ["KINDS", "for_pack", "particular", "refuse", "write"]

KINDS = ("oms", "in-toto", "cyclonedx", "card")
"""The kinds of :data:`deltavc.attest.evidence.KINDS`, known without importing them."""

F = TypeVar("F", bound=Callable[..., Any])
_OPTIONS = (
    click.option(
        "--folder", metavar="DIR", help="Checkout of the revision, whose files the evidence names"
    ),
    click.option("--key-file", metavar="FILE", help="Private key in PEM form, for oms"),
    click.option(
        "--gate",
        "gates",
        metavar="NAME",
        multiple=True,
        type=options.GATE,
        help="Gate to ask for in-toto; default: what its deployment recorded",
    ),
    click.option("--against", metavar="REV", type=options.REVISION, help="Baseline of the gates"),
    click.option("--name", metavar="TEXT", help="What cyclonedx calls the model"),
    click.option(
        "--spec", metavar="VERSION", help="Version of CycloneDX, 1.6 or 1.7; default: 1.6"
    ),
)
_WANT = {
    "folder": ("oms", "in-toto", "cyclonedx"),
    "key_file": ("oms",),
    "gates": ("in-toto",),
    "against": ("in-toto",),
    "name": ("cyclonedx",),
    "spec": ("cyclonedx",),
}


def particular(command: F) -> F:
    """Adds the options of evidence."""
    for add in reversed(_OPTIONS):
        command = add(command)
    return command


def refuse(kind: str, given: Mapping[str, Any]) -> None:
    """Refuses options that an export of a kind would pass over.

    Raises:
        UsageError: There is one.
    """
    for name, value in given.items():
        if value and kind not in _WANT[name]:
            option = "gate" if name == "gates" else name.replace("_", "-")
            raise UsageError(
                f"an export as '{kind}' takes no --{option}",
                hint=f"that is for: {', '.join(_WANT[name])}",
            )


def for_pack() -> Evidence:
    """Returns what makes the documents of a pack."""
    from deltavc.attest.evidence import for_pack as made

    return made


def write(
    ctx: Context, output: str, kind: str, rev: str, given: Mapping[str, Any], *, sign: bool
) -> None:
    """Writes evidence about a revision, and says so."""
    from deltavc.attest.evidence import Request
    from deltavc.attest.export import export

    refuse(kind, given)
    asked = Request(
        rev,
        folder=_path(ctx, given["folder"]),
        key=_path(ctx, given["key_file"]),
        gates=given["gates"],
        against=given["against"],
        name=given["name"],
        spec=given["spec"] or Request.spec,
    )
    done = export(ctx.open_repository(), ctx.directory / output, kind, asked, sign=sign)
    ctx.out.data(done, human=lambda: _lines(ctx.out, done), ids=[done.sha256 or done.path])


def _path(ctx: Context, given: str | None) -> Path | None:
    return None if given is None else ctx.directory / given


def _lines(out: Output, done: Exported) -> Iterator[str]:
    from deltavc.attest import evidence

    signed = f", signed by {out.foreign(done.signed_by)}" if done.signed_by else ""
    name = out.foreign(Path(done.path).name)
    yield f"Wrote {name}: {evidence.KINDS[done.kind].told}, {units.size(done.bytes)}{signed}"
    yield f"  sha256 {done.sha256}"
