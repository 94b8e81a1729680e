"""The verbs ``kpi gate define``, ``list`` and ``check``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from deltavc.errors import Protected, UnknownRevision
from deltavc.ids import CommitId, check_name, is_object_id, short
from deltavc.kpi.estimates import Observed
from deltavc.kpi.rules import parse
from deltavc.kpi.verdicts import Evidence, Find, Verdict, judge, worst
from deltavc.records import canonical
from deltavc.records.model import Gate, split_series
from deltavc.repo.kpis import observed
from deltavc.repo.policy import FILE, GATE, RECORDED, Policy, canonical_gate, read_policy
from deltavc.repo.results_kpi import GateChecked, GateRow, RuleRow
from deltavc.repo.revisions import resolve

if TYPE_CHECKING:
    from deltavc.catalog.rows import MeasurementRow as CatalogRow
    from deltavc.repo.repository import Repository

__all__ = ["check", "define", "list_", "policy_bytes"]


def define(repo: Repository, gates: Sequence[Gate], *, dry_run: bool = False) -> list[GateRow]:
    """Records gates; the same again changes nothing.

    Args:
        repo: The repository.
        gates: The gates.
        dry_run: Only say what would change.

    Returns:
        The gates, rules in canonical form; ``changed`` says whether anything did, or would.

    Raises:
        Protected: ``deltavc.toml`` defines one of them differently.
        UsageError: A rule is none.
        InvalidName: A gate cannot be called that.
    """
    for gate in gates:
        check_name(gate.name, "gate")
    checked = [canonical_gate(gate) for gate in gates]
    policy = read_policy(repo)
    rows = []
    for gate in checked:
        now, origin = policy.gates.get(gate.name), policy.origins.get(GATE + gate.name)
        if origin == FILE and now != gate:
            raise Protected(
                f"gate '{gate.name}' is defined in {FILE}, differently",
                hint=f"change it there: [gate.{gate.name}]",
                gate=gate.name,
            )
        rows.append(_row(gate, origin or RECORDED, changed=now != gate))
    new = [gate for gate, found in zip(checked, rows, strict=True) if found.changed]
    if new and not dry_run:
        with repo.change("kpi gate define") as change:
            for gate in new:
                change.set(GATE + gate.name, repo.put_record("gate", gate))
            change.summary = f"define gate {', '.join(gate.name for gate in new)}"[:200]
    return rows


def _row(gate: Gate, origin: str, *, changed: bool, overrides: bool = False) -> GateRow:
    return GateRow(
        name=gate.name,
        origin=origin,
        rules=list(gate.rules),
        description=gate.description,
        overrides=overrides,
        changed=changed,
    )


def list_(repo: Repository) -> list[GateRow]:
    """Returns the gates by name."""
    policy = read_policy(repo)
    return [
        _row(
            gate,
            policy.origins[GATE + name],
            changed=False,
            overrides=GATE + name in policy.overridden,
        )
        for name, gate in sorted(policy.gates.items())
    ]


def check(
    repo: Repository, name: str, rev: str = "HEAD", *, against: str | None = None
) -> GateChecked:
    """Says whether a revision passes a gate, and why.

    Args:
        repo: The repository.
        name: The gate.
        rev: The revision.
        against: The baseline; default: what the one environment serves that asks this gate.
            Without any, rules that need it are inconclusive.

    Returns:
        The verdict: the worst of the rules'.

    Raises:
        UnknownRevision: There is no such gate or revision.
    """
    policy = read_policy(repo)
    gate = policy.gates.get(name)
    if gate is None:
        raise UnknownRevision(
            f"no gate is called '{name[:80]}'",
            hint="list the gates: deltavc kpi gate list",
            gate=name,
        )
    commit = resolve(repo, rev)
    baseline = _served_under(repo, name) if against is None else resolve(repo, against)
    found = repo.reader().latest_rows([commit] if baseline is None else [commit, baseline])
    new, old = found.get(commit, {}), found.get(baseline, {}) if baseline is not None else {}
    evidence = Evidence(
        kpis=policy.kpis,
        new=_finder(repo, new, policy),
        old=None if baseline is None else _finder(repo, old, policy),
        now=repo.session.clock(),
        same=baseline == commit,
    )
    verdicts = [judge(parse(rule), evidence) for rule in gate.rules]
    return GateChecked(
        gate=name,
        verdict=worst(verdicts),
        revision=commit,
        baseline=baseline,
        rules=[_rule_row(verdict, new, old) for verdict in verdicts],
        origin=policy.origins[GATE + name],
        policy=_policy_id(policy, gate),
        event=repo.state().number,
        hints=list(dict.fromkeys(_hints(verdicts, policy, rev, against))),
    )


def _served_under(repo: Repository, name: str) -> CommitId | None:
    """Returns what the one environment serves that asks a gate; None where there is not one."""
    from deltavc.repo.environment_policy import definitions

    asking = [
        environment
        for environment, (definition, _) in definitions(repo, repo.state().refs).items()
        if name in definition.gates
    ]
    serving = repo.reader().serving() if len(asking) == 1 else {}
    row = serving.get(asking[0]) if serving else None
    return None if row is None else row.commit


def _finder(repo: Repository, rows: dict[str, CatalogRow], policy: Policy) -> Find:
    def find(series: str) -> Observed | None:
        measured = rows.get(series)
        if measured is None:
            return None
        kpi = policy.kpis.get(split_series(series)[0])
        return observed(repo, measured, kpi, pairs=True)

    return find


def _policy_id(policy: Policy, gate: Gate) -> str:
    from deltavc.codec.digest import sha256_hex

    return sha256_hex(policy_bytes(policy, gate))


def policy_bytes(policy: Policy, gate: Gate) -> bytes:
    """Returns all that decides, the gate and the definitions that it names; its SHA-256 is told."""
    names = sorted({split_series(parse(rule).series)[0] for rule in gate.rules})
    kpis = [policy.kpis[name] for name in names if name in policy.kpis]
    return canonical.encode([gate, *kpis])


def _rule_row(verdict: Verdict, new: dict[str, CatalogRow], old: dict[str, CatalogRow]) -> RuleRow:
    mine, theirs = new.get(verdict.series), old.get(verdict.series)
    return RuleRow(
        rule=verdict.rule,
        verdict=verdict.verdict,
        sentence=verdict.sentence,
        kpi=verdict.series,
        value=verdict.value,
        baseline=verdict.baseline,
        difference=verdict.difference,
        low=verdict.low,
        high=verdict.high,
        confidence=verdict.confidence,
        samples=verdict.samples,
        method=verdict.method,
        measurement=mine.id if mine is not None else None,
        baseline_measurement=theirs.id if theirs is not None else None,
    )


def _hints(verdicts: Sequence[Verdict], policy: Policy, rev: str, against: str | None) -> list[str]:
    hints = []
    for verdict in verdicts:
        if verdict.missing:
            on = rev if verdict.missing == "revision" else against or ""
            on = short(on) if is_object_id(on) else on
            hints.append(f"deltavc kpi add {on} '{verdict.series}=VALUE' --samples N")
        kpi = split_series(verdict.series)[0]
        if verdict.verdict == "inconclusive" and kpi not in policy.kpis and not verdict.missing:
            hints.append(
                f"deltavc kpi define {kpi} --direction higher --kind proportion, or what it is"
            )
        if verdict.hint:
            hints.append(verdict.hint)
    return hints
