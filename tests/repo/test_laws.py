"""The laws of the algebra over random histories: each row of the table, in bits."""

from __future__ import annotations

import tempfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from safetensors.numpy import load_file

from .conftest import Lab, bits, read_model  # type: ignore[import-not-found]

SLOW = settings(
    max_examples=6,
    stateful_step_count=8,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def test_revert_of_the_newest_gives_the_parents_bits(lab: Lab) -> None:
    lab.commit(lab.lora())
    before = lab.bits()
    lab.commit(lab.checkpoint(lambda t: t.update({"emb.weight": t["emb.weight"] * 3})))
    lab.repo.revert(["HEAD"])
    assert lab.bits() == before


def test_revert_in_the_middle_gives_the_history_without_it(tmp_path: Path) -> None:
    with_it, without = Lab(tmp_path / "a"), Lab(tmp_path / "b")
    sources = [with_it.lora(), with_it.lora("layers.0.q", rank=3), with_it.lora(rank=1)]
    for source in sources:
        with_it.commit(source, stack=source is not sources[0])
    with_it.repo.revert(["HEAD~1"])
    without.commit(sources[0])
    without.commit(sources[2], stack=True)
    assert with_it.bits() == without.bits()


def test_switching_there_and_back_do_not_drift(lab: Lab) -> None:
    lab.commit(lab.lora())
    lab.commit(lab.lora(size=3.0))
    fresh = {}
    for rev in ("HEAD~1", "HEAD"):
        lab.repo.checkout(rev, to=lab.root / f"fresh-{rev}")
        fresh[rev] = (lab.root / f"fresh-{rev}" / "model.safetensors").read_bytes()
    lab.repo.checkout("main")
    for _ in range(50):
        lab.repo.checkout("main~1")
        lab.repo.checkout("main")
    assert (lab.root / "repo/model/model.safetensors").read_bytes() == fresh["HEAD"]
    lab.repo.checkout("main~1")
    assert (lab.root / "repo/model/model.safetensors").read_bytes() == fresh["HEAD~1"]


def test_cherry_picks_commute_in_bytes(tmp_path: Path) -> None:
    results = []
    for name, order in (("a", [0, 1]), ("b", [1, 0])):
        lab = Lab(tmp_path / name)
        lab.commit(lab.base_folder, "root")
        sources = [lab.lora("layers.0.q"), lab.lora("layers.0.q", rank=3)]
        picked = []
        for i, source in enumerate(sources):
            lab.repo.switch(f"side-{i}", create=True)
            picked.append(lab.commit(source))
            lab.repo.switch("main")
        lab.repo.cherry_pick([picked[i] for i in order])
        results.append(lab.bits())
    assert results[0] == results[1]


def test_cherry_pick_after_revert_is_nothing(lab: Lab) -> None:
    lab.commit(lab.lora())
    second = lab.commit(lab.lora(rank=3), stack=True)
    before = lab.bits()
    lab.repo.revert([second])
    lab.repo.cherry_pick([second])
    assert lab.bits() == before
    assert lab.repo.diff(second, "HEAD").same


def test_a_committed_checkpoint_comes_back_bit_for_bit(lab: Lab) -> None:
    def change(tensors: dict[str, np.ndarray]) -> None:
        tensors["emb.weight"][3] = -0.0
        tensors["layers.0.v.weight"] *= np.float16(1.01)
        tensors["layers.0.v.bias"][:2] = [np.inf, np.nan]
        tensors["position_ids"] += 1
        tensors["head.weight"] = np.full((2, 8), 0.5, "f4")

    source = lab.checkpoint(change)
    lab.commit(source)
    assert lab.bits() == bits(read_model(source))
    lab.repo.checkout("HEAD", to=lab.root / "out", verify=True)
    assert bits(read_model(lab.root / "out")) == bits(read_model(source))


def test_lora_is_the_rounded_sum_over_the_reals(lab: Lab) -> None:
    source = lab.lora(rank=2)
    lab.commit(source)
    found = lab.repo.load()["layers.0.v.weight"].numpy()
    factors = load_file(source / "adapter_model.safetensors")
    b = factors["base_model.model.layers.0.v.lora_B.weight"]
    a = factors["base_model.model.layers.0.v.lora_A.weight"]
    for i in range(8):
        for j in range(8):
            exact = Fraction(float(lab.base["layers.0.v.weight"][i, j])) + 2 * sum(
                Fraction(float(b[i, k])) * Fraction(float(a[k, j])) for k in range(2)
            )
            assert found[i, j] == _nearest_half(exact)


def _nearest_half(value: Fraction) -> np.float16:
    """Rounds to float16 by looking at the neighbours of an approximation, ties to even."""
    start = np.float16(float(value))
    neighbours = [
        start,
        np.nextafter(start, np.float16(np.inf)),
        np.nextafter(start, -np.float16(np.inf)),
    ]
    return min(
        neighbours, key=lambda n: (abs(Fraction(float(n)) - value), int(n.view(np.uint16)) & 1)
    )


@pytest.mark.slow
@pytest.mark.timeout(400)
class TestHistories:
    """Random histories against a model in plain dictionaries."""

    def test_run(self) -> None:
        from hypothesis.stateful import run_state_machine_as_test

        run_state_machine_as_test(Histories, settings=SLOW)


class Histories(RuleBasedStateMachine):
    """Keeps, beside the repository, each commit's parent and its bits when it was made."""

    @initialize()
    def start(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self.lab = Lab(Path(self._folder.name))
        root = self.lab.commit(self.lab.base_folder, "root")
        self.parents: dict[str, str | None] = {root: None}
        self.known = {root: self.lab.bits()}
        self.head = root

    def teardown(self) -> None:
        if hasattr(self, "_folder"):
            self._folder.cleanup()

    def _made(self, commit: str | None) -> None:
        assert commit is not None
        if commit != self.head:
            self.parents[commit] = self.head
            self.head = commit
            self.known.setdefault(commit, self.lab.bits())

    @rule(rank=st.integers(1, 3), stack=st.booleans(), module=st.sampled_from(["q", "v"]))
    def adapter(self, rank: int, stack: bool, module: str) -> None:
        source = self.lab.lora(f"layers.0.{module}", rank=rank)
        self._made(self.lab.commit(source, stack=stack))

    @rule(
        name=st.sampled_from(["emb.weight", "layers.0.v.bias"]), factor=st.sampled_from([2, -1, 3])
    )
    def checkpoint(self, name: str, factor: int) -> None:
        source = self.lab.checkpoint(lambda t: t.update({name: t[name] * np.float32(factor)}))
        self._made(self.lab.commit(source))

    @precondition(lambda self: len(self.parents) > 1)
    @rule(data=st.data())
    def revert_and_pick_again(self, data: st.DataObject) -> None:
        """Revert then cherry-pick of the same commit is where one was."""
        target = data.draw(st.sampled_from(sorted(c for c, p in self.parents.items() if p)))
        before, was = self.lab.bits(), self.head
        self._made(self.lab.repo.revert([target]).commit)
        if self.head != was:
            self._made(self.lab.repo.cherry_pick([target])[0].commit)
            assert self.lab.bits() == before
            assert self.lab.repo.diff(was, "HEAD").same

    @precondition(lambda self: self.parents[self.head] is not None)
    @rule()
    def revert_head(self) -> None:
        parent = self.parents[self.head]
        assert parent is not None
        self._made(self.lab.repo.revert(["HEAD"]).commit)
        assert self.lab.bits() == self.known[parent]

    @rule()
    def undo_redo(self) -> None:
        before = self.lab.bits()
        self.lab.repo.undo()
        self.lab.repo.redo()
        assert self.lab.repo.resolve("HEAD") == self.head
        assert self.lab.bits() == before

    @rule()
    def reopen(self) -> None:
        self.lab.reopen()

    @invariant()
    def nothing_drifts(self) -> None:
        """Every version ever made still has the bits that it had."""
        if hasattr(self, "known"):
            for commit in list(self.known)[-3:]:
                assert self.lab.bits(commit) == self.known[commit]


@settings(max_examples=25, deadline=None)
@given(
    st.dictionaries(st.sampled_from("abcd"), st.fractions(-3, 3, max_denominator=7), max_size=4),
    st.dictionaries(st.sampled_from("abcd"), st.fractions(-3, 3, max_denominator=7), max_size=4),
)
def test_terms_cancel_exactly(one: dict[str, Fraction], other: dict[str, Fraction]) -> None:
    from deltavc.delta.vector import add_terms

    total = add_terms((1, one), (1, other), (-1, other))  # type: ignore[arg-type]
    assert total == {key: value for key, value in one.items() if value}


def test_both_bounds_hold_or_the_parameter_is_exact(lab: Lab) -> None:
    source = lab.checkpoint(lambda t: t.update({"emb.weight": t["emb.weight"] * 3 + 1}))
    done = lab.repo.commit(source, message="bounded", max_rank=2, rel_error=0.01)
    assert done.exact
    assert lab.bits() == bits(read_model(source))
    loose = lab.checkpoint(lambda t: t.update({"emb.weight": t["emb.weight"] * 5 + 1}))
    done = lab.repo.commit(loose, message="loose", max_rank=2)
    assert 0.01 < done.errors["emb.weight"] < 1
