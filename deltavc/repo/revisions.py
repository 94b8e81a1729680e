"""From a name to a revision: ``HEAD~2``, ``c7d20e``, ``dv-c7d2``, ``best:acc``, ``A..B``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import groupby, islice
from typing import TYPE_CHECKING, Literal

from deltavc.errors import AmbiguousRevision, UnknownRevision, UsageError
from deltavc.ids import SERVING, CommitId, ObjectId, is_object_id, is_serving_id, short
from deltavc.records import canonical
from deltavc.records.model import Tag, split_series
from deltavc.repo.repository import HEAD, branch_ref, tag_ref

if TYPE_CHECKING:
    from deltavc.ledger.state import State
    from deltavc.repo.repository import Repository

__all__ = ["Range", "parse_range", "peel", "resolve"]

_STEP = re.compile(r"[~^]\d{0,6}")
_PREFIX = re.compile(r"[0-9a-f]{4,64}\Z")
ENVIRONMENT = "env:"
MAX_SHOWN = 5


@dataclass(frozen=True)
class Range:
    """Revisions to list: those reachable from ``starts`` and not from ``exclude``."""

    starts: tuple[CommitId, ...]
    exclude: tuple[CommitId, ...] = ()


def resolve(repo: Repository, text: str, state: State | None = None) -> CommitId:
    """Resolves the name of a revision.

    Args:
        repo: The repository.
        text: The name, with any number of ``~N`` and ``^N`` behind it.
        state: Refs to resolve against; default: as of now.

    Returns:
        The commit's id.

    Raises:
        UnknownRevision: Nothing has this name, or history does not reach that far.
        AmbiguousRevision: A short id fits several commits.
    """
    state = state or repo.state()
    name, steps = _split(text)
    if name.startswith(ENVIRONMENT):
        commit, steps = _served(repo, name, steps, text)
    else:
        commit = _named(repo, name, state)
    for step in steps:
        commit = _walk(repo, commit, step, text)
    return commit


def parse_range(repo: Repository, text: str | None, state: State) -> Range:
    """Resolves ``A..B``, ``A..``, ``..B`` or a single revision; None is HEAD."""
    if text is None:
        return Range((repo.need_head(state),))
    before, dots, after = text.partition("..")
    if not dots:
        return Range((resolve(repo, text, state),))
    return Range(
        (resolve(repo, after or HEAD, state),), exclude=(resolve(repo, before or HEAD, state),)
    )


def peel(repo: Repository, oid: ObjectId) -> CommitId:
    """Returns the commit that a tag's value stands for: itself, or what an annotated tag names."""
    kind, body = repo.store.read_any(oid)
    if kind == "tag":
        return canonical.decode(body, Tag).commit
    return CommitId(oid)


def _split(text: str) -> tuple[str, list[str]]:
    at = min((i for i in (text.find("~"), text.find("^")) if i >= 0), default=len(text))
    name, rest = text[:at], text[at:]
    steps = _STEP.findall(rest)
    if "".join(steps) != rest or not name:
        raise UsageError(
            f"'{text[:80]}' is not a revision", hint="deltavc help revisions", revision=text
        )
    return name, steps


def _walk(repo: Repository, commit: CommitId, step: str, text: str) -> CommitId:
    kind, number = step[0], int(step[1:] or 1)
    if kind == "^":
        parents = repo.commit(commit).parents
        if number == 0:
            return commit
        if number > len(parents):
            raise UnknownRevision(
                f"'{text}' goes beyond the history: {short(commit)} has {len(parents)} parents",
                revision=text,
            )
        return parents[number - 1]
    for _ in range(number):
        parents = repo.commit(commit).parents
        if not parents:
            raise UnknownRevision(
                f"'{text}' goes beyond the first revision {short(commit)}", revision=text
            )
        commit = parents[0]
    return commit


