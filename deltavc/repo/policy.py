"""What is asked of versions: KPI definitions and gates, from ``deltavc.toml`` and from the log.

The file is reviewed like code, so it wins where both define a name; the lists say
where each comes from. Recorded ones are the refs ``kpi:NAME`` and ``gate:NAME``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from deltavc.errors import UsageError
from deltavc.ids import ObjectId
from deltavc.kpi.definitions import gate_from_table, kpi_from_table
from deltavc.kpi.rules import parse
from deltavc.records import canonical
from deltavc.records.model import Gate, Kpi
from deltavc.repo.policy_file import FILE, read_policy_file, tables

if TYPE_CHECKING:
    from pathlib import Path

    from deltavc.repo.repository import Repository

__all__ = ["FILE", "RECORDED", "Policy", "canonical_gate", "read_policy", "read_tables"]

RECORDED = "recorded"
KPI, GATE = "kpi:", "gate:"


@dataclass(frozen=True)
class Policy:
    """Definitions and gates that hold, by name.

    Attributes:
        kpis: The definitions.
        gates: The gates.
        origins: ``kpi:NAME`` and ``gate:NAME`` to the file's name or ``recorded``.
        overridden: Refs whose recorded value differs from the file's.
    """

    kpis: dict[str, Kpi] = field(default_factory=dict)
    gates: dict[str, Gate] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    overridden: frozenset[str] = frozenset()


def read_policy(repo: Repository) -> Policy:
    """Returns the definitions and gates that hold.

    Args:
        repo: The repository.

    Returns:
        Both, and where they come from.

    Raises:
        UsageError: The file cannot be read, or holds what is no definition.
    """
    kpis: dict[str, Kpi] = {}
    gates: dict[str, Gate] = {}
    origins: dict[str, str] = {}
    for ref, value in sorted(repo.state().refs.items()):
        if ref.startswith(KPI):
            kpis[ref.removeprefix(KPI)] = _record(repo, value, "kpi", Kpi)
        elif ref.startswith(GATE):
            gates[ref.removeprefix(GATE)] = _record(repo, value, "gate", Gate)
        else:
            continue
        origins[ref] = RECORDED
    file_kpis, file_gates = read_tables(repo.root / FILE)
    overridden = {KPI + name for name, kpi in file_kpis.items() if kpis.get(name, kpi) != kpi}
    overridden |= {
        GATE + name for name, gate in file_gates.items() if gates.get(name, gate) != gate
    }
    origins |= {KPI + name: FILE for name in file_kpis}
    origins |= {GATE + name: FILE for name in file_gates}
    return Policy(kpis | file_kpis, gates | file_gates, origins, frozenset(overridden))


def _record(repo: Repository, oid: str, kind: str, model: type[Any]) -> Any:
    return canonical.decode(repo.store.get(ObjectId(oid), kind), model)


def read_tables(path: Path) -> tuple[dict[str, Kpi], dict[str, Gate]]:
    """Reads the tables ``kpi`` and ``gate`` of a TOML file; one that is not there is empty.

    Args:
        path: The file.

    Returns:
        Definitions and gates by name, checked.

    Raises:
        UsageError: The file cannot be read, or holds what is no definition.
        InvalidName: A KPI or a gate cannot be called that.
    """
    content = read_policy_file(path)
    kpis = {
        name: kpi_from_table(name, table, path.name)
        for name, table in tables(content, "kpi", path).items()
    }
    gates = {
        name: canonical_gate(gate_from_table(name, table, path.name))
        for name, table in tables(content, "gate", path).items()
    }
    return kpis, gates


def canonical_gate(gate: Gate) -> Gate:
    """Returns a gate with its rules parsed and written in their canonical form.

    Args:
        gate: The gate.

    Returns:
        The same gate.

    Raises:
        UsageError: It has no rules, or what is no rule.
    """
    rules = tuple(str(parse(rule)) for rule in gate.rules)
    if not rules:
        raise UsageError(
            f"gate '{gate.name}' has no rule", hint='--require "accuracy >= 0.85"', gate=gate.name
        )
    return Gate(gate.name, tuple(dict.fromkeys(rules)), gate.description)
