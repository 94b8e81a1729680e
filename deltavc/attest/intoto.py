"""An in-toto statement of what the gates said of a version.

The predicate is ``test-result``: every rule of every gate is a test that passed, warned
(inconclusive) or failed, and the configuration names the gates' policies by digest. Its
subjects are the version's commit and manifest, and the files of a checkout where one is
given. The statement is unsigned; sign the file, or put it in an envelope.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from deltavc.attest.extra import require
from deltavc.attest.folder import checked_digests
from deltavc.attest.text import document, without_empty
from deltavc.attest.verdicts import Verdicts, verdicts_of
from deltavc.codec.digest import sha256_hex
from deltavc.errors import UsageError
from deltavc.ids import CommitId, short
from deltavc.kpi.outcomes import worst_of
from deltavc.repo.gates import policy_bytes
from deltavc.repo.policy import Policy, read_policy
from deltavc.repo.revisions import resolve

if TYPE_CHECKING:
    from deltavc.records.ship import GateSeen
    from deltavc.repo.repository import Repository

__all__ = ["PREDICATE", "STATEMENT", "gate_statement"]

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://in-toto.io/attestation/test-result/v0.1"
_RESULTS = {"pass": "PASSED", "inconclusive": "WARNED", "fail": "FAILED"}
_LISTS = {"pass": "passedTests", "inconclusive": "warnedTests", "fail": "failedTests"}


def gate_statement(
    repo: Repository,
    rev: str,
    *,
    folder: Path | None = None,
    gates: Sequence[str] = (),
    against: str | None = None,
) -> bytes:
    """Returns the statement of what the gates said of a revision.

    Args:
        repo: The repository.
        rev: The revision.
        folder: A checkout of it, whose files become subjects as well.
        gates: Ask these gates; default: what its newest deployment recorded.
        against: The baseline for them.

    Returns:
        The statement as JSON, UTF-8; the same for the same state of the repository.

    Raises:
        UsageError: No gate was ever asked about the revision, and none is given.
        UnknownRevision: There is no such revision, gate or baseline.
        WorkspaceDirty: The folder is no checkout of the revision.
        MissingExtra: The library is not installed.

    Source:
        in-toto attestation framework, predicate ``test-result`` v0.1.
    """
    if against is not None and not gates:
        raise UsageError(
            "a baseline belongs to gates that are asked now", hint="say which: --gate NAME"
        )
    for module in ("in_toto_attestation.v1.statement", "google.protobuf.json_format"):
        require(module)  # before a folder is read
    commit = resolve(repo, rev)
    found = verdicts_of(repo, commit, gates=gates, against=against)
    if not found.gates:
        raise UsageError(
            f"no gate has been asked about '{short(commit)}' by a deployment of it",
            hint="say which to ask: --gate NAME",
            revision=commit,
        )
    files = {} if folder is None else checked_digests(repo, commit, folder)
    statement = {
        "_type": STATEMENT,
        "subject": _subjects(repo, commit, files),
        "predicateType": PREDICATE,
        "predicate": _predicate(repo, found),
    }
    return document(_checked(statement))


def _subjects(repo: Repository, commit: CommitId, files: Mapping[str, str]) -> list[dict[str, Any]]:
    """Returns the subjects; the SHA-256 of an object's canonical bytes is its id."""
    manifest = repo.commit(commit).manifest
    named: dict[str, str] = {
        f"deltavc/commit/{commit}": commit,
        f"deltavc/manifest/{manifest}": manifest,
        **files,
    }
    return [{"name": name, "digest": {"sha256": digest}} for name, digest in named.items()]


def _predicate(repo: Repository, found: Verdicts) -> dict[str, Any]:
    tests: dict[str, list[str]] = {name: [] for name in _LISTS.values()}
    for gate in found.gates:
        for rule in gate.rules:
            tests[_LISTS[rule.verdict]].append(f"{gate.gate}: {rule.rule}")
    worst = worst_of(gate.verdict for gate in found.gates)
    assert worst is not None  # refused above: there is no statement without a gate
    policy = read_policy(repo)
    return {
        "result": _RESULTS[worst],
        "configuration": [_configuration(policy, gate, found) for gate in found.gates],
        **without_empty(tests),
    }


def _configuration(policy: Policy, gate: GateSeen, found: Verdicts) -> dict[str, Any]:
    """Returns a gate's policy by digest, and by content where it is still the one in force."""
    told = without_empty(
        {
            "verdict": gate.verdict,
            "overridden": gate.overridden or None,
            "baseline": gate.baseline,
            "deployment": found.deployment,
            "environment": found.environment,
            "rules": list(map(_rule, gate.rules)),
        }
    )
    entry = {
        "name": f"deltavc/gate/{gate.gate}",
        "digest": {"sha256": gate.policy},
        "mediaType": "application/json",
        "annotations": told,
    }
    now = policy.gates.get(gate.gate)
    body = b"" if now is None else policy_bytes(policy, now)
    if sha256_hex(body) == gate.policy:
        entry["content"] = base64.b64encode(body).decode()
    return entry


def _rule(rule: object) -> dict[str, Any]:
    return without_empty(msgspec.to_builtins(rule))


def _checked(statement: dict[str, Any]) -> Any:
    """Returns the statement as the library reads and writes it: its form, and nothing else."""
    json_format = require("google.protobuf.json_format")
    library = require("in_toto_attestation.v1.statement")
    descriptor = require("in_toto_attestation.v1.resource_descriptor").ResourceDescriptor
    messages = require("in_toto_attestation.predicates.test_result.v0.test_result_pb2")
    json_format.ParseDict(statement["predicate"], messages.TestResult())
    subjects = [
        descriptor(name=one["name"], digest=one["digest"]).pb for one in statement["subject"]
    ]
    found = library.Statement(subjects, statement["predicateType"], statement["predicate"])
    found.validate()
    return _whole(json_format.MessageToDict(found.pb))


def _whole(value: Any) -> Any:
    """Returns whole numbers as such: protobuf's values know no others than floating ones."""
    if isinstance(value, dict):
        return {key: _whole(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_whole(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
