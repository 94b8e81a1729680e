"""Per-sample values: read from a person's file, kept as a blob, checked against the value."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from deltavc.errors import ObjectCorrupt, UnsafeFile, UsageError
from deltavc.formats.files import open_regular, shown
from deltavc.ids import BlobId, ObjectId
from deltavc.kpi.estimates import Values
from deltavc.kpi.intervals import mean_and_stderr
from deltavc.records import canonical

if TYPE_CHECKING:
    from deltavc.records.model import Kpi
    from deltavc.repo.repository import Repository

__all__ = ["Samples"]

MAX_BYTES = 100_000_000
AGREES = 1e-6  # how far a value may be from what its samples give: it was rounded by a harness


@dataclass(frozen=True)
class Samples:
    """The value of each sample, in order or by the sample's name."""

    values: Values

    @classmethod
    def read(cls, path: Path) -> Samples:
        """Reads a file: a JSON list or object of numbers, or a number a line.

        Args:
            path: The file.

        Returns:
            The values.

        Raises:
            InputError: It cannot be read.
            UsageError: It holds something else.
            UnsafeFile: It is too large or malformed.
        """
        with open_regular(path) as (file, _):
            data = file.read(MAX_BYTES + 1)
        what = f"'{shown(path)}'"
        if data[:1].isspace() or data[:1] in (b"[", b"{"):
            found = canonical.loads_strict(data, what, max_bytes=MAX_BYTES)
        else:
            if len(data) > MAX_BYTES:
                raise UnsafeFile(f"{what} is larger than {MAX_BYTES} bytes", size=len(data))
            found = _lines(data, what)
        return cls._of(found, what)

    @classmethod
    def load(cls, repo: Repository, oid: BlobId) -> Samples:
        """Returns the values that a measurement names.

        Args:
            repo: The repository.
            oid: The blob's id.

        Returns:
            The values.

        Raises:
            ObjectCorrupt: The blob does not hold values.
        """
        try:
            return cls._of(json.loads(bytes(repo.store.get(oid, "blob"))), f"blob '{oid}'")
        except (ValueError, RecursionError, UsageError) as error:
            raise ObjectCorrupt(f"blob '{oid}' holds no per-sample values", id=oid) from error

    @classmethod
    def _of(cls, found: object, what: str) -> Samples:
        numbers = list(found.values()) if isinstance(found, dict) else found
        if not isinstance(numbers, list) or not numbers:
            raise UsageError(
                f"{what} holds no per-sample values", hint="a JSON list of numbers, or one a line"
            )
        if not all(type(n) in (int, float, bool) and math.isfinite(n) for n in numbers):
            raise UsageError(
                f"{what} holds a value that is not a finite number",
                hint="leave out samples that have none, in both files that are to be compared",
            )
        if isinstance(found, dict):
            return cls({name: float(n) for name, n in found.items()})
        return cls([float(n) for n in numbers])

    def put(self, repo: Repository) -> ObjectId:
        """Writes the values as a blob."""
        from deltavc.codec.frames import Part

        return repo.store.put("blob", [Part(canonical.encode(self.values))])

    def count(self, samples: int | None) -> int:
        """Returns how many there are.

        Args:
            samples: How many were said to be.

        Returns:
            The number.

        Raises:
            UsageError: Another number was said.
        """
        if samples is not None and samples != len(self.values):
            raise UsageError(
                f"there are {len(self.values)} per-sample values, not {samples}",
                hint="leave --samples out",
            )
        return len(self.values)

    def settle(
        self, name: str, value: float, kpi: Kpi | None, stderr: float | None
    ) -> float | None:
        """Checks a value against its samples, and returns the standard error to be recorded.

        Args:
            name: The KPI, for messages.
            value: The value.
            kpi: The KPI's definition.
            stderr: The standard error, where it was given.

        Returns:
            The standard error; None where the kind has no use for one.

        Raises:
            UsageError: The samples do not give the value.
        """
        values = self.values
        numbers = list(values.values()) if isinstance(values, Mapping) else list(values)
        kind = kpi.kind if kpi is not None else "mean"
        if kind == "quantile":
            if not min(numbers) <= value <= max(numbers):
                raise UsageError(
                    f"{value:g} is not within the per-sample values of KPI '{name}'",
                    hint="check that the file belongs to the value",
                )
            return stderr
        mean, error = mean_and_stderr(numbers)
        if kind != "count" and not abs(mean - value) <= AGREES * max(1.0, abs(mean)):
            raise UsageError(
                f"the per-sample values of KPI '{name}' have the mean {mean:.9g}, not {value:.9g}",
                hint=f"record what they give: {name}={mean!r}",
                mean=mean,
            )
        if kind in ("count", "proportion"):
            return stderr
        return error if stderr is None and math.isfinite(error) else stderr


def _lines(data: bytes, what: str) -> list[float]:
    """Reads a number a line."""
    try:
        return [float(line) for line in data.decode("utf-8").split() if line]
    except ValueError as error:
        raise UsageError(
            f"{what} holds what is no number", hint="a JSON list of numbers, or a number a line"
        ) from error
