"""The verb ``merge``: two or more lines of adaptation become one version.

Three-way from the merge base: what one side changed is taken as it is, what
several changed equally counts once, and what they changed differently needs a
strategy or a rule, or nothing is recorded. There is no merge mode to be stuck
in. What is recorded keeps its recipe, so that the merge can be done again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from deltavc.delta.threeway import BASE, EQUAL
from deltavc.delta.vector import FILE, Vector
from deltavc.errors import BaseMismatch, MergeConflict, NotFastForward, RefMoved, UsageError
from deltavc.ids import CommitId, ManifestId, short
from deltavc.records.model import Commit, Recipe, Source
from deltavc.repo import signing
from deltavc.repo.merge_base import common_ancestors, independent, merge_base_vector
from deltavc.repo.merge_beside import check_beside
from deltavc.repo.merge_decide import CHANGED, Decider, Decision
from deltavc.repo.merge_settings import Settings, read_settings, settings_of
from deltavc.repo.objects import ObjectSink
from deltavc.repo.record import About, record_version
from deltavc.repo.repository import HEAD, branch_ref
from deltavc.repo.results import Merged, MergeRow
from deltavc.repo.revisions import resolve as resolve_revision

if TYPE_CHECKING:
    from deltavc.catalog.reader import CatalogReader
    from deltavc.ledger.state import State
    from deltavc.repo.change import Change
    from deltavc.repo.repository import Repository

__all__ = ["merge", "redo_merge"]

LOOK_BACK = 1000  # commits in which a revert of the merge is looked for


def merge(
    repo: Repository,
    revs: Sequence[str],
    *,
    message: str | None = None,
    strategy: str | None = None,
    options: Mapping[str, object] | None = None,
    resolve: Sequence[str] = (),
    max_rank: int | None = None,
    rel_error: float | None = None,
    fast_forward: str = "auto",
    dry_run: bool = False,
) -> Merged:
    """Merges revisions into HEAD.

    Args:
        repo: The repository.
        revs: What to merge; several at once make an octopus.
        message: Message; default says what is merged and how.
        strategy: How conflicting parameters are combined.
        options: The strategy's options.
        resolve: Rules ``GLOB=ours|theirs|base|STRATEGY`` that come before the strategy.
        max_rank: Recompress what is combined to this rank: approximate.
        rel_error: Recompress it within this relative error: approximate.
        fast_forward: ``auto``, ``only`` or ``never``.
        dry_run: Only plan it.

    Returns:
        What was recorded; ``changed`` is False when HEAD holds all of it already.

    Raises:
        UsageError: The strategy, its options or a rule make no sense, or an adapter that
            acts beside the weights meets weights that change.
        BaseMismatch: The revisions stand on different bases.
        MergeConflict: Something changed differently on several sides and nothing
            decides it; nothing is recorded.
        NotFastForward: With ``only``, HEAD is no ancestor.
        RefMoved: HEAD moved while the merge was computed.
    """
    started = time.monotonic()
    settings = read_settings(strategy, options, resolve, max_rank=max_rank, rel_error=rel_error)
    state = repo.state()
    head = repo.need_head(state)
    reader = repo.reader()
    named = {resolve_revision(repo, rev, state): rev for rev in revs}
    _same_base(repo, head, named)
    others = [oid for oid in independent(reader, [head, *named]) if oid != head]
    case = _Case(repo, reader, state, head, others, settings, started, dry_run)
    if not others:
        return case.up_to_date(list(named))
    ahead = len(others) == 1 and reader.is_ancestor(head, others[0])
    if ahead and fast_forward != "never":
        return case.forward(others[0])
    if fast_forward == "only":
        raise NotFastForward(
            f"{', '.join(named[oid] for oid in others)} cannot be reached by moving forward",
            hint="merge the histories: leave --ff-only out",
            head=head,
            others=list(others),
        )
    settings.check(1 + len(others))
    signing.ready(repo)
    how = settings.pick or (settings.strategy.name if settings.strategy else "")
    text = f"merge {', '.join(named[oid] for oid in others)}" + (f" with {how}" if how else "")
    return case.merge(message or text, [named[oid] for oid in others])


def _same_base(repo: Repository, head: CommitId, others: Mapping[CommitId, str]) -> None:
    base = repo.commit(head).base
    for oid, rev in others.items():
        found = repo.commit(oid).base
        if found != base:
            raise BaseMismatch(
                f"'{rev}' stands on base {short(found)}, HEAD on {short(base)}",
                hint="deltas add up on one base only; commit its model against HEAD's base",
                expected=base,
                found=found,
            )


@dataclass
class _Case:
    """One merge: who meets whom."""

    repo: Repository
    reader: CatalogReader
    state: State
    head: CommitId
    others: list[CommitId]
    settings: Settings
    started: float
    dry_run: bool

    def up_to_date(self, named: Sequence[CommitId]) -> Merged:
        """Returns that HEAD holds everything already, and what took it back, if something did."""
        taken_back = _taken_back_by(self.repo, self.reader, self.head, named)
        return self._result("up-to-date", self.head, "", taken_back=taken_back)

    def forward(self, target: CommitId) -> Merged:
        """Moves HEAD's branch forward."""
        if not self.dry_run:
            with self.repo.change("merge") as change:
                self._unmoved(change.state)
                branch = self.repo.head_branch(change.state)
                change.set(HEAD if branch is None else branch_ref(branch), target)
                change.summary = f"merge: {branch or 'HEAD'} moved forward to {target[:10]}"
        return self._result("fast-forward", target, "", bases=[self.head])

    def merge(self, message: str, named: Sequence[str]) -> Merged:
        """Decides the merge and records it."""
        repo, keys = self.repo, [self.head, *self.others]
        with repo.store.pack() as pack:
            sink = ObjectSink(repo.store, None if self.dry_run else pack, keep=self.dry_run)
            bases, decider = _decider(repo, self.reader, keys, self.settings, sink)
            check_beside(repo, decider.base, decider.sides, [HEAD, *named])
            decision = decider.decide()
            if decision.clashes:
                raise _conflict(decider, decision, bases, named)
            vector = decision.vector(decider.base)
            _check_terms(decider, decision, vector)
            recipe = msgspec.structs.replace(
                self.settings.recipe(),
                bases=tuple(bases),
                outcomes=decision.outcomes,
                facts=decision.facts,
            )
            commit = None
            if not self.dry_run:
                with repo.change("merge") as change:
                    commit = self._record(change, sink, vector, decision, recipe, message, named)
                    pack.finish()  # objects before the event
        return self._result(
            "merge",
            commit,
            message,
            bases=bases,
            rows=_rows(decider, decision) if self.dry_run else _plain_rows(decision),
            unchanged=len(vector.params) - sum(n in vector.params for n in decision.outcomes),
            stored=sink.stored,
            errors=decision.errors,
        )

    def _record(
        self,
        change: Change,
        sink: ObjectSink,
        vector: Vector,
        decision: Decision,
        recipe: Recipe,
        message: str,
        named: Sequence[str],
    ) -> CommitId:
        self._unmoved(change.state)
        about = About(
            message=message,
            source=Source("merge", ", ".join(named)),
            errors=decision.errors,
            contents=_contents(decision),
            recipe=sink.record("recipe", recipe),
        )
        parents = (self.head, *self.others)
        commit, _ = record_version(self.repo, change, sink, vector, about, parents=parents)
        assert commit is not None
        return commit

    def _unmoved(self, state: State) -> None:
        found = self.repo.head_commit(state)
        if found != self.head:
            raise RefMoved("HEAD moved while the command ran", expected=self.head, found=found)

    def _result(
        self,
        kind: str,
        commit: CommitId | None,
        message: str,
        *,
        bases: Sequence[CommitId] = (),
        rows: Sequence[MergeRow] = (),
        unchanged: int = 0,
        stored: int = 0,
        errors: Mapping[str, float] | None = None,
        taken_back: CommitId | None = None,
    ) -> Merged:
        repo = self.repo
        base = repo.commit(self.head).base
        return Merged(
            kind=kind,
            commit=commit,
            branch=repo.head_branch(self.state),
            message=message,
            base=base,
            base_name=repo.base_name(self.state, base),
            merge_bases=list(bases),
            sides=[self.head, *self.others],
            strategy=self.settings.recipe().strategy,
            rows=list(rows),
            unchanged=unchanged,
            bytes_stored=stored,
            errors=dict(errors or {}),
            seconds=time.monotonic() - self.started,
            changed=kind != "up-to-date",
            dry_run=self.dry_run,
            taken_back_by=taken_back,
        )


