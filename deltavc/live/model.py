"""A resident torch model that moves between versions of one base.

Each parameter that differs between two versions is rebuilt from the base and
the new version's deltas: a pure function of both, so a thousand switches there
and back leave no trace. Nothing is ever added to, or taken off, what lies in the
model.

How a request sees one version
==============================

A serving thread works inside ``with live.serving():``. A switch that replaces
weights waits until nobody is inside, and keeps newcomers out until it is done.
Two ways to do it, chosen when the live model is made:

``beside`` (the default) rebuilds into memory of its own while requests go on, and
then exchanges pointers, in microseconds a tensor. It needs the size of the tensors
that differ once more, and keeps that memory: it is where the next switch builds,
and while it still holds the version before, going back computes nothing.

``in-place`` first reads and decodes all that it needs, then lets requests wait
while it computes into the weights themselves. It needs little memory: the deltas.

A failure while deltas are read or decoded has touched nothing either way. One
in the middle of writing (no memory, Ctrl-C) is undone: pointers are exchanged
back, or the old version is rebuilt. Should that fail as well, every request is
told so until a switch succeeds.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from deltavc.delta.tensor import Tensor
from deltavc.delta.vector import Terms
from deltavc.errors import (
    BaseMismatch,
    IntegrityError,
    MergeConflict,
    NothingToUndo,
    ShapeMismatch,
    StateError,
    UsageError,
)
from deltavc.ids import CommitId, ServingId, serving_id, short
from deltavc.live.binding import Slot, bind, listed, residents
from deltavc.live.guard import Guard
from deltavc.live.source import LiveSource, LiveVersion
from deltavc.live.weights import Change, Weights

__all__ = ["STAGINGS", "LiveModel", "Switched", "Verified"]

STAGINGS = ("beside", "in-place")


@dataclass(frozen=True)
class Switched:
    """What a switch did.

    Attributes:
        before: The commit that was served.
        after: The commit that is served now.
        tensors: Tensors of the module that were replaced.
        bytes: Their size.
        computed: How many of these had to be computed; the others lay ready.
        seconds: From the call to its end.
        held: Seconds of it in which no request could be served.
    """

    before: CommitId
    after: CommitId
    tensors: int
    bytes: int
    computed: int
    seconds: float
    held: float


@dataclass(frozen=True)
class Verified:
    """What a look at every bit found.

    Attributes:
        revision: The commit that the model should hold.
        tensors: Tensors compared.
        bytes: Their size.
        differing: Names in the module of those with other bits.
    """

    revision: CommitId
    tensors: int
    bytes: int
    differing: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether every bit is the version's."""
        return not self.differing


