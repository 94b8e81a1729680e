"""What somebody has to look at: found in what was gathered, the worst first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from deltavc.report.data import (
    NOTE,
    SERIOUS,
    WARNING,
    Deployment,
    Environment,
    Problem,
    Request,
)

__all__ = ["decided_at", "find", "of_deployment"]

PASS = "pass"  # noqa: S105 - a verdict
ROLLBACK = "rollback"
MOST_DETAILS = 10
_LEVELS = {SERIOUS: 0, WARNING: 1, NOTE: 2}


def find(
    environments: Sequence[Environment],
    deployments: Sequence[Deployment],
    requests: Sequence[Request],
    chain: Sequence[str] = (),
    clock: Sequence[int] = (),
    damaged: Sequence[str] = (),
) -> tuple[Problem, ...]:
    """Finds what somebody has to look at.

    Args:
        environments: The environments with what they serve.
        deployments: All deployments, newest first, also of other environments: a version
            may have come through them.
        requests: Those that wait.
        chain: What is wrong with the event log.
        clock: Numbers of events at which a clock was set back.
        damaged: Records that cannot be read.

    Returns:
        The problems, the worst first, those of one environment together.
    """
    found = list(_of_log(chain, clock, damaged))
    for environment in environments:
        if environment.serving is not None and environment.serving.version is not None:
            found += of_deployment(environment, environment.serving, deployments)
        if environment.out_of_step:
            found.append(
                Problem(
                    "out_of_step",
                    SERIOUS,
                    {"environment": environment.name},
                    environment.name,
                    details=environment.out_of_step[:MOST_DETAILS],
                )
            )
    since = {e.name: e.serving.number for e in environments if e.serving is not None}
    found += _of_requests(
        r for r in requests if not r.stale or r.number > since.get(r.environment, 0)
    )
    names = {environment.name for environment in environments}
    found += _of_the_past([d for d in deployments if d.environment in names])
    return tuple(sorted(found, key=lambda problem: _LEVELS[problem.level]))


def of_deployment(
    environment: Environment, serving: Deployment, deployments: Sequence[Deployment]
) -> Iterator[Problem]:
    """Yields the problems of what an environment serves.

    Args:
        environment: The environment.
        serving: What it serves.
        deployments: All deployments: a rollback stands on what was decided before.

    Yields:
        The problems.
    """
    decided = decided_at(serving, deployments)
    for kind, level, values in (
        *_gates(environment, decided),
        *_approvals(environment, decided),
        *_version(environment, serving, deployments),
    ):
        known = {"environment": environment.name, "deployment": serving.number}
        yield Problem(kind, level, known | values, environment.name, serving.number)


_Found = tuple[str, str, dict[str, object]]


def decided_at(serving: Deployment, deployments: Sequence[Deployment]) -> Deployment:
    """Returns the deployment at which the served version was decided: a rollback asks nothing."""
    if serving.action != ROLLBACK or serving.version is None:
        return serving
    for earlier in deployments:
        if (
            earlier.number < serving.number
            and earlier.environment == serving.environment
            and earlier.action != ROLLBACK
            and earlier.version is not None
            and earlier.version.id == serving.version.id
        ):
            return earlier
    return serving


def _gates(environment: Environment, decided: Deployment) -> Iterator[_Found]:
    bad = [gate.gate for gate in decided.gates if gate.verdict != PASS]
    values: dict[str, object] = {"gates": bad, "actor": decided.actor, "reason": decided.reason}
    if decided.overridden:
        yield (
            "gate_overridden",
            SERIOUS,
            values | {"gates": [gate.gate for gate in decided.gates if gate.overridden] or bad},
        )
    elif bad:
        failed = any(gate.verdict == "fail" for gate in decided.gates)
        yield ("gate_failed" if failed else "gate_inconclusive"), SERIOUS, values
    missing = sorted(set(environment.definition.gates) - {gate.gate for gate in decided.gates})
    if missing:
        yield "gate_not_asked", SERIOUS if not decided.gates else WARNING, {"gates": missing}
    fails = [rule for kpi in environment.kpis for rule in kpi.fails]
    if fails and not bad:
        yield "rule_fails_now", SERIOUS, {"rules": fails}
    unmeasured = [kpi.series for kpi in environment.kpis if kpi.rules and not kpi.measured]
    if unmeasured:
        yield "measurement_missing", WARNING, {"kpis": unmeasured}


def _approvals(environment: Environment, decided: Deployment) -> Iterator[_Found]:
    valid = sum(not approval.void for approval in decided.approvals)
    void = [approval.actor for approval in decided.approvals if approval.void]
    if decided.counted < decided.needed or (decided.approvals and valid < decided.needed):
        kind = "approvals_void" if void else "approvals_missing"
        yield kind, SERIOUS, {
            "counted": min(valid, decided.counted), "needed": decided.needed, "actors": void,
        }  # fmt: skip
    elif environment.definition.approvals > decided.needed:
        yield "approvals_raised", WARNING, {
            "counted": decided.counted, "needed": environment.definition.approvals,
        }  # fmt: skip


def _version(
    environment: Environment, serving: Deployment, deployments: Iterable[Deployment]
) -> Iterator[_Found]:
    version = serving.version
    assert version is not None
    if serving.bad is not None:
        yield "marked_bad", SERIOUS, {
            "revision": version.id, "actor": serving.bad.actor, "reason": serving.bad.reason,
        }  # fmt: skip
    after = environment.definition.after
    if after is not None and serving.action != ROLLBACK:
        came = any(
            earlier.environment == after
            and earlier.number < serving.number
            and earlier.version is not None
            and earlier.version.id == version.id
            for earlier in deployments
        )
        if not came:
            yield "stage_skipped", SERIOUS, {"after": after, "revision": version.id}
    if serving.late:
        yield "late", WARNING, {}
    if not version.exact:
        yield "approximate", NOTE, {"revision": version.id}


def _of_log(
    chain: Sequence[str], clock: Sequence[int], damaged: Sequence[str]
) -> Iterator[Problem]:
    if chain:
        yield Problem("chain", SERIOUS, {"n": len(chain)}, details=tuple(chain[:MOST_DETAILS]))
    if damaged:
        yield Problem(
            "damaged", SERIOUS, {"n": len(damaged)}, details=tuple(damaged[:MOST_DETAILS])
        )
    if clock:
        numbers = [str(number) for number in clock[:MOST_DETAILS]]
        yield Problem("clock_back", WARNING, {"n": len(clock), "events": numbers})


def _of_requests(requests: Iterable[Request]) -> Iterator[Problem]:
    for request in requests:
        void = [approval.actor for approval in request.approvals if approval.void]
        values: dict[str, object] = {
            "request": request.number,
            "environment": request.environment,
            "revision": request.version.id,
            "counted": request.counted,
            "needed": request.needed,
            "actors": void,
        }
        if request.stale:
            yield Problem(
                "request_stale", WARNING, values, request.environment, details=(request.stale,)
            )
        elif void:
            yield Problem("request_void", WARNING, values, request.environment)
        else:
            yield Problem("request_waiting", NOTE, values, request.environment)


def _of_the_past(deployments: Sequence[Deployment]) -> Iterator[Problem]:
    past = [d for d in deployments if not d.serving]
    kinds = {
        "past_overridden": [d for d in past if d.overridden],
        "past_not_passed": [d for d in past if d.verdict not in (None, PASS) and not d.overridden],
        "past_approvals": [d for d in past if d.counted < d.needed],
    }
    for kind, found in kinds.items():
        if found:
            numbers = [d.number for d in found[:MOST_DETAILS]]
            yield Problem(kind, NOTE, {"n": len(found), "deployments": numbers})
