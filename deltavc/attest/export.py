"""The kinds of ``audit export`` that are about one revision: evidence, written to a file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from deltavc.attest.evidence import Request, make
from deltavc.codec.digest import sha256_hex
from deltavc.errors import RepositoryUnwritable, UsageError
from deltavc.repo import signing
from deltavc.repo.audit import head, require_whole_history
from deltavc.repo.audit_export import written
from deltavc.repo.results_audit import Exported

if TYPE_CHECKING:
    from deltavc.repo.repository import Repository

__all__ = ["export"]


def export(
    repo: Repository, output: Path, kind: str, asked: Request, *, sign: bool = False
) -> Exported:
    """Writes evidence about a revision to a file that is not there yet.

    Args:
        repo: The repository.
        output: The file.
        kind: One of :data:`deltavc.attest.evidence.KINDS`.
        asked: What is asked for.
        sign: Sign the file with the configured SSH key, beside: ``OUTPUT.sig``.

    Returns:
        What was written.

    Raises:
        UsageError: Something is there already, or more is needed for this kind.
        MissingExtra: The library of its standard is not installed.
        RepositoryUnwritable: The file cannot be written.
    """
    require_whole_history(repo, "audit export")
    signature = output.with_name(output.name + ".sig")
    for path in (output, signature) if sign else (output,):
        if os.path.lexists(path):
            raise UsageError(
                f"'{path}' is there already, and an export overwrites nothing",
                hint="choose another name",
                path=str(path),
            )
    if sign:
        signing.ready(repo, asked=True)
    data = make(repo, kind, asked)
    try:
        with written(output) as beside:
            beside.write_bytes(data)
    except OSError as error:
        raise RepositoryUnwritable(
            f"'{output}' cannot be written: {error.strerror or error}", path=str(output)
        ) from error
    if sign:
        signing.sign_file(repo, output)
    return Exported(
        kind=kind,
        path=str(output),
        files=1 + sign,
        bytes=len(data),
        events=0,
        head=head(repo),
        sha256=sha256_hex(data),
        signed_by=signing.principal(repo.session.actor) if sign else None,
    )
