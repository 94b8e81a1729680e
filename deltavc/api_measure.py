"""The verbs of KPIs, gates and bisect in the Python API; see :mod:`deltavc.api`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deltavc.repo import results, results_kpi
    from deltavc.repo.repository import Repository

__all__ = ["Measuring"]

PathLike = str | os.PathLike[str]


class Measuring:
    """What :class:`deltavc.api.Repository` can measure and decide."""

    _repo: Repository

    def define_kpi(
        self,
        name: str,
        *,
        direction: str,
        kind: str,
        unit: str = "",
        min_samples: int = 0,
        quantile: float | None = None,
        description: str = "",
        dry_run: bool = False,
    ) -> results_kpi.KpiRow:
        """Says what a KPI is; the same again changes nothing."""
        from deltavc.records.model import Kpi
        from deltavc.repo import kpis

        kpi = Kpi(name, direction, kind, unit, min_samples, quantile, description)
        return kpis.define(self._repo, [kpi], dry_run=dry_run)[0]

    def kpis(self) -> list[results_kpi.KpiRow]:
        """Returns the KPIs, defined or only measured."""
        from deltavc.repo import kpis

        return kpis.list_(self._repo)

    def measure(
        self,
        rev: str,
        kpis: Mapping[str, float],
        *,
        samples: int | None = None,
        stderr: float | None = None,
        values: PathLike | None = None,
        dataset: str | None = None,
        dataset_sha256: str | None = None,
        tool: str | None = None,
        seed: int | None = None,
        source: str | None = None,
        supersedes: str | None = None,
        reason: str | None = None,
        dry_run: bool = False,
    ) -> list[results.MeasurementRow]:
        """Records what was measured on a revision; see :func:`deltavc.repo.kpis.add`.

        Args:
            rev: The revision.
            kpis: Value by KPI, or by ``KPI[slice]``.
            samples: Number of samples behind the values.
            stderr: Standard error of the value.
            values: File with the value of each sample.
            dataset: What it was measured on.
            dataset_sha256: Digest of that.
            tool: What measured, with its version.
            seed: Seed of the evaluation.
            source: Where the numbers come from.
            supersedes: Id of a measurement that this one corrects.
            reason: Why it corrects it.
            dry_run: Only check.

        Returns:
            The measurements.
        """
        from deltavc.repo import kpis as verbs
        from deltavc.repo.samples import Samples

        return verbs.add(
            self._repo,
            rev,
            kpis,
            samples=samples,
            stderr=stderr,
            per_sample=None if values is None else Samples.read(Path(values)),
            dataset=dataset,
            dataset_sha256=dataset_sha256,
            tool=tool,
            seed=seed,
            source=source,
            supersedes=supersedes,
            reason=reason,
            dry_run=dry_run,
        )

    def import_kpis(
        self,
        rev: str,
        source: str,
        *,
        names: Mapping[str, str] | None = None,
        folder: PathLike = ".",
        samples: int | None = None,
        dataset: str | None = None,
        dry_run: bool = False,
    ) -> list[results.MeasurementRow]:
        """Records numbers that others measured; see :func:`deltavc.repo.kpi_import.import_`."""
        from deltavc.repo.kpi_import import import_

        return import_(
            self._repo,
            rev,
            source,
            folder=Path(folder),
            names=names,
            samples=samples,
            dataset=dataset,
            dry_run=dry_run,
        )

    def measurements(
        self, rev: str = "HEAD", *, history: bool = False
    ) -> list[results.MeasurementRow]:
        """Returns what was measured of a revision; with ``history`` also what counts no more."""
        from deltavc.repo import kpis

        return kpis.show(self._repo, rev, history=history)

    def compare_kpis(
        self, a: str, b: str, *, kpis: Sequence[str] = (), confidence: float = 0.95
    ) -> list[results_kpi.KpiDifference]:
        """Compares what was measured of two revisions."""
        from deltavc.repo.kpi_compare import compare

        return compare(self._repo, a, b, kpis=kpis, confidence=confidence)

    def define_gate(
        self, name: str, rules: Sequence[str], *, description: str = "", dry_run: bool = False
    ) -> results_kpi.GateRow:
        """Says what a revision must pass; the same again changes nothing."""
        from deltavc.records.model import Gate
        from deltavc.repo import gates

        gate = Gate(name, tuple(rules), description)
        return gates.define(self._repo, [gate], dry_run=dry_run)[0]

    def gates(self) -> list[results_kpi.GateRow]:
        """Returns the gates."""
        from deltavc.repo import gates

        return gates.list_(self._repo)

    def check_gate(
        self, name: str, rev: str = "HEAD", *, against: str | None = None
    ) -> results_kpi.GateChecked:
        """Says whether a revision passes a gate, and why."""
        from deltavc.repo import gates

        return gates.check(self._repo, name, rev, against=against)

    def bisect_kpi(
        self, kpi: str, *, expect: str, good: str, bad: str = "HEAD"
    ) -> results_kpi.Bisected:
        """Finds the first revision whose recorded value is not as expected."""
        from deltavc.repo import bisect

        return bisect.by_kpi(self._repo, kpi, expect=expect, good=good, bad=bad)
