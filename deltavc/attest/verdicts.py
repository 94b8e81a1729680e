"""The gate verdicts that evidence is given of: those a deployment stood on, or asked for now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from deltavc.ids import CommitId
from deltavc.repo.serving import deployment_name, load_deployment

if TYPE_CHECKING:
    from deltavc.records.ship import GateSeen
    from deltavc.repo.repository import Repository

__all__ = ["Verdicts", "verdicts_of"]


@dataclass(frozen=True)
class Verdicts:
    """What gates said of a version.

    Attributes:
        gates: The gates with their rules, by name.
        deployment: The deployment that recorded them, such as ``d-000042``; None where they
            were asked for the evidence.
        environment: Where that was.
    """

    gates: tuple[GateSeen, ...]
    deployment: str | None = None
    environment: str | None = None


def verdicts_of(
    repo: Repository, commit: CommitId, *, gates: Sequence[str] = (), against: str | None = None
) -> Verdicts:
    """Returns what gates said of a version.

    By default what its newest deployment recorded: the verdicts that let it go live, which a
    later change of policy or a later measurement does not touch.

    Args:
        repo: The repository.
        commit: The version.
        gates: Ask these gates instead, as of the newest event's time, so that rules about
            the age of a measurement have one answer for one state of the repository.
        against: The baseline for them.

    Returns:
        The verdicts; none where no gate was ever asked about the version.

    Raises:
        UnknownRevision: There is no such gate or baseline.
    """
    if gates:
        return Verdicts(_asked(repo, commit, gates, against))
    for row in reversed(repo.reader().deployments_of(commit)):
        if row.gate_verdict is not None:
            seen = sorted(load_deployment(repo, row.id).gates, key=lambda gate: gate.gate)
            return Verdicts(tuple(seen), deployment_name(row.number), row.environment)
    return Verdicts(())


def _asked(
    repo: Repository, commit: CommitId, gates: Sequence[str], against: str | None
) -> tuple[GateSeen, ...]:
    from deltavc.repo.evidence import as_seen
    from deltavc.repo.gates import check

    then = _as_of_newest_event(repo)
    names = sorted(set(gates))
    return tuple(as_seen(check(then, name, commit, against=against)) for name in names)


def _as_of_newest_event(repo: Repository) -> Repository:
    """Returns the repository with a clock that stands at its newest event."""
    newest = next(iter(repo.log.read_back(1)), None)
    time = 0 if newest is None else newest[0].time
    then = type(repo)(repo.layout, replace(repo.session, clock=lambda: time))
    then.as_of = repo.as_of
    return then
