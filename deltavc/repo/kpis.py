"""The verbs ``kpi define``, ``list``, ``add`` and ``show``.

Measurements are events without refs: undo does not touch them, and what is wrong is
corrected by a measurement that names the one it supersedes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from deltavc.errors import AmbiguousRevision, NameTaken, Protected, UnknownRevision, UsageError
from deltavc.ids import BlobId, MeasurementId, short
from deltavc.kpi.definitions import check_kpi, check_series
from deltavc.kpi.estimates import Observed, estimate
from deltavc.kpi.rules import CONFIDENCE
from deltavc.records.model import Kpi, Measurement, split_series
from deltavc.repo.policy import FILE, KPI, RECORDED, Policy, read_policy
from deltavc.repo.results import MeasurementRow
from deltavc.repo.results_kpi import KpiRow
from deltavc.repo.revisions import resolve

if TYPE_CHECKING:
    from deltavc.catalog.rows import MeasurementRow as CatalogRow
    from deltavc.repo.repository import Repository
    from deltavc.repo.samples import Samples

__all__ = ["UNDEFINED", "add", "define", "list_", "observed", "row", "show"]

UNDEFINED = "not defined"
MAX_TEXT = 2000


# definitions


def define(repo: Repository, kpis: Sequence[Kpi], *, dry_run: bool = False) -> list[KpiRow]:
    """Records definitions; the same again changes nothing.

    Args:
        repo: The repository.
        kpis: The definitions.
        dry_run: Only say what would change.

    Returns:
        The definitions; ``changed`` says whether anything did, or would.

    Raises:
        Protected: ``deltavc.toml`` defines one of them differently.
        UsageError: A definition makes no sense.
    """
    checked = [check_kpi(kpi) for kpi in kpis]
    policy = read_policy(repo)
    rows = []
    for kpi in checked:
        now, origin = policy.kpis.get(kpi.name), policy.origins.get(KPI + kpi.name)
        if origin == FILE and now != kpi:
            raise Protected(
                f"KPI '{kpi.name}' is defined in {FILE}, differently",
                hint=f"change it there: [kpi.{kpi.name}]",
                kpi=kpi.name,
            )
        rows.append(_definition(kpi, origin or RECORDED, changed=now != kpi))
    if not dry_run and any(found.changed for found in rows):
        with repo.change("kpi define") as change:
            for kpi, found in zip(checked, rows, strict=True):
                if found.changed:
                    change.set(KPI + kpi.name, repo.put_record("kpi", kpi))
            names = ", ".join(
                kpi.name for kpi, found in zip(checked, rows, strict=True) if found.changed
            )
            change.summary = f"define {names}"[:200]
    return rows


def _definition(
    kpi: Kpi, origin: str, *, changed: bool = True, measured: Mapping[str, int] | None = None,
    overrides: bool = False,
) -> KpiRow:  # fmt: skip
    measured = measured or {}
    slices = [part for name in measured if (part := _slice_of(name, kpi.name)) is not None]
    return KpiRow(
        name=kpi.name,
        origin=origin,
        direction=kpi.direction,
        kind=kpi.kind,
        unit=kpi.unit,
        min_samples=kpi.min_samples,
        quantile=kpi.quantile,
        description=kpi.description,
        revisions=measured.get(kpi.name, 0),
        slices=slices,
        overrides=overrides,
        changed=changed,
    )


def _slice_of(series: str, kpi: str) -> str | None:
    name, part = split_series(series)
    return part if name == kpi else None


def list_(repo: Repository) -> list[KpiRow]:
    """Returns the KPIs by name: those that are defined, and those that were only measured."""
    policy, measured = read_policy(repo), repo.reader().kpis()
    rows = [
        _definition(
            kpi,
            policy.origins[KPI + name],
            measured=measured,
            overrides=KPI + name in policy.overridden,
            changed=False,
        )
        for name, kpi in policy.kpis.items()
    ]
    for name in sorted({split_series(series)[0] for series in measured} - policy.kpis.keys()):
        slices = [part for s in measured if (part := _slice_of(s, name)) is not None]
        rows.append(
            KpiRow(
                name=name,
                origin=UNDEFINED,
                revisions=measured.get(name, 0),
                slices=slices,
                changed=False,
            )
        )
    return sorted(rows, key=lambda found: found.name)


# measurements


def add(
    repo: Repository,
    rev: str,
    values: Mapping[str, float],
    *,
    samples: int | None = None,
    stderr: float | None = None,
    per_sample: Samples | None = None,
    dataset: str | None = None,
    dataset_sha256: str | None = None,
    tool: str | None = None,
    seed: int | None = None,
    source: str | None = None,
    supersedes: str | None = None,
    reason: str | None = None,
    dry_run: bool = False,
) -> list[MeasurementRow]:
    """Records what was measured on a revision.

    Args:
        repo: The repository.
        rev: The revision.
        values: Value by KPI, or by ``KPI[slice]``; NaN is kept as such.
        samples: Number of samples behind the values.
        stderr: Standard error of the value.
        per_sample: The value of each sample; for one KPI at a time.
        dataset: What it was measured on.
        dataset_sha256: Digest of that.
        tool: What measured, with its version.
        seed: Seed of the evaluation.
        source: Where the numbers come from.
        supersedes: Beginning of the id of a measurement that this one corrects.
        reason: Why it corrects it.
        dry_run: Only check.

    Returns:
        The measurements.

    Raises:
        UsageError: A value makes no sense, or options do not go together.
        UnknownRevision: There is no such revision, or no such measurement.
        NameTaken: The measurement has been corrected already.
    """
    for text in (dataset, tool, source, reason):
        _check_text(text)
    commit, policy = resolve(repo, rev), read_policy(repo)
    named = {name: check_series(name) for name in values}
    if not values:
        raise UsageError("there is no value to record", hint="deltavc kpi add REV NAME=VALUE")
    if len(values) > 1 and (per_sample is not None or supersedes is not None or stderr is not None):
        raise UsageError(
            "per-sample values, a standard error and a correction belong to one KPI",
            hint="record one KPI at a time",
        )
    if per_sample is not None:
        samples = per_sample.count(samples)
    for name, value in values.items():
        _check_value(name, value, samples, stderr, policy.kpis.get(named[name][0]))
    old = _superseded(repo, supersedes, reason)
    if per_sample is not None:
        ((name, value),) = values.items()
        stderr = per_sample.settle(name, value, policy.kpis.get(named[name][0]), stderr)
    records = [
        Measurement(
            commit=commit,
            kpi=kpi,
            value=None if values[name] != values[name] else float(values[name]),
            actor=repo.session.actor,
            time=0,
            samples=samples,
            dataset=dataset,
            source=source,
            stderr=None if stderr is None else float(stderr),
            dataset_sha256=dataset_sha256,
            slice=part,
            tool=tool,
            seed=seed,
            supersedes=old,
            reason=reason,
        )
        for name, (kpi, part) in sorted(named.items())
    ]
    if not dry_run:
        records = _record(repo, records, per_sample)
    return [_told(record, policy) for record in records]


def _check_text(text: str | None) -> None:
    if text is not None and (not text.strip() or len(text) > MAX_TEXT):
        raise UsageError(
            f"a text that goes with a measurement has 1 to {MAX_TEXT} characters",
            hint="leave the option out, or shorten the text",
        )


def _check_value(
    name: str, value: float, samples: int | None, stderr: float | None, kpi: Kpi | None
) -> None:
    if math.isinf(value):
        raise UsageError(
            f"KPI '{name}' is infinite, which is no measurement",
            hint="record a value that could not be measured as nan",
            kpi=name,
        )
    if samples is not None and not 1 <= samples < 1 << 53:
        raise UsageError(f"{samples} is not a number of samples", hint="--samples 5000")
    if stderr is not None and not 0 <= stderr < math.inf:
        raise UsageError(f"{stderr} is not a standard error", hint="--stderr 0.004")
    if kpi is not None and kpi.kind == "proportion" and not (value != value or 0 <= value <= 1):
        raise UsageError(
            f"{value:g} is not a value for KPI '{name}': a proportion lies between 0 and 1",
            hint=f"for percents: {name}={value / 100:g}",
            kpi=name,
        )


def _superseded(repo: Repository, prefix: str | None, reason: str | None) -> MeasurementId | None:
    if prefix is None:
        return None
    if reason is None:
        raise UsageError("a correction needs a reason", hint='--reason "why the old one is wrong"')
    found = repo.reader().find_measurement(prefix.lower()) if len(prefix) >= 4 else []
    if not found:
        raise UnknownRevision(
            f"no measurement begins with '{prefix[:80]}'",
            hint="find its id: deltavc kpi show REV --history",
            measurement=prefix,
        )
    if len(found) > 1:
        raise AmbiguousRevision(
            f"'{prefix}' fits {len(found)} measurements", candidates=[m.id for m in found]
        )
    if found[0].superseded_by is not None:
        raise NameTaken(
            f"measurement {short(found[0].id)} was corrected by {short(found[0].superseded_by)}",
            hint=f"correct that one: --supersedes {short(found[0].superseded_by)}",
            superseded_by=found[0].superseded_by,
        )
    return found[0].id


def _record(
    repo: Repository, records: Sequence[Measurement], per_sample: Samples | None
) -> list[Measurement]:
    import msgspec

    done = []
    with repo.change("kpi add") as change:
        blob = None if per_sample is None else BlobId(per_sample.put(repo))
        for draft in records:
            record = msgspec.structs.replace(draft, time=change.time, values=blob)
            oid = repo.put_record("measurement", record)
            change.note("measurements", oid)
            change.touch(oid)
            done.append(record)
        if blob is not None:
            change.touch(blob)
        change.reason = records[0].reason
        names = ", ".join(dict.fromkeys(record.kpi for record in records))
        change.summary = f"measure {names} of {short(records[0].commit)}"[:200]
    return done


def _told(record: Measurement, policy: Policy) -> MeasurementRow:
    from deltavc.codec.digest import object_id
    from deltavc.records import canonical

    found = estimate(
        Observed(record.value, record.samples, record.stderr),
        policy.kpis.get(record.kpi),
        CONFIDENCE,
    )
    kpi = policy.kpis.get(record.kpi)
    return MeasurementRow(
        kpi=record.kpi,
        value=record.value,
        samples=record.samples,
        dataset=record.dataset,
        source=record.source,
        actor=record.actor,
        time=record.time,
        is_nan=record.value is None,
        id=object_id("measurement", [canonical.encode(record)]) if record.time else "",
        revision=record.commit,
        slice=record.slice,
        unit=kpi.unit if kpi is not None else "",
        low=found.low,
        high=found.high,
        method=found.method,
        stderr=record.stderr,
        values=record.values,
        dataset_sha256=record.dataset_sha256,
        tool=record.tool,
        seed=record.seed,
        supersedes=record.supersedes,
        reason=record.reason,
    )


def show(repo: Repository, rev: str = "HEAD", *, history: bool = False) -> list[MeasurementRow]:
    """Returns the measurements of a revision, by KPI.

    Args:
        repo: The repository.
        rev: The revision.
        history: Also those that do not count any more.

    Returns:
        The measurements, those of a KPI in the order in which they were recorded.
    """
    commit, policy = resolve(repo, rev), read_policy(repo)
    found = [m for m in repo.reader().measurements(commit) if history or m.is_latest]
    return [row(repo, m, policy) for m in sorted(found, key=lambda m: (m.series, m.event))]


def row(repo: Repository, measured: CatalogRow, policy: Policy) -> MeasurementRow:
    """Returns a measurement with the interval that its KPI's definition gives it."""
    kpi = policy.kpis.get(measured.kpi)
    found = estimate(observed(repo, measured, kpi), kpi, CONFIDENCE)
    return MeasurementRow(
        kpi=measured.kpi,
        value=measured.value,
        samples=measured.samples,
        dataset=measured.dataset,
        source=measured.source,
        actor=measured.actor,
        time=measured.time,
        is_nan=measured.value is None,
        id=measured.id,
        revision=measured.commit,
        slice=measured.slice,
        unit=kpi.unit if kpi is not None else "",
        low=found.low if measured.value is not None else None,
        high=found.high if measured.value is not None else None,
        method=found.method if measured.value is not None else None,
        stderr=measured.stderr,
        values=measured.values,
        dataset_sha256=measured.dataset_sha256,
        tool=measured.tool,
        seed=measured.seed,
        supersedes=measured.supersedes,
        reason=measured.reason,
        superseded_by=measured.superseded_by,
        is_latest=measured.is_latest,
        event=measured.event,
    )


def observed(
    repo: Repository, measured: CatalogRow, kpi: Kpi | None, *, pairs: bool = False
) -> Observed:
    """Returns a measurement as the statistics take it; per-sample values only where they count.

    Args:
        repo: The repository.
        measured: The measurement.
        kpi: Its definition.
        pairs: Whether it is to be compared with another one, sample by sample.

    Returns:
        What was measured.
    """
    values = None
    if measured.values is not None and (pairs or (kpi is not None and kpi.kind == "quantile")):
        from deltavc.repo.samples import Samples

        values = Samples.load(repo, measured.values).values
    return Observed(
        value=measured.value,
        samples=measured.samples,
        stderr=measured.stderr,
        values=values,
        dataset=measured.dataset,
        dataset_sha256=measured.dataset_sha256,
        time=measured.time,
        revision=measured.commit,
    )
