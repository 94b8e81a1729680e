"""The parts of a bill of materials that stand for one record each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deltavc.attest.extra import require
from deltavc.attest.text import person, without_empty, zulu
from deltavc.ids import BaseId

if TYPE_CHECKING:
    from deltavc.catalog.rows import CommitRow
    from deltavc.records.model import BaseSource, Commit
    from deltavc.repo.repository import Repository
    from deltavc.repo.results import MeasurementRow

__all__ = ["base_component", "commit_entry", "licences", "metric", "properties"]

LICENCE = ("license", "licence")  # labels that name one


def base_component(repo: Repository, base: BaseId) -> dict[str, Any]:
    """Returns the frozen model that a version adapts.

    Its fingerprint is a property and no hash, since it covers tensors and not a file.
    """
    state = repo.state()
    known = next((s for s in repo.base_names(state).values() if s.base == base), None)
    name = repo.base_name(state, base)
    told = {"deltavc:base": base, "deltavc:base-name": name}
    if known is not None and known.source:
        told["deltavc:base-source"] = known.source
    return without_empty(
        {
            "type": "machine-learning-model",
            "bom-ref": f"base-{base}",
            "name": name,
            "version": _hub(known)[2] or base,
            "purl": _purl(known),
            "hashes": [],
            "properties": [{"name": key, "value": value} for key, value in sorted(told.items())],
        }
    )


def _hub(source: BaseSource | None) -> tuple[str, str, str]:
    """Returns owner, name and revision of ``hf:org/name@revision``; "" of what is not told."""
    if source is None or not source.source or not source.source.startswith("hf:"):
        return "", "", ""
    path, _, revision = source.source.removeprefix("hf:").partition("@")
    owner, _, name = path.rpartition("/")
    return owner, name, revision


def _purl(source: BaseSource | None) -> str:
    """Returns the package URL of a model of the hub; "" of any other."""
    owner, name, revision = _hub(source)
    if not name:
        return ""
    url = require("packageurl").PackageURL
    try:
        return str(url("huggingface", owner or None, name, revision or None).to_string())
    except ValueError:  # what a person wrote as the source need not be one
        return ""


def commit_entry(row: CommitRow) -> dict[str, Any]:
    """Returns a commit of a pedigree."""
    who = without_empty({"timestamp": zulu(row.time), **person(row.author)})
    return without_empty({"uid": row.id, "author": who, "message": row.message})


def licences(record: Commit) -> list[dict[str, Any]]:
    """Returns the licence that a label names: by its SPDX id where it is one."""
    name = next((record.labels[key] for key in LICENCE if record.labels.get(key)), "")
    if not name:
        return []
    known = require("cyclonedx.spdx").is_supported_id(name)
    return [{"license": {"id" if known else "name": name}}]


def metric(row: MeasurementRow) -> dict[str, Any]:
    """Returns a measurement as a performance metric; numbers are texts there."""
    interval = {}
    if row.low is not None and row.high is not None:
        interval = {"lowerBound": repr(row.low), "upperBound": repr(row.high)}
    return without_empty(
        {
            "type": row.kpi,
            "value": "NaN" if row.value is None else repr(row.value),
            "slice": row.slice,
            "confidenceInterval": interval,
        }
    )


def properties(record: Commit) -> list[dict[str, str]]:
    """Returns what else is recorded of a version, by name."""
    kinds = {kind: count for kind, count in record.contents.items() if kind != "rank"}
    told = {
        "deltavc:manifest": record.manifest,
        "deltavc:base": record.base,
        "deltavc:exact": "false" if record.errors else "true",
        "deltavc:rank": str(record.contents.get("rank", "")),
        "deltavc:run": record.run or "",
        "deltavc:tool": record.tool,
        **{f"deltavc:kind:{kind}": str(count) for kind, count in kinds.items()},
        **{f"deltavc:label:{key}": value for key, value in record.labels.items()},
    }
    return [{"name": key, "value": value} for key, value in sorted(told.items()) if value]
