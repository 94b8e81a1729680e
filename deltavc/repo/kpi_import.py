"""The verb ``kpi import``: numbers from a JSON file, a trainer's folder, MLflow or W&B."""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deltavc.errors import MissingExtra, UnknownRevision, UnsupportedFormat, UsageError
from deltavc.formats.files import open_regular, shown
from deltavc.records import canonical
from deltavc.records.model import split_series
from deltavc.repo.kpis import add
from deltavc.repo.policy import read_policy

if TYPE_CHECKING:
    from deltavc.repo.repository import Repository
    from deltavc.repo.results import MeasurementRow

__all__ = ["SOURCES", "import_"]

SOURCES = ("json", "trainer", "mlflow", "wandb")
STATE = "trainer_state.json"
SHOWN = 8
DEPTH = 8  # of mappings within mappings


def import_(
    repo: Repository,
    rev: str,
    source: str,
    *,
    folder: Path,
    names: Mapping[str, str] | None = None,
    samples: int | None = None,
    dataset: str | None = None,
    dry_run: bool = False,
) -> list[MeasurementRow]:
    """Records numbers that others measured.

    Args:
        repo: The repository.
        rev: The revision that was measured.
        source: ``json:FILE``, ``trainer:FOLDER``, ``mlflow:RUN`` or ``wandb:ENTITY/PROJECT/RUN``.
        folder: Where relative paths begin.
        names: Their names to ours; default: the KPIs that are defined, as they are.
        samples: Number of samples behind the values.
        dataset: What they were measured on.
        dry_run: Only say what would be recorded.

    Returns:
        The measurements.

    Raises:
        UsageError: The source is none of these, or lacks what is asked for.
        UnsupportedFormat: It cannot be read, or holds no numbers.
        MissingExtra: Its client is not installed.
    """
    kind, _, where = source.partition(":")
    if kind not in SOURCES or not where:
        raise UsageError(
            f"'{source[:80]}' is not a source of measurements",
            hint="json:FILE, trainer:FOLDER, mlflow:RUN or wandb:ENTITY/PROJECT/RUN",
        )
    found = _read(kind, where, folder)
    if names:
        lacking = [theirs for theirs in names if theirs not in found]
        if lacking:
            raise UsageError(
                f"'{source[:80]}' has no number '{lacking[0][:80]}'",
                hint=f"it has: {_some(found)}",
                found=sorted(found),
            )
        if len(set(names.values())) != len(names):
            raise UsageError("two numbers would become one KPI", hint="--map THEIRS=OURS")
        values = {ours: found[theirs] for theirs, ours in names.items()}
    else:
        defined = read_policy(repo).kpis
        values = {name: found[name] for name in found if split_series(name)[0] in defined}
    if not values:
        raise UsageError(
            f"'{source[:80]}' has no number under the name of a KPI that is defined",
            hint=f"say which to take: --map THEIRS=OURS; it has: {_some(found)}",
            found=sorted(found),
        )
    return add(repo, rev, values, samples=samples, dataset=dataset, source=source, dry_run=dry_run)


def _some(found: Mapping[str, float]) -> str:
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return (", ".join(sorted(found)[:SHOWN]) or "nothing") + more


def _read(kind: str, where: str, folder: Path) -> dict[str, float]:
    if kind == "json":
        return _numbers(_json(folder / where), where)
    if kind == "trainer":
        return _trainer(folder / where)
    return _mlflow(where) if kind == "mlflow" else _wandb(where)


def _json(path: Path) -> Any:
    with open_regular(path) as (file, _):
        data = file.read(100_000_001)
    return canonical.loads_strict(data, f"'{shown(path)}'")


def _numbers(found: object, where: str) -> dict[str, float]:
    """Returns the numbers of a JSON object, those within objects by dotted names."""
    if not isinstance(found, dict):
        raise UnsupportedFormat(
            f"'{where[:80]}' is not a JSON object", hint='{"accuracy": 0.879, "loss": 0.31}'
        )
    numbers: dict[str, float] = {}
    for name, value in found.items():
        if isinstance(value, dict):
            inner = _numbers(value, where)
            numbers |= {f"{name}.{key}": number for key, number in inner.items()}
        elif type(value) in (int, float) and abs(value) < 1e308:
            numbers[name] = float(value)
    return numbers


def _trainer(path: Path) -> dict[str, float]:
    """Returns the last value of each number that a transformers Trainer logged."""
    state = _json(path / STATE if path.is_dir() else path)
    history = state.get("log_history") if isinstance(state, dict) else None
    if not isinstance(history, list) or not all(isinstance(entry, dict) for entry in history):
        raise UnsupportedFormat(
            f"'{shown(path)}' holds no log of a trainer",
            hint=f"it is the folder of a checkpoint, with {STATE}",
        )
    numbers: dict[str, float] = {}
    for entry in history:
        numbers |= _numbers(entry, str(path))
    return numbers


def _client(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingExtra(
            f"'{name}' is not installed", hint=f"pip install {name}", package=name
        ) from error


def _mlflow(run: str) -> dict[str, float]:
    mlflow = _client("mlflow")
    try:
        return _told(mlflow.MlflowClient().get_run(run).data.metrics)
    except Exception as error:  # the client's own errors, which are its private matter
        raise _unreachable("mlflow", run, error) from error


def _wandb(run: str) -> dict[str, float]:
    wandb = _client("wandb")
    try:
        return _told(wandb.Api().run(run).summary)
    except Exception as error:  # likewise
        raise _unreachable("wandb", run, error) from error


def _told(found: Any, depth: int = 0) -> dict[str, float]:
    """Returns the numbers of a client's mapping, those within mappings by dotted names.

    The mappings of W&B are none of Python's and are read when asked for. It tells NaN as a
    text, and histograms, tables and media as mappings with a type, which are no numbers.
    """
    numbers: dict[str, float] = {}
    for name in found.keys():  # noqa: SIM118 - some clients' mappings can do no more
        value = found[name]
        if hasattr(value, "keys"):
            if depth < DEPTH and "_type" not in value.keys():  # noqa: SIM118 - likewise
                inner = _told(value, depth + 1)
                numbers |= {f"{name}.{key}": number for key, number in inner.items()}
        elif type(value) in (int, float) and not math.isinf(value):
            numbers[str(name)] = float(value)
        elif value == "NaN":
            numbers[str(name)] = math.nan
    return numbers


def _unreachable(client: str, run: str, error: Exception) -> UnknownRevision:
    first = str(error).strip().partition("\n")[0][:200].rstrip(".")
    return UnknownRevision(
        f"{client} gives no run '{run[:80]}': {first}",
        hint=f"check the run's name, and that {client} can reach its server",
        run=run,
    )