def redo_merge(repo: Repository, commit: Commit) -> tuple[ManifestId, Recipe] | None:
    """Does a merge again from its parents and recipe.

    Args:
        repo: The repository.
        commit: A commit.

    Returns:
        The manifest's id that it comes to, and its recipe with outcomes and facts as
        they come now; None for a commit that no recipe made.
    """
    if commit.recipe is None:
        return None
    recipe = repo.recipe(commit.recipe)
    sink = ObjectSink(repo.store, None, keep=True)
    settings = settings_of(recipe)
    _, decider = _decider(repo, repo.reader(), commit.parents, settings, sink, recipe.bases)
    decision = decider.decide()
    if decision.clashes:
        raise MergeConflict(f"'{decision.clashes[0].name}' is in conflict when merged again")
    manifest = ManifestId(sink.record("manifest", decision.vector(decider.base).to_manifest()))
    again = msgspec.structs.replace(recipe, outcomes=decision.outcomes, facts=decision.facts)
    return manifest, again


def _decider(
    repo: Repository,
    reader: CatalogReader,
    keys: Sequence[CommitId],
    settings: Settings,
    sink: ObjectSink,
    bases: Sequence[CommitId] | None = None,
) -> tuple[list[CommitId], Decider]:
    """Returns the merge bases and what decides the merge of these commits."""
    found = _bases(reader, keys) if bases is None else list(bases)
    base = merge_base_vector(repo, reader, found, repo.commit(keys[0]).base)
    sides = [repo.vector(key) for key in keys]
    return found, Decider(repo, base, sides, keys, settings, sink)


