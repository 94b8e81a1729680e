"""The verbs of the audit trail in the Python API; see :mod:`deltavc.api`."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deltavc.repo import results_audit
    from deltavc.repo.repository import Repository

__all__ = ["Auditing"]

PathLike = str | os.PathLike[str]
Value = str | int | float | bytes | None


class Auditing:
    """What :class:`deltavc.api.Repository` can say of its history, and prove."""

    _repo: Repository

    def audit_log(
        self,
        *,
        since: int | None = None,
        until: int | None = None,
        actor: str | None = None,
        actions: Collection[str] = (),
        about: str | None = None,
        limit: int | None = None,
    ) -> list[results_audit.AuditRow]:
        """Returns events, newest first; see :func:`deltavc.repo.audit.log`."""
        from deltavc.repo import audit

        return audit.log(
            self._repo,
            since=since,
            until=until,
            actor=actor,
            actions=actions,
            about=about,
            limit=limit,
        )

    def audit_head(self) -> results_audit.AuditHead:
        """Returns the last event's number and hash, to be noted somewhere else."""
        from deltavc.repo import audit

        return audit.head(self._repo)

    def query(
        self,
        sql: str,
        values: Mapping[str, Value] | None = None,
        *,
        seconds: float = 10.0,
        rows: int = 10_000,
    ) -> results_audit.QueryAnswer:
        """Runs one SELECT on the views, reading only; see :func:`deltavc.repo.audit_query.query`.

        Args:
            sql: The statement; ``:name`` stands for a value.
            values: The values by name.
            seconds: Time that it may take.
            rows: Rows of the answer; beyond them it is cut, and says so.

        Returns:
            The rows.
        """
        from deltavc.repo.audit_query import Limits, query

        return query(self._repo, sql, values, limits=Limits(seconds, rows))

    def saved_query(
        self,
        name: str,
        params: Mapping[str, str | int] | None = None,
        *,
        seconds: float = 10.0,
        rows: int = 10_000,
    ) -> results_audit.QueryAnswer:
        """Runs a saved query; see :func:`deltavc.repo.audit_query.run_saved`."""
        from deltavc.repo.audit_query import Limits, run_saved

        return run_saved(self._repo, name, params, limits=Limits(seconds, rows))

    def saved_queries(self) -> list[results_audit.SavedRow]:
        """Returns the saved queries: names, what they answer, what they want to know."""
        from deltavc.repo.audit_query import saved_queries

        return saved_queries()

    def audit_verify(
        self, *, deep: bool = False, anchor: tuple[int, str] | PathLike | None = None
    ) -> results_audit.AuditVerified:
        """Looks for tampering; see :func:`deltavc.repo.audit_verify.verify`.

        Args:
            deep: Also read every object that an event names, and compare all rows.
            anchor: A head that was noted earlier: number and hash, or a file with both.

        Returns:
            What was found.
        """
        from deltavc.ids import EventHash
        from deltavc.ledger.protocol import Head
        from deltavc.repo.audit_anchor import read_anchor
        from deltavc.repo.audit_verify import verify

        noted = None
        if isinstance(anchor, tuple):
            noted = Head(int(anchor[0]), EventHash(anchor[1]))
        elif anchor is not None:
            noted = read_anchor(Path(anchor))
        return verify(self._repo, deep=deep, anchor=noted)

    def audit_export(
        self,
        output: PathLike,
        kind: str,
        *,
        since: int | None = None,
        until: int | None = None,
        about: Sequence[str] = (),
        sign: bool = False,
        deep: bool = False,
    ) -> results_audit.Exported:
        """Writes the trail to a file or folder; see :func:`deltavc.repo.audit_export.export`."""
        from deltavc.attest.evidence import for_pack
        from deltavc.repo.audit_export import export

        return export(
            self._repo,
            Path(output),
            kind,
            since=since,
            until=until,
            about=about,
            sign=sign,
            deep=deep,
            evidence=for_pack if kind == "pack" else None,
        )

    def evidence(
        self,
        kind: str,
        rev: str = "HEAD",
        *,
        folder: PathLike | None = None,
        key: PathLike | None = None,
        password: bytes | None = None,
        gates: Sequence[str] = (),
        against: str | None = None,
        name: str | None = None,
        spec: str = "1.6",
    ) -> bytes:
        """Returns a document about a revision; see :func:`deltavc.attest.evidence.make`.

        Args:
            kind: ``oms``, ``in-toto``, ``cyclonedx`` or ``card``.
            rev: The revision.
            folder: A checkout of it.
            key: A private key, PEM, for ``oms``.
            password: What the key is encrypted with.
            gates: Gates to ask for ``in-toto``; default: what a deployment recorded.
            against: The baseline for them.
            name: What the model is called, for ``cyclonedx``.
            spec: Version of CycloneDX.
        """
        from deltavc.attest.evidence import Request, make

        asked = Request(
            rev,
            folder=None if folder is None else Path(folder),
            key=None if key is None else Path(key),
            password=password,
            gates=tuple(gates),
            against=against,
            name=name,
            spec=spec,
        )
        return make(self._repo, kind, asked)