class LiveModel:
    """A module in CPU memory that holds one version and can be moved to another.

    Making one brings the module to ``rev``, whatever it held before; tensors that
    have the base's bits, and are to have them, are left alone.

    Args:
        module: The module. Each tensor that it would save must be a parameter of the
            version, in the version's dtype and shape.
        source: Where versions come from.
        rev: The first version.
        staging: ``beside`` or ``in-place``, as told above.
        threads: Workers of a switch; the bits do not depend on it.

    Raises:
        UsageError: No such staging.
        BaseMismatch: The module is not a model of this base.
        ShapeMismatch: A tensor has another shape or dtype than in the version.
        UnsupportedFormat: A tensor is not in CPU memory, or cannot be filled.
        MergeConflict: Tensors that are tied in the module differ in the base or the version.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        source: LiveSource,
        rev: str = "HEAD",
        *,
        staging: str = "beside",
        threads: int = 2,
    ) -> None:
        if staging not in STAGINGS:
            raise UsageError(
                f"'{staging}' is not a way to replace weights",
                hint=f"ways: {', '.join(STAGINGS)}",
            )
        self.module = module
        self._source = source
        self._in_place = staging == "in-place"
        self._guard = Guard()
        self._turn = threading.Lock()  # one switch at a time
        self._past: list[CommitId] = []
        version = source.open(rev)
        slots = bind(module, version.forms, source.tied)
        self._params = {param for slot in slots for param in slot.params}
        self._weights = Weights(slots, version, threads)
        self._refuse_lacking(version)
        self._refuse_untied(version)
        self._weights.adopt()
        self._carry_out(version, None)
        self._weights.release()  # what the module held before is no version to go back to

    # serving --------------------------------------------------------------

    @property
    def revision(self) -> CommitId:
        """The commit that the model holds."""
        return self._weights.version.commit

    @property
    def serving_id(self) -> ServingId:
        """What to answer requests with: a short name of the commit, good for a header.

        Inside :meth:`serving` it is that of the version that answers.
        """
        return serving_id(self.revision)

    @contextmanager
    def serving(self) -> Iterator[CommitId]:
        """Keeps the version as it is while a request is served.

        Waits while weights are being replaced. May be nested in one thread.

        Yields:
            The commit that is served, for the log of who answered.

        Raises:
            IntegrityError: A switch was cut off and could not be undone.
        """
        with self._guard.shared():
            if self._weights.torn:
                raise IntegrityError(
                    "the live model holds a mix of versions: a switch was cut off",
                    hint="switch it again, to any version: live.switch(REV)",
                )
            yield self._weights.version.commit

    # moving ---------------------------------------------------------------

    def switch(self, rev: str, *, timeout: float | None = None) -> Switched:
        """Moves the model to a revision: any branch, tag or commit on its base.

        Switches of several threads happen one after the other. A failure leaves the
        version that is served as it is.

        Args:
            rev: The revision.
            timeout: Seconds to wait for requests that are being served; None waits as
                long as they take.

        Returns:
            What was done.

        Raises:
            UsageError: The calling thread is serving.
            StateError: Requests were still being served when the time was over.
            UnknownRevision: There is no such revision.
            BaseMismatch: It stands on another base, or changes what the module lacks.
            ShapeMismatch: It adds, removes or reshapes parameters.
            MergeConflict: It changes tensors differently that are tied in the module.
            IntegrityError: A delta is missing or damaged.
        """
        self._guard.refuse_reader()
        with self._turn:
            before = self.revision
            done = self._move(rev, timeout)
            if done.after != before:
                self._past.append(before)
            return done

    def rollback(self, *, timeout: float | None = None) -> Switched:
        """Moves the model back to the revision before the last switch.

        Called again, it goes back further, to the first one. With the staging
        ``beside``, tensors whose spare memory still holds them are not computed.

        Args:
            timeout: As for :meth:`switch`.

        Returns:
            What was done.

        Raises:
            NothingToUndo: The model still holds its first revision.
        """
        self._guard.refuse_reader()
        with self._turn:
            if not self._past:
                raise NothingToUndo(
                    "the live model holds its first revision",
                    hint="move it where you want it: live.switch(REV)",
                )
            done = self._move(self._past[-1], timeout)
            self._past.pop()
            return done

    def verify(self) -> Verified:
        """Rebuilds the version and compares every bit of the module with it.

        Requests go on, switches wait. Tensors that differ are written again by the
        next switch, be it to the same revision.

        Returns:
            What was compared, and the names of the tensors that differ.
        """
        with self._turn, self._guard.shared():
            self._refuse_other_module()
            wrong = self._weights.compare()
            held = self._weights.held
            return Verified(
                self.revision, len(held), sum(h.slot.nbytes for h in held), tuple(wrong)
            )

    def release(self) -> int:
        """Gives the memory back that is kept for the next switch.

        Returns:
            How many bytes that was.
        """
        with self._turn:
            return self._weights.release()

    # inside ---------------------------------------------------------------

    def _move(self, rev: str, timeout: float | None) -> Switched:
        self._refuse_other_module()
        version = self._source.open(rev)
        self._refuse_other_forms(version)
        self._refuse_lacking(version)
        return self._carry_out(version, timeout)

    @torch.inference_mode(False)  # memory made inside would stay bound to that mode
    def _carry_out(self, version: LiveVersion, timeout: float | None) -> Switched:
        started = time.monotonic()
        weights, before = self._weights, self.revision
        if weights.torn:
            weights.forget()
        changes = self._changes(version)
        if self._in_place:
            jobs = weights.ready(version, changes)
            computed = len(jobs)
        else:
            computed = weights.build(version, changes)
        with self._guard.exclusive(timeout):
            alone = time.monotonic()
            if self._in_place:
                weights.overwrite(version, changes, jobs)
            else:
                weights.exchange(version, changes)
            ended = time.monotonic()
        return Switched(
            before=before,
            after=version.commit,
            tensors=len(changes),
            bytes=sum(change.held.slot.nbytes for change in changes),
            computed=computed,
            seconds=ended - started,
            held=ended - alone,
        )

    def _changes(self, version: LiveVersion) -> list[Change]:
        """Returns what a version changes in the module.

        Raises:
            MergeConflict: It changes parameters differently that are one tensor in the module.
        """
        changes = []
        for held in self._weights.held:
            terms = _common_terms(version.params, held.slot)
            if held.terms is None or held.terms != terms:
                changes.append(Change(held, terms))
        return changes

    def _refuse_other_module(self) -> None:
        """Refuses a module whose tensors are not those that were bound."""
        found = residents(self.module)
        bound = {name: held.slot for held in self._weights.held for name in held.slot.names}
        changed = found.keys() ^ bound.keys()
        changed |= {n for n in found.keys() & bound.keys() if not bound[n].is_home_of(found[n])}
        if changed:
            raise StateError(
                f"the module is not the one that was made live any more: {listed(changed)}",
                hint="make it live again: repo.live(module, REV)",
                tensors=sorted(changed),
            )

    def _refuse_untied(self, version: LiveVersion) -> None:
        """Refuses one piece of memory for parameters that are not the same in the base."""
        for held in self._weights.held:
            first, *others = (version.origin(param) for param in held.slot.params)
            for other in others:
                if not _same_bits(first, other):
                    raise _untied(held.slot, "have other values in the base")

    def _refuse_lacking(self, version: LiveVersion) -> None:
        """Refuses a version that changes what the module has not: it would be served in part."""
        tied, params = self._source.tied, version.params
        lacking = [
            param
            for param, terms in params.items()
            if param not in self._params
            and not (tied.get(param) in self._params and params.get(tied[param]) == terms)
        ]
        if lacking:
            raise BaseMismatch(
                f"the version changes {len(lacking)} parameters that the module lacks: "
                f"{listed(lacking)}",
                hint="make the live model of a class that has them",
                parameters=sorted(lacking),
            )

    def _refuse_other_forms(self, version: LiveVersion) -> None:
        """Refuses a version of another base, or with other parameters than the one held."""
        now = self._weights.version
        if version.base != now.base:
            raise BaseMismatch(
                f"{short(version.commit)} stands on base {short(version.base)}, and the live model"
                f" on {short(now.base)}",
                hint="make a live model of its own: repo.live(module, REV)",
                expected=now.base,
                found=version.base,
            )
        old, new = now.forms, version.forms
        changes = {
            "adds": sorted(new.keys() - old.keys()),
            "removes": sorted(old.keys() - new.keys()),
            "reshapes": sorted(n for n in old.keys() & new.keys() if old[n] != new[n]),
        }
        named = {verb: names for verb, names in changes.items() if names}
        if named:
            told = " and ".join(f"{verb} {listed(names)}" for verb, names in named.items())
            raise ShapeMismatch(
                f"{short(version.commit)} {told}, and a live model keeps its form",
                hint="make the module and its live model anew for this version",
                **named,
            )


def _common_terms(params: Mapping[str, Terms], slot: Slot) -> Terms:
    """Returns the terms of a slot, on which all parameters that lie there must agree."""
    first, *others = (params.get(param, {}) for param in slot.params)
    if any(terms != first for terms in others):
        raise _untied(slot, "are changed differently in this version")
    return first


def _same_bits(one: Tensor | None, other: Tensor | None) -> bool:
    """Tells whether two tensors of the base are equal, or the base has neither."""
    return one is other if one is None or other is None else one.same_bits(other)


def _untied(slot: Slot, why: str) -> MergeConflict:
    return MergeConflict(
        f"{listed(slot.params)} are one tensor in the module, and {why}",
        hint="load the module with untied weights: tie_word_embeddings=False",
        conflicts=sorted(slot.params),
    )
