"""Every kind of evidence by name, for one revision or for a pack of several."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from deltavc.attest.bom import VERSIONS, bill_of_materials
from deltavc.attest.extra import available
from deltavc.attest.intoto import gate_statement
from deltavc.attest.oms import sign_checkout
from deltavc.errors import IntegrityError, UsageError
from deltavc.ids import CommitId
from deltavc.repo.card import model_card
from deltavc.repo.revisions import resolve

if TYPE_CHECKING:
    from deltavc.repo.repository import Repository

__all__ = ["KINDS", "Kind", "Request", "for_pack", "make"]

BOM_LIBRARY = "cyclonedx.validation.json"
STATEMENT_LIBRARY = "in_toto_attestation.v1.statement"


@dataclass(frozen=True)
class Request:
    """What evidence is asked for, beside its kind.

    Attributes:
        rev: The revision that it is about.
        folder: A checkout of it; needed for ``oms``.
        key: The private key, PEM; needed for ``oms``.
        password: What the key is encrypted with.
        gates: Gates to ask for ``in-toto``; default: what a deployment recorded.
        against: The baseline for them.
        name: What the model is called, for ``cyclonedx``.
        spec: Version of CycloneDX.
    """

    rev: str
    folder: Path | None = None
    key: Path | None = None
    password: bytes | None = None
    gates: tuple[str, ...] = ()
    against: str | None = None
    name: str | None = None
    spec: str = VERSIONS[0]


@dataclass(frozen=True)
class Kind:
    """A kind of evidence.

    Attributes:
        name: What it is called.
        file: Name of its file, behind the revision's.
        told: What it is, in a few words.
        make: Makes it.
    """

    name: str
    file: str
    told: str
    make: Callable[[Repository, Request], bytes]


def _oms(repo: Repository, asked: Request) -> bytes:
    if asked.folder is None or asked.key is None:
        raise UsageError(
            "a model signature needs the files that it signs, and a key",
            hint="deltavc checkout REV --to DIR, then: --folder DIR --key-file KEY.pem",
        )
    return sign_checkout(
        repo, asked.rev, folder=asked.folder, key=asked.key, password=asked.password
    )


def _in_toto(repo: Repository, asked: Request) -> bytes:
    return gate_statement(
        repo, asked.rev, folder=asked.folder, gates=asked.gates, against=asked.against
    )


def _cyclonedx(repo: Repository, asked: Request) -> bytes:
    return bill_of_materials(repo, asked.rev, name=asked.name, folder=asked.folder, spec=asked.spec)


def _card(repo: Repository, asked: Request) -> bytes:
    return model_card(repo, resolve(repo, asked.rev))


KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("oms", "oms.sig", "OpenSSF model signature of a checkout", _oms),
        Kind("in-toto", "test-result.intoto.json", "in-toto test result of the gates", _in_toto),
        Kind("cyclonedx", "bom.cdx.json", "CycloneDX bill of materials", _cyclonedx),
        Kind("card", "card.md", "model card", _card),
    )
}
"""The kinds there are, by name."""


def make(repo: Repository, kind: str, asked: Request) -> bytes:
    """Returns evidence of one kind.

    Args:
        repo: The repository.
        kind: Its name, one of :data:`KINDS`.
        asked: What is asked for.

    Returns:
        The document.

    Raises:
        UsageError: There is no such kind, or it needs more than is given.
        MissingExtra: The library of its standard is not installed.
    """
    if kind not in KINDS:
        raise UsageError(
            f"'{kind[:40]}' is not a kind of evidence", hint=f"kinds: {', '.join(KINDS)}"
        )
    return KINDS[kind].make(repo, asked)


def for_pack(repo: Repository, revisions: Iterable[str]) -> dict[str, bytes]:
    """Returns all evidence that needs neither files nor a key, for the pack of an auditor.

    Without the extra there are the model cards alone. A revision that no gate was asked
    about has no test result, and one whose records are damaged has nothing.

    Args:
        repo: The repository.
        revisions: The revisions.

    Returns:
        Documents by path: ``evidence/COMMIT/…``.
    """
    found: dict[str, bytes] = {}
    bills, statements = available(BOM_LIBRARY), available(STATEMENT_LIBRARY)
    commits = list(dict.fromkeys(resolve(repo, rev) for rev in revisions))
    for number, commit in enumerate(commits):
        repo.session.progress("evidence", number, len(commits))
        asked = Request(commit)
        wanted = ["card"]
        if bills:
            wanted.append("cyclonedx")
        if statements and _was_judged(repo, commit):
            wanted.append("in-toto")
        with suppress(IntegrityError):  # the pack lists what is missing, and goes on
            documents = {KINDS[name].file: make(repo, name, asked) for name in wanted}
            found |= {f"evidence/{commit}/{file}": data for file, data in documents.items()}
    return found


def _was_judged(repo: Repository, commit: CommitId) -> bool:
    rows = repo.reader().deployments_of(commit)
    return any(row.gate_verdict is not None for row in rows)
