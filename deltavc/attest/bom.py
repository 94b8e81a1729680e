"""A CycloneDX bill of materials of a version: a model, where it comes from, how well it does.

The version is a component of the type machine-learning-model. Its pedigree names the base,
the parents and the commits; its model card the data sets and what was measured, each value
with slice and 95 % interval. The library has no model card of its own, so the document is
made here, and handed out only if the library's strict validator takes it.
"""

from __future__ import annotations

import uuid
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deltavc.attest.bom_parts import base_component, commit_entry, licences, metric, properties
from deltavc.attest.datasets import Datasets
from deltavc.attest.extra import require
from deltavc.attest.folder import checked_digests
from deltavc.attest.text import compact, document, person, subject, without_empty, zulu
from deltavc.errors import InternalError, UsageError
from deltavc.ids import CommitId
from deltavc.repo import kpis
from deltavc.repo.revisions import resolve
from deltavc.version import __version__

if TYPE_CHECKING:
    from deltavc.records.model import Commit
    from deltavc.repo.repository import Repository
    from deltavc.repo.results import MeasurementRow

__all__ = ["VERSIONS", "bill_of_materials"]

VERSIONS = ("1.6", "1.7")
NAMESPACE = uuid.UUID("5f0e5c0a-6f1d-5d0a-9a3f-1b7d2c4e8a60")  # fixed: serials are derived
TRAIL = 100  # commits of the history that are listed
MODEL = "machine-learning-model"


def bill_of_materials(
    repo: Repository,
    rev: str,
    *,
    name: str | None = None,
    folder: Path | None = None,
    spec: str = VERSIONS[0],
) -> bytes:
    """Returns the bill of materials of a revision.

    Args:
        repo: The repository.
        rev: The revision.
        name: What the model is called; default: its base's name and ``-adapted``.
        folder: A checkout of it, whose files become components with their digests.
        spec: Version of CycloneDX, one of :data:`VERSIONS`.

    Returns:
        The document as JSON, UTF-8; the same for the same state of the repository. The
        serial number belongs to the revision, the version grows with its measurements, and
        the time is that of the newest of them.

    Raises:
        UsageError: deltavc does not write this version of CycloneDX.
        UnknownRevision: There is no such revision.
        WorkspaceDirty: The folder is no checkout of the revision.
        MissingExtra: The library is not installed.

    Source:
        ECMA-424, CycloneDX 1.6 and 1.7, ``modelCard``.
    """
    if spec not in VERSIONS:
        raise UsageError(
            f"'{spec[:20]}' is not a version of CycloneDX that can be written",
            hint=f"versions: {', '.join(VERSIONS)}",
        )
    commit = resolve(repo, rev)
    require("cyclonedx.validation.json")  # some seconds with what it needs; then folders are read
    record = repo.commit(commit)
    measured = kpis.show(repo, commit, history=True)
    latest = [row for row in measured if row.is_latest]
    files = {} if folder is None else checked_digests(repo, commit, folder)
    data = Datasets.of(record, latest)
    model = _model(repo, commit, record, name, latest, data)
    content = {
        "bomFormat": "CycloneDX",
        "specVersion": spec,
        "serialNumber": _serial(commit, files),
        "version": 1 + len(measured),
        "metadata": without_empty(
            {
                "timestamp": zulu(max([record.time, *(row.time for row in measured)])),
                "tools": {"components": [_tool()]},
                "component": model,
            }
        ),
        "components": [*data.components(), *map(_file, files, files.values())],
        "dependencies": _dependencies(commit, data.refs),
    }
    text = document(without_empty(content))
    _validate(text.decode(), spec)
    return text


def _serial(commit: CommitId, files: dict[str, str]) -> str:
    """Returns the serial number: of a revision, or of the files of one form of it."""
    name = commit if not files else f"{commit} {compact(files)}"
    return uuid.uuid5(NAMESPACE, name).urn