def _bases(reader: CatalogReader, keys: Sequence[CommitId]) -> list[CommitId]:
    """Returns the merge bases of all sides, which each two of them must have, too."""
    found = common_ancestors(reader, keys[:1], keys[1])
    pairs = ((a, b) for n, a in enumerate(keys) for b in keys[n + 1 :])
    if any(common_ancestors(reader, [a], b) != found for a, b in pairs):
        raise UsageError(
            "the revisions share history that HEAD lacks, which merged at once would count twice",
            hint="merge them one after another",
            sides=list(keys),
        )
    return found


def _conflict(
    decider: Decider, decision: Decision, bases: Sequence[CommitId], named: Sequence[str]
) -> MergeConflict:
    from deltavc.repo.merge_report import conflict_rows

    rows = conflict_rows(decider, decision.clashes)
    since = f" since {short(bases[0])}" if len(bases) == 1 else ""
    count = len(rows)
    what = "parameter" if not any(row.name.startswith(FILE) for row in rows) else "item"
    first, target = rows[0].name, " ".join(named)
    hints = [f'choose for each: deltavc merge {target} --resolve "{first}=ours"']
    if any(
        clash.reason == CHANGED and not clash.name.startswith(FILE) for clash in decision.clashes
    ):
        hints += [
            f"or add up:       deltavc merge {target} -s sum",
            f"or blend:        deltavc merge {target} -s ties --density 0.4",
        ]
    return MergeConflict(
        f"{count} {what}{'' if count == 1 else 's'} changed on both sides{since}",
        hint="\n".join(hints),
        conflicts=[msgspec.to_builtins(row) for row in rows],
        merge_bases=list(bases),
        decided=len(decision.outcomes),
    )


def _check_terms(decider: Decider, decision: Decision, vector: Vector) -> None:
    """Makes sure that what was combined of several terms can be rebuilt."""
    from deltavc.repo.encoding import term_check

    names = [
        name
        for name, outcome in decision.outcomes.items()
        if outcome not in (EQUAL, BASE) and not _is_side(outcome) and name in vector.params
    ]
    mixed = [
        name
        for name in names
        if len(vector.params[name]) > 1
        and any(decider.delta(oid).kind == "replace" for oid in vector.params[name])
    ]
    if mixed:
        known = decider.opened.record.tensors
        origin = decider.opened.tensor
        repo = decider.repo
        term_check(repo, vector, mixed, lambda n: origin(n) if n in known else None, decider.delta)


def _plain_rows(decision: Decision) -> list[MergeRow]:
    return [
        MergeRow(
            name=name,
            outcome=outcome,
            facts=decision.facts.get(name, {}),
            error=decision.errors.get(name),
        )
        for name, outcome in sorted(decision.outcomes.items())
    ]


def _rows(decider: Decider, decision: Decision) -> list[MergeRow]:
    """Returns the plan of a dry run, with how the sides meet in what is combined."""
    from deltavc.repo.merge_report import meeting

    rows = []
    for row in _plain_rows(decision):
        norms, cosine, opposed = meeting(decider, row.name)
        rows.append(msgspec.structs.replace(row, norms=norms, cosine=cosine, opposed=opposed))
    return rows


def _contents(decision: Decision) -> dict[str, int]:
    """Returns how many parameters were decided how."""
    contents: dict[str, int] = {}
    for name, outcome in decision.outcomes.items():
        if not name.startswith(FILE):
            how = outcome if outcome == EQUAL else f"by {outcome}"
            how = f"from {outcome}" if outcome == BASE or _is_side(outcome) else how
            contents[how] = contents.get(how, 0) + 1
    return contents


def _is_side(outcome: str) -> bool:
    return outcome == "ours" or outcome.startswith("theirs")


def _taken_back_by(
    repo: Repository, reader: CatalogReader, head: CommitId, named: Sequence[CommitId]
) -> CommitId | None:
    """Returns the revert, on HEAD's own line, of a merge that brought one of these commits."""
    at: CommitId | None = head
    for _ in range(LOOK_BACK):
        if at is None:
            return None
        commit = repo.commit(at)
        if commit.source is not None and commit.source.kind == "revert":
            for text in commit.source.detail.split(","):
                taken = repo.commit(CommitId(text))  # type: ignore[arg-type]
                brought = any(reader.is_ancestor(oid, parent)
                              for oid in named for parent in taken.parents[1:])  # fmt: skip
                if brought:
                    return at
        at = commit.parents[0] if commit.parents else None
    return None
