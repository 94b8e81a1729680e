"""Deciding a merge: each parameter and file by the three-way table, a rule or the strategy.

Nothing here changes the repository. New objects (a strategy's result, merged
rows, a merged config) go to the sink that the verb, or ``fsck --deep``, passes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property, partial
from typing import TYPE_CHECKING, NamedTuple

from deltavc.delta.threeway import BASE, EQUAL, Standing, put, side_number, split, sum_terms
from deltavc.delta.vector import FILE, Terms, Vector, add_terms, form_from_text
from deltavc.errors import ObjectCorrupt
from deltavc.ids import CommitId, DeltaId, ObjectId
from deltavc.repo.merge_rows import merge_json, merge_rows
from deltavc.repo.openbase import OpenBase, open_base

if TYPE_CHECKING:
    from deltavc.delta.kinds import Delta
    from deltavc.delta.rebuild import Term
    from deltavc.merge.strategy import Parameter, Side, Strategy
    from deltavc.merge.survey import Shares
    from deltavc.records.model import BaseTensor
    from deltavc.repo.merge_settings import Settings
    from deltavc.repo.objects import ObjectSink
    from deltavc.repo.repository import Repository

__all__ = ["CHANGED", "Clash", "Decider", "Decision"]

CHANGED, REPLACED, SHAPES, DROPPED, ROWS, KEYS = (
    "changed on both sides",
    "replaced on both sides",
    "of different shapes or dtypes",
    "removed on one side, changed on another",
    "rows changed on both sides",
    "keys changed on both sides",
)
Facts = dict[str, float | int | str]


@dataclass(frozen=True)
class Clash:
    """What could not be decided: a parameter or file, why, and which rows or keys of it."""

    name: str
    reason: str
    parts: tuple[str, ...] = ()


@dataclass
class Decision:
    """What a merge comes to.

    Attributes:
        params: Parameter to terms.
        meta: The vector's other keys.
        outcomes: How each parameter or file that some side changed was decided.
        facts: What strategies say of parameters.
        errors: Measured relative errors of parameters that are approximate.
        clashes: What could not be decided.
    """

    params: dict[str, Terms] = field(default_factory=dict)
    meta: dict[str, str] = field(default_factory=dict)
    outcomes: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Facts] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    clashes: list[Clash] = field(default_factory=list)

    def vector(self, base: Vector) -> Vector:
        """Returns the merge as a vector over the same base model."""
        params, meta = dict(sorted(self.params.items())), dict(sorted(self.meta.items()))
        return Vector(base.base, params, meta)


class _Met(NamedTuple):
    """A conflict: replaced rows, additive terms before and now, and what is settled of these."""

    replaced: Terms
    before: Terms
    now: list[Terms]
    settled: Terms | None


class _Undecided(Exception):
    """A parameter or file is in conflict."""

    def __init__(self, reason: str, parts: Sequence[object] = ()) -> None:
        super().__init__(reason)
        self.reason = reason
        self.parts = tuple(str(part) for part in parts)


class Decider:
    """Decides one merge.

    Args:
        repo: The repository.
        base: The merge base's version.
        sides: The versions to merge; ours first.
        keys: Their commits.
        settings: The strategy and the rules.
        sink: Takes new objects.
    """

    def __init__(
        self,
        repo: Repository,
        base: Vector,
        sides: Sequence[Vector],
        keys: Sequence[CommitId],
        settings: Settings,
        sink: ObjectSink,
    ) -> None:
        self.repo = repo
        self.base = base
        self.sides = sides
        self.keys = keys
        self.settings = settings
        self.sink = sink
        self.room = repo.store.room()
        self._deltas: dict[DeltaId, Delta] = {}
        self._made: dict[DeltaId, Delta] = {}
        self._combined: dict[object, tuple[Terms, Facts, float | None]] = {}
        self._shares: dict[Strategy, Shares] = {}

    @cached_property
    def opened(self) -> OpenBase:
        """The base's files; opened only where a strategy or a check needs them."""
        return open_base(self.repo, self.base.base)

    @cached_property
    def _tensors(self) -> Mapping[str, BaseTensor]:
        return self.repo.base(self.base.base).tensors

    @cached_property
    def _errors(self) -> list[dict[str, float]]:
        return [self.repo.commit(key).errors for key in self.keys]

    def decide(self) -> Decision:
        """Returns what the merge comes to."""
        found = split(self.base, self.sides)
        self._survey(found.conflicts)
        done = Decision(meta=dict(found.meta), outcomes=dict(found.outcomes))
        for name, standing in found.standings.items():
            put(done.params, done.meta, name, standing)
            self._inherit(done, name, found.outcomes.get(name, BASE))
        for number, name in enumerate(found.conflicts):
            try:
                self._parameter(done, name)
            except _Undecided as clash:
                done.clashes.append(Clash(name, clash.reason, clash.parts))
            self.repo.session.progress("merge", number + 1, len(found.conflicts))
        for key in found.meta_conflicts:
            try:
                self._file(done, key)
            except _Undecided as clash:
                done.clashes.append(Clash(key, clash.reason, clash.parts))
        return done

    # parameters -----------------------------------------------------------

    def _parameter(self, done: Decision, name: str) -> None:
        before = Standing.of(self.base, name)
        now = [Standing.of(side, name) for side in self.sides]
        pick, strategy = self.settings.choice(name)
        if pick is not None:
            chosen = before if pick == BASE else now[side_number(pick)]
            put(done.params, done.meta, name, chosen)
            done.outcomes[name] = pick
            self._inherit(done, name, pick)
            return
        terms, outcome, facts, error = self._combine(name, before, now, strategy)
        put(done.params, done.meta, name, Standing(tuple(sorted(terms.items())), now[0].shape))
        done.outcomes[name] = outcome
        self._release(terms)
        if facts:
            done.facts[name] = facts
        known = [errors[name] for errors in self._errors if name in errors]
        if error is not None or known:
            done.errors[name] = max([*known, error or 0.0])

    def _combine(
        self, name: str, before: Standing, now: Sequence[Standing], strategy: Strategy | None
    ) -> tuple[Terms, str, Facts, float | None]:
        """Returns terms, how they came about, facts and a measured error of a conflict."""
        met = self._meet(name, before, now)
        if met.settled is not None:
            return add_terms((1, met.settled), (1, met.replaced)), "rows", {}, None
        if strategy is None:
            raise _Undecided(CHANGED)
        memory = self._memory(name, before, now, strategy)
        if memory not in self._combined:
            self._combined[memory] = self._apply(name, now[0].shape, met.before, met.now, strategy)
        terms, facts, error = self._combined[memory]
        return add_terms((1, terms), (1, met.replaced)), strategy.name, facts, error

    def _memory(
        self, name: str, before: Standing, now: Sequence[Standing], strategy: Strategy
    ) -> object:
        """Returns what a result is remembered by, so that tied parameters stay tied.

        They have the same deltas on the same tensor.
        """
        record = self._base_tensor(name)
        return (before, *now, strategy, record and record.sha256)

    def _meet(self, name: str, before: Standing, now: Sequence[Standing]) -> _Met:
        """Returns the parts of a conflict, as far as the table decides them."""
        changed = [standing for standing in now if standing != before]
        if any(standing.removed for standing in changed):
            raise _Undecided(DROPPED)
        if len({standing.shape for standing in changed}) > 1:
            raise _Undecided(SHAPES)
        every = [self._apart(before), *(self._apart(standing) for standing in now)]
        if any(whole for _, _, whole in every):
            raise _Undecided(REPLACED)
        replaced = self._rows([rows for _, rows, _ in every])
        old, *new = (terms for terms, _, _ in every)
        within = split(_alone(self.base, name, old), [_alone(self.base, name, t) for t in new])
        settled = None
        if not within.conflicts:
            settled = dict(within.standings[name].terms) if name in within.standings else {}
        return _Met(replaced, old, new, settled)

    def _apply(
        self,
        name: str,
        shape: str | None,
        before: Terms,
        now: Sequence[Terms],
        strategy: Strategy,
    ) -> tuple[Terms, Facts, float | None]:
        """Returns what a strategy makes of the additive terms of a parameter."""
        facts: Facts = {}
        weights = getattr(strategy, "weights", None)
        if strategy.name == "sum" and (weights is None or set(weights) == {1}):
            terms: Terms = sum_terms(before, now)
        else:
            involved, increments, sides = self._sides(name, before, now, strategy)
            if weights is not None and len(sides) != len(weights):
                strategy = replace(strategy, weights=tuple(weights[i] for i in involved))  # type: ignore[call-arg]
            outcome = strategy.combine(
                self._form(name, shape), sides, threads=self.repo.session.threads
            )
            facts = dict(outcome.facts)
            if outcome.coefficients is not None:
                pairs = zip(outcome.coefficients, increments, strict=True)
                terms = add_terms((1, before), *pairs)
            elif outcome.delta is not None:
                terms = add_terms((1, before), (1, {self._keep(outcome.delta): Fraction(1)}))
            else:
                terms = before
        if self.settings.bounded:
            return self._bound(name, shape, terms, facts)
        return terms, facts, None

    def _sides(
        self, name: str, before: Terms, now: Sequence[Terms], strategy: Strategy
    ) -> tuple[list[int], list[dict[DeltaId, Fraction]], tuple[Side, ...]]:
        """Returns which sides changed a parameter, and their increments as terms and as sides."""
        from deltavc.merge.strategy import Side

        involved = [i for i, terms in enumerate(now) if terms != before]
        increments = [add_terms((1, now[i]), (-1, before)) for i in involved]
        shares = self._shares.get(strategy, {})
        sides = [
            Side(tuple(self._terms(terms)), self.keys[i], shares.get((name, self.keys[i])))
            for i, terms in zip(involved, increments, strict=True)
        ]
        return involved, increments, tuple(sides)

    # over the whole model -------------------------------------------------

    def _survey(self, names: Sequence[str]) -> None:
        """Lets strategies that decide over the whole model look at all that they will merge."""
        chosen = {name: self.settings.choice(name)[1] for name in names}
        for strategy in dict.fromkeys(filter(None, chosen.values())):
            if strategy.surveys:
                from deltavc.merge.survey import survey

                mine = [name for name in names if chosen[name] == strategy]
                cases = partial(self._cases, mine, strategy)
                threads = self.repo.session.threads
                self._shares[strategy] = survey(strategy, cases, threads=threads)

    def _cases(
        self, names: Sequence[str], strategy: Strategy
    ) -> Iterator[tuple[Parameter, tuple[Side, ...]]]:
        """Yields the parameters that a strategy will merge, with their sides; of tied ones one."""
        seen = set()
        for number, name in enumerate(names):
            before = Standing.of(self.base, name)
            now = [Standing.of(side, name) for side in self.sides]
            memory = self._memory(name, before, now, strategy)
            if memory not in seen:
                seen.add(memory)
                met = self._met(name, before, now)
                if met is not None and met.settled is None:
                    sides = self._sides(name, met.before, met.now, strategy)[2]
                    yield self._form(name, now[0].shape), sides
            self._deltas.clear()
            self.repo.session.progress("survey", number + 1, len(names))

    def _met(self, name: str, before: Standing, now: Sequence[Standing]) -> _Met | None:
        """Returns the parts of a conflict; None where there is no strategy for it."""
        try:
            return self._meet(name, before, now)
        except _Undecided:  # who decides the parameter says so again
            return None

    # parts of a conflict --------------------------------------------------

    def _bound(
        self, name: str, shape: str | None, terms: Terms, facts: Facts
    ) -> tuple[Terms, Facts, float | None]:
        """Makes one low-rank delta of a sum: approximate, and told so."""
        from deltavc.merge.recompress import recompress

        if not terms:
            return terms, facts, None
        delta, error, rank = recompress(
            self._form(name, shape),
            tuple(self._terms(terms)),
            max_rank=self.settings.max_rank,
            rel_error=self.settings.rel_error,
        )
        facts = facts | {"rank": rank, "relative_error": error}
        return {self._keep(delta): Fraction(1)}, facts, error or None

    # pieces ---------------------------------------------------------------

    def _apart(self, standing: Standing) -> tuple[Terms, list[Delta], bool]:
        """Returns additive terms, replaced rows, and whether the whole is replaced."""
        terms: dict[DeltaId, Fraction] = {}
        rows: list[Delta] = []
        whole = False
        for oid, coefficient in standing.terms:
            delta = self.delta(oid)
            if delta.kind != "replace":
                terms[oid] = coefficient
            elif delta.header.rows:
                rows.append(delta)
            else:
                whole = True
        return terms, rows, whole

    def _rows(self, parts: Sequence[Sequence[Delta]]) -> Terms:
        """Returns the replaced rows of all sides as a term, merged row by row."""
        if not any(parts):
            return {}
        try:
            delta, conflicts = merge_rows(parts[0], parts[1:])
        except ValueError as error:
            raise _Undecided(SHAPES) from error
        if conflicts:
            raise _Undecided(ROWS, conflicts)
        return {} if delta is None else {self._keep(delta): Fraction(1)}

    def _file(self, done: Decision, key: str) -> None:
        pick, _ = self.settings.choice(key)  # a strategy says nothing of files
        values = [side.meta.get(key) for side in self.sides]
        before = self.base.meta.get(key)
        if pick is not None:
            chosen = before if pick == BASE else values[side_number(pick)]
            outcome = pick
        elif key.startswith(FILE) and key.endswith(".json"):
            old = self._blob(key, before)
            merged, conflicts = merge_json(old, [self._blob(key, v) for v in values])
            if merged is None:
                raise _Undecided(KEYS if conflicts else CHANGED, conflicts)
            chosen, outcome = self.sink.blob(merged), "keys"
        else:
            raise _Undecided(CHANGED)
        done.outcomes[key] = outcome
        if chosen is not None:
            done.meta[key] = chosen

    def _blob(self, key: str, value: str | None) -> bytes:
        """Returns a file's bytes; the base's own where the version has no other."""
        if value is None:
            info = self.opened.source.files.get(key.removeprefix(FILE))
            value = info.blob if info is not None else ""
        return bytes(self.repo.store.get(ObjectId(value), "blob")) if value else b""

    def _inherit(self, done: Decision, name: str, outcome: str) -> None:
        """Carries over the measured error of what a side brings, or of what no side changed."""
        if name not in done.params:
            return
        if outcome == EQUAL:
            before = Standing.of(self.base, name)
            changed = (i for i, v in enumerate(self.sides) if Standing.of(v, name) != before)
            errors = [self._errors[next(changed)]]
        else:
            errors = self._errors if outcome == BASE else [self._errors[side_number(outcome)]]
        known = [one[name] for one in errors if name in one]
        if known:
            done.errors[name] = max(known)

    def _terms(self, terms: Terms) -> list[Term]:
        from deltavc.delta.rebuild import Term

        return [Term(self.delta(oid), coefficient) for oid, coefficient in sorted(terms.items())]

    def _release(self, terms: Terms) -> None:
        """Lets go of a parameter's deltas: a merge of whole models would hold them all.

        Of those made here the header stays, but for what goes with replaced rows,
        whose sum is looked at once more.
        """
        mixed = any(self.delta(oid).kind == "replace" for oid in terms)
        if not mixed:
            self._made |= {
                oid: replace(self._made[oid], streams=()) for oid in terms if oid in self._made
            }
        self._deltas.clear()

    def delta(self, oid: DeltaId) -> Delta:
        """Returns a delta; those made by this merge too."""
        if oid in self._made:
            return self._made[oid]
        if oid not in self._deltas:
            self._deltas[oid] = self.repo.delta(oid, self.room)
        return self._deltas[oid]

    def _keep(self, delta: Delta) -> DeltaId:
        oid, _ = self.sink.delta(delta, self.room)
        self._made[oid] = delta
        return oid

    def _base_tensor(self, name: str) -> BaseTensor | None:
        return self._tensors.get(name)

    def _form(self, name: str, shape: str | None) -> Parameter:
        from deltavc.delta.tensor import DTYPES
        from deltavc.merge.strategy import Parameter

        record = self._base_tensor(name)
        if shape is not None:
            dtype, dims = form_from_text(shape)
        elif record is not None:
            dtype, dims = record.dtype, record.shape
        else:
            raise ObjectCorrupt(f"nothing says what shape '{name}' has", parameter=name)
        origin = self.opened.tensor(name) if record is not None else None
        return Parameter(name, origin, DTYPES[dtype], dims, self.room)


def _alone(base: Vector, name: str, terms: Terms) -> Vector:
    return Vector(base.base, {name: terms} if terms else {})
