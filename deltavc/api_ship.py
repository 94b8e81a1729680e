"""The verbs of environments in the Python API; see :mod:`deltavc.api`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deltavc.repo import results_ship
    from deltavc.repo.repository import Repository

__all__ = ["Shipping"]


class Shipping:
    """What :class:`deltavc.api.Repository` can put live, tell of it, and take back."""

    _repo: Repository

    def define_environment(
        self,
        name: str,
        *,
        after: str | None = None,
        gates: Sequence[str] = (),
        approvals: int = 0,
        target: str | None = None,
        keep: int = 3,
        form: str = "full",
        hook: str | None = None,
        protect: bool = False,
        dry_run: bool = False,
    ) -> results_ship.EnvironmentRow:
        """Says what an environment asks of versions, and where it keeps them."""
        from deltavc.records.ship import Environment
        from deltavc.repo import environments

        wanted = Environment(
            name=name,
            after=after,
            gates=tuple(gates),
            approvals=approvals,
            target=target,
            keep=keep,
            form=form,
            hook=hook,
            protect=protect,
        )
        return environments.define(self._repo, [wanted], dry_run=dry_run)[0]

    def environments(self) -> list[results_ship.EnvironmentRow]:
        """Returns the environments with what they serve."""
        from deltavc.repo import environments

        return environments.list_(self._repo)

    def environment(self, name: str, *, at: int | None = None) -> results_ship.EnvironmentShown:
        """Returns what an environment serves, or served at a time in milliseconds since 1970."""
        from deltavc.repo import environments

        return environments.show(self._repo, name, at=at)

    def deployments(
        self, name: str, *, limit: int | None = None
    ) -> list[results_ship.DeploymentRow]:
        """Returns the deployments of an environment, newest first."""
        from deltavc.repo import environments

        return environments.log(self._repo, name, limit=limit)

    def approve(
        self, request: str, *, reason: str | None = None, sign: bool = False
    ) -> results_ship.ApprovedRow:
        """Approves a deployment that waits; see :func:`deltavc.repo.environments.approve`."""
        from deltavc.repo import environments

        return environments.approve(self._repo, request, reason=reason, sign=sign)

    def mark(
        self, name: str, rev: str, *, bad: bool, reason: str | None = None
    ) -> results_ship.MarkRow:
        """Calls a version bad in an environment, or not any more."""
        from deltavc.repo import environments

        return environments.mark(self._repo, name, rev, bad=bad, reason=reason)

    def deploy(
        self,
        rev: str,
        environment: str,
        *,
        reason: str | None = None,
        override: Collection[str] = (),
        key: str | None = None,
        dry_run: bool = False,
    ) -> results_ship.DeployedRow:
        """Makes a revision the one that an environment serves; see :mod:`deltavc.repo.deploy`."""
        from deltavc.repo.deploy import deploy

        return deploy(
            self._repo,
            rev,
            environment,
            reason=reason,
            override=override,
            key=key,
            dry_run=dry_run,
        )

    def promote(
        self,
        source: str,
        environment: str,
        *,
        reason: str | None = None,
        override: Collection[str] = (),
        key: str | None = None,
        dry_run: bool = False,
    ) -> results_ship.DeployedRow:
        """Deploys what another environment serves."""
        from deltavc.repo.deploy import promote

        return promote(
            self._repo,
            source,
            environment,
            reason=reason,
            override=override,
            key=key,
            dry_run=dry_run,
        )

    def rollback(
        self,
        environment: str,
        *,
        to: str | None = None,
        steps: int = 1,
        reason: str | None = None,
        expected: str | None = None,
        dry_run: bool = False,
    ) -> results_ship.RolledBack:
        """Returns an environment to what it served before; see :mod:`deltavc.repo.rollback`."""
        from deltavc.repo.rollback import rollback

        return rollback(
            self._repo,
            environment,
            to=to,
            steps=steps,
            reason=reason,
            expected=expected,
            dry_run=dry_run,
        )
