"""The laws of merging over random histories: branches, cherry-picks, merges in any direction.

Each adapter is stacked once somewhere. Whatever way it reaches a branch, by merge,
by cherry-pick or by both, through criss-cross and repeated merges, it counts there
once: a branch's model is that of a straight line of the adapters that reached it.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from .conftest import Lab  # type: ignore[import-not-found]

BRANCHES = ("main", "b", "c")
STEPS = settings(
    max_examples=3,
    stateful_step_count=12,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_random_histories() -> None:
    run_state_machine_as_test(Lines, settings=STEPS)


class Lines(RuleBasedStateMachine):
    """Keeps, beside the repository, which adapters have reached each branch."""

    @initialize()
    def start(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self.lab = Lab(Path(self._folder.name) / "lab")
        self.line = Lab(Path(self._folder.name) / "line")  # the same base, no branches
        root = self.lab.commit(self.lab.base_folder, "root")
        self.sources: list[Path] = []
        self.reached: dict[str, frozenset[int]] = {name: frozenset() for name in BRANCHES}
        self.brings: dict[str, int] = {}
        for name in BRANCHES[1:]:
            self.lab.repo.switch(name, create=True, start=root)
        self.lab.repo.switch("main")
        self.straight: dict[frozenset[int], object] = {}

    def teardown(self) -> None:
        if hasattr(self, "_folder"):
            self._folder.cleanup()

    @rule(branch=st.sampled_from(BRANCHES), module=st.sampled_from(["q", "v"]))
    def adapt(self, branch: str, module: str) -> None:
        self.lab.repo.switch(branch)
        source = self.lab.lora(f"layers.0.{module}", rank=1)
        commit = self.lab.commit(source, f"adapter {len(self.sources)}", stack=True)
        self.brings[commit] = len(self.sources)
        self.reached[branch] |= {len(self.sources)}
        self.sources.append(source)

    @precondition(lambda self: self.brings)
    @rule(branch=st.sampled_from(BRANCHES), data=st.data())
    def pick(self, branch: str, data: st.DataObject) -> None:
        """A commit is picked where its adapter is not yet."""
        missing = [c for c, n in self.brings.items() if n not in self.reached[branch]]
        if not missing:
            return
        commit = data.draw(st.sampled_from(sorted(missing)))
        self.lab.repo.switch(branch)
        self.lab.repo.cherry_pick([commit])
        self.reached[branch] |= {self.brings[commit]}

    @rule(into=st.sampled_from(BRANCHES), other=st.sampled_from(BRANCHES))
    def merge(self, into: str, other: str) -> None:
        self.lab.repo.switch(into)
        before = self.lab.bits()
        done = self.lab.repo.merge([other], strategy="sum")
        self.reached[into] |= self.reached[other]
        if done.kind == "merge":
            taken = self.lab.repo.revert(["HEAD"], mainline=1)
            assert self.lab.bits() == before  # merge, then revert: the parent's bits
            if taken.changed:  # both sides may have picked the same
                self.lab.repo.undo()
            self.lab.repo.switch(other)
            mirrored = self.lab.repo.merge([done.sides[0]], strategy="sum")
            assert self.lab.bits() == self.lab.bits(into)  # the same from the other side
            assert mirrored.kind == "merge"
            self.lab.repo.undo()
        else:
            assert done.kind in ("up-to-date", "fast-forward")
        self.lab.repo.switch(into)
        assert self.lab.repo.merge([other], strategy="sum").kind == "up-to-date"

    @invariant()
    def each_adapter_counts_once(self) -> None:
        if not hasattr(self, "straight"):
            return
        for branch, reached in self.reached.items():
            assert self.lab.bits(branch) == self._line(reached)

    def _line(self, reached: frozenset[int]) -> object:
        """The bits of a history without branches that stacks these adapters."""
        if reached not in self.straight:
            self.line.commit(self.line.base_folder, "from the base")
            for number in sorted(reached):
                self.line.commit(self.sources[number], stack=True)
            self.straight[reached] = self.line.bits()
        return self.straight[reached]
