"""The weights of a live model: what each piece of memory holds, and how it gets other bits.

Nothing here waits for requests: the caller says when nobody looks. What is
kept is always enough to go back: terms say what a piece of memory holds, and a
piece whose content is not known is simply written again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from deltavc.delta.tensor import Tensor
from deltavc.delta.torchview import to_torch
from deltavc.delta.vector import Terms
from deltavc.live.binding import Slot, bits_of
from deltavc.live.rebuilding import Job, differing, fill, prepare
from deltavc.live.source import Form, LiveVersion

__all__ = ["Change", "Held", "Weights"]


@dataclass(eq=False)
class Held:
    """A piece of the module's memory, and what lies beside it.

    Attributes:
        slot: The memory.
        terms: Terms of what it holds; None where that is not known.
        spare: Memory of the same form to build in; None before it is needed.
        spare_terms: Terms of what that holds; None where it is of no use.
    """

    slot: Slot
    terms: Terms | None = None
    spare: torch.Tensor | None = None
    spare_terms: Terms | None = None


@dataclass(frozen=True)
class Change:
    """A piece of memory that is to hold something else."""

    held: Held
    terms: Terms


class Weights:
    """All memory of a module, and the version that it holds.

    Args:
        slots: The memory.
        version: The version that it is to hold first.
        threads: Workers.

    Attributes:
        held: What each slot holds.
        version: The version that the module holds.
        torn: Whether it holds a mix, after a failure that could not be undone.
    """

    def __init__(self, slots: Sequence[Slot], version: LiveVersion, threads: int) -> None:
        self.held = [Held(slot) for slot in slots]
        self.version = version
        self.torn = False
        self._threads = threads

    def adopt(self) -> None:
        """Notes which unchanged parameters the module holds already: the base's own bits."""
        known = [h for h in self.held if not self.version.params.keys() & set(h.slot.params)]
        wrong = set(self._differing(known))
        for held in known:
            if held not in wrong:
                held.terms = {}

    def compare(self) -> list[str]:
        """Returns the module's names of tensors with other bits than the version's."""
        wrong = self._differing(self.held)
        for held in wrong:
            held.terms = None
        return sorted(name for held in wrong for name in held.slot.names)

    def forget(self) -> None:
        """Trusts nothing of what is held, after a failure that could not be undone."""
        for held in self.held:
            held.terms = held.spare = held.spare_terms = None

    def release(self) -> int:
        """Gives spare memory back; returns how many bytes."""
        freed = sum(held.slot.nbytes for held in self.held if held.spare is not None)
        for held in self.held:
            held.spare = held.spare_terms = None
        return freed

    # beside ---------------------------------------------------------------

    def build(self, version: LiveVersion, changes: Sequence[Change]) -> int:
        """Builds changes in spare memory; what lies there already is not built again.

        Returns:
            How many tensors were computed.
        """
        wanted = []
        for change in changes:
            held = change.held
            if held.spare is None:
                held.spare = _memory(held.slot.form)
            elif held.spare_terms == change.terms:
                continue
            held.spare_terms = None  # not until it is full
            wanted.append(change)
        fill([self._job(version, c.held, c.held.spare) for c in wanted], self._threads)
        for change in wanted:
            change.held.spare_terms = change.terms
        return len(wanted)

    def exchange(self, version: LiveVersion, changes: Sequence[Change]) -> None:
        """Exchanges memory with the spare of all changes, or of none; nobody may look."""
        before = self.version
        kept = [
            (c.held, c.held.slot.tensors[0].data, c.held.terms, c.held.spare, c.terms)
            for c in changes
        ]
        self.torn = True
        try:
            for held, old, terms, spare, new_terms in kept:
                assert spare is not None
                _point(held.slot, spare)
                held.terms, held.spare, held.spare_terms = new_terms, old, terms
            self.version = version
        except BaseException:  # also Ctrl-C between any two of these
            for held, old, terms, spare, new_terms in kept:
                _point(held.slot, old)
                held.terms, held.spare, held.spare_terms = terms, spare, new_terms
            self.version = before
            self.torn = False
            raise
        self.torn = False

    # in place -------------------------------------------------------------

    def ready(self, version: LiveVersion, changes: Sequence[Change]) -> list[Job]:
        """Reads and decodes all that changes need, so that writing them reads nothing more."""
        jobs = [self._job(version, c.held, c.held.slot.tensors[0]) for c in changes]
        prepare(jobs, self._threads)
        return jobs

    def overwrite(
        self, version: LiveVersion, changes: Sequence[Change], jobs: Sequence[Job]
    ) -> None:
        """Computes prepared changes into the module's own memory; nobody may look.

        After a failure the old version is rebuilt, where it was known.
        """
        before = self.version
        kept = [(c.held, c.held.terms) for c in changes]
        self.torn = True
        try:
            fill(jobs, self._threads)
            for change in changes:
                change.held.terms = change.terms
            self.version = version
        except BaseException:
            self.version = before
            known = [(held, terms) for held, terms in kept if terms is not None]
            fill([self._job(before, h, h.slot.tensors[0]) for h, _ in known], self._threads)
            for held, terms in kept:
                held.terms = terms
            self.torn = len(known) < len(kept)
            raise
        self.torn = False

    # inside ---------------------------------------------------------------

    def _differing(self, wanted: Sequence[Held]) -> list[Held]:
        jobs = [self._job(self.version, held, held.slot.tensors[0]) for held in wanted]
        wrong = {id(job) for job in differing(jobs, self._threads)}
        return [held for held, job in zip(wanted, jobs, strict=True) if id(job) in wrong]

    def _job(self, version: LiveVersion, held: Held, target: torch.Tensor | None) -> Job:
        assert target is not None
        param, form = held.slot.params[0], held.slot.form
        return Job(form, lambda: version.rebuild(param), bits_of(target, form.dtype))


def _memory(form: Form) -> torch.Tensor:
    """Returns new memory; NumPy's is on huge pages where it is large, which torch's is not."""
    bits = np.empty(math.prod(form.shape), dtype=form.dtype.bits)
    return to_torch(Tensor(form.dtype, form.shape, bits), copy=False)


def _point(slot: Slot, memory: torch.Tensor) -> None:
    """Makes the module's tensors lie on other memory of the same form."""
    for tensor in slot.tensors:
        tensor.data = memory
