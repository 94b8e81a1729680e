"""The data sets that a version was trained on and measured on, as components."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from deltavc.attest.text import without_empty

if TYPE_CHECKING:
    from deltavc.records.model import Commit
    from deltavc.repo.results import MeasurementRow

__all__ = ["Datasets"]

_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


@dataclass
class _Dataset:
    name: str
    sha256: str | None
    size: int | None = None
    uses: set[str] = field(default_factory=set)


@dataclass
class Datasets:
    """Data sets by their reference in the document; the same digest is the same data set."""

    found: dict[str, _Dataset] = field(default_factory=dict)

    @classmethod
    def of(cls, record: Commit, measured: Iterable[MeasurementRow]) -> Datasets:
        """Returns the data sets that a commit and its measurements name."""
        sets = cls()
        for ref in record.data:
            sets._add(ref.name, ref.sha256, ref.size, "training")
        for row in measured:
            if row.dataset or row.dataset_sha256:
                sets._add(row.dataset or "", row.dataset_sha256, None, "evaluation")
        return sets

    @property
    def refs(self) -> list[str]:
        """Their references, sorted."""
        return sorted(self.found)

    def components(self) -> list[dict[str, Any]]:
        """Returns them as components, by reference."""
        return [_component(ref, self.found[ref]) for ref in self.refs]

    def _add(self, name: str, sha256: str | None, size: int | None, use: str) -> None:
        digest = sha256.lower() if sha256 is not None else None
        if digest is not None and not _SHA256.match(digest):
            digest = None  # of another kind, or a version's name: told with the measurement
        ref = f"data-{digest}" if digest else f"data-named-{name or sha256}"
        one = self.found.setdefault(ref, _Dataset(name or str(sha256), digest))
        one.size = one.size if size is None else size
        one.uses.add(use)


def _component(ref: str, one: _Dataset) -> dict[str, Any]:
    size = f", {one.size} bytes" if one.size is not None else ""
    return without_empty(
        {
            "type": "data",
            "bom-ref": ref,
            "name": one.name,
            "hashes": [{"alg": "SHA-256", "content": one.sha256}] if one.sha256 else [],
            "data": [
                {
                    "type": "dataset",
                    "name": one.name,
                    "description": f"{' and '.join(sorted(one.uses))} data{size}",
                }
            ],
        }
    )