def _named(repo: Repository, name: str, state: State) -> CommitId:
    if name in (HEAD, "@"):
        return repo.need_head(state)
    kind, colon, rest = name.partition(":")
    if colon:
        return _qualified(repo, kind, rest, name, state)
    if is_serving_id(name):  # no branch or tag can be called so, and it is what a log holds
        return _abbreviated(repo, name.removeprefix(SERVING), name)
    branch, tag = state.refs.get(branch_ref(name)), state.refs.get(tag_ref(name))
    if branch is not None:
        if tag is not None:
            repo.warnings.append(
                f"'{name}' is a branch and a tag; the branch is meant (tag:{name} is the tag)"
            )
        return CommitId(ObjectId(branch))
    if tag is not None:
        return peel(repo, ObjectId(tag))
    if is_object_id(name) and repo.store.has(ObjectId(name)):
        return _commit_or_tag(repo, ObjectId(name), name)
    if _PREFIX.match(name.removeprefix(SERVING)):
        return _abbreviated(repo, name.removeprefix(SERVING), name)
    raise _unknown(name, state)


def _qualified(repo: Repository, kind: str, rest: str, name: str, state: State) -> CommitId:
    if kind in ("branch", "tag"):
        value = state.refs.get(name)
        if value is None:
            raise _unknown(name, state)
        return peel(repo, ObjectId(value))
    if kind == "best":
        kpi, _, within = rest.partition("@")
        return _best(repo, kpi, within or HEAD, state)
    raise _unknown(name, state)


def _served(repo: Repository, name: str, steps: list[str], text: str) -> tuple[CommitId, list[str]]:
    """Finds what an environment serves; ``~N`` right behind it is what it served before."""
    from deltavc.repo.serving import Served

    environment = Served(repo, name.removeprefix(ENVIRONMENT))
    back, rest = 0, steps
    if steps and steps[0].startswith("~"):
        back, rest = int(steps[0][1:] or 1), steps[1:]
    commits = (s.record.commit for s in environment.standings())
    commit = next(islice((commit for commit, _ in groupby(commits)), back, None), None)
    if commit is None:
        told = "served nothing before that" if back else "serves nothing"
        raise UnknownRevision(
            f"'{text[:80]}': environment '{environment.name}' {told}",
            hint=f"what it served: deltavc env log {environment.name}",
            revision=text,
        )
    return commit, rest


def _best(repo: Repository, kpi: str, within: str, state: State) -> CommitId:
    """Finds the best of the values that count, in the KPI's direction; default: higher."""
    from deltavc.repo.policy import read_policy

    reader, definition = repo.reader(), read_policy(repo).kpis.get(split_series(kpi)[0])
    direction: Literal["higher", "lower"] = "higher"
    if definition is not None and definition.direction == "lower":
        direction = "lower"
    found = reader.best(kpi, direction, within=resolve(repo, within, state))
    if found is None:
        raise UnknownRevision(
            f"no revision of '{within}' has a measurement of '{kpi}'",
            hint=f"record one: deltavc kpi add REV {kpi}=VALUE --samples N",
            kpi=kpi,
        )
    return found.commit


def _abbreviated(repo: Repository, prefix: str, name: str) -> CommitId:
    """Finds the one revision whose id begins so; ``name`` is how it was asked for."""
    found = repo.reader().find_prefix(prefix)
    if len(found) > 1:
        raise AmbiguousRevision(
            f"'{name}' fits {len(found)} revisions: "
            + ", ".join(short(oid) for oid in found[:MAX_SHOWN])
            + (" …" if len(found) > MAX_SHOWN else ""),
            prefix=prefix,
            candidates=list(found),
        )
    if not found and name != prefix:
        raise UnknownRevision(
            f"no revision of this repository is served as '{name}'",
            hint="look where it was deployed from: another repository, or a newer copy of this one",
            revision=name,
        )
    if not found:
        raise UnknownRevision(f"no revision begins with '{prefix}'", revision=prefix)
    return CommitId(ObjectId(found[0]))


def _commit_or_tag(repo: Repository, oid: ObjectId, name: str) -> CommitId:
    kind, _ = repo.store.read_any(oid)
    if kind not in ("commit", "tag"):
        raise UnknownRevision(f"'{short(name)}' is a {kind}, not a revision", revision=name)
    return peel(repo, oid)


def _unknown(name: str, state: State) -> UnknownRevision:
    import difflib

    names = [n.partition(":")[2] for n in state.refs if n.startswith(("branch:", "tag:"))]
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean '{close[0]}'?" if close else UnknownRevision.default_hint
    return UnknownRevision(f"no revision is called '{name[:80]}'", hint=hint, revision=name)