def _tool() -> dict[str, str]:
    return {"type": "application", "name": "deltavc", "version": __version__}


def _model(
    repo: Repository,
    commit: CommitId,
    record: Commit,
    name: str | None,
    measured: list[MeasurementRow],
    data: Datasets,
) -> dict[str, Any]:
    base = base_component(repo, record.base)
    called = name or f"{base['name']}-adapted"
    return without_empty(
        {
            "type": MODEL,
            "bom-ref": _ref(commit),
            "name": called,
            "version": commit,
            "description": subject(record.message),
            "authors": [person(record.author)],
            "licenses": licences(record),
            "pedigree": _pedigree(repo, commit, record, base, called),
            "modelCard": _card(record, measured, data),
            "properties": properties(record),
        }
    )


def _ref(commit: str) -> str:
    return f"commit-{commit}"


def _pedigree(
    repo: Repository, commit: CommitId, record: Commit, base: dict[str, Any], called: str
) -> dict[str, Any]:
    parents = [
        without_empty(
            {
                "type": MODEL,
                "bom-ref": _ref(parent),
                "name": called,
                "version": parent,
                "description": subject(repo.commit(parent).message),
            }
        )
        for parent in dict.fromkeys(record.parents)
    ]
    trail = list(islice(repo.reader().log([commit]), TRAIL + 1))
    more = len(trail) > TRAIL
    return without_empty(
        {
            "ancestors": [base, *parents],
            "commits": [commit_entry(row) for row in trail[:TRAIL]],
            "notes": f"The newest {TRAIL} commits of the history are listed." if more else "",
        }
    )


def _card(record: Commit, measured: list[MeasurementRow], data: Datasets) -> dict[str, Any]:
    limits = []
    if record.errors:
        worst = max(record.errors, key=lambda one: (record.errors[one], one))
        limits.append(
            f"{len(record.errors)} parameters are approximated on request; the largest relative"
            f" Frobenius error is {record.errors[worst]:.3g}, of {worst}"
        )
    return without_empty(
        {
            "modelParameters": without_empty({"datasets": [{"ref": ref} for ref in data.refs]}),
            "quantitativeAnalysis": without_empty(
                {"performanceMetrics": [metric(row) for row in measured]}
            ),
            "considerations": without_empty({"technicalLimitations": limits}),
            "properties": [
                {"name": f"deltavc:measurement:{_series(row)}", "value": _measurement(row)}
                for row in measured
            ],
        }
    )


def _series(row: MeasurementRow) -> str:
    return row.kpi if row.slice is None else f"{row.kpi}[{row.slice}]"


def _measurement(row: MeasurementRow) -> str:
    """Returns what a metric has no field for: whose number it is, and of how many samples."""
    return compact(
        without_empty(
            {
                "id": row.id,
                "samples": row.samples,
                "stderr": row.stderr,
                "unit": row.unit,
                "interval": row.method,
                "dataset": row.dataset,
                "dataset_sha256": row.dataset_sha256,
                "tool": row.tool,
                "seed": row.seed,
                "source": row.source,
                "actor": row.actor,
                "time": zulu(row.time),
            }
        )
    )


def _file(path: str, sha256: str) -> dict[str, Any]:
    hashes = [{"alg": "SHA-256", "content": sha256}]
    return {"type": "file", "bom-ref": f"file-{path}", "name": path, "hashes": hashes}


def _dependencies(commit: CommitId, refs: list[str]) -> list[dict[str, Any]]:
    return [without_empty({"ref": _ref(commit), "dependsOn": refs}), *({"ref": r} for r in refs)]


def _validate(text: str, spec: str) -> None:
    schema = require("cyclonedx.schema").SchemaVersion.from_version(spec)
    problem = require("cyclonedx.validation.json").JsonStrictValidator(schema).validate_str(text)
    if problem is not None:
        raise InternalError(
            f"the bill of materials does not fit CycloneDX {spec}: {str(problem)[:200]}"
        )
