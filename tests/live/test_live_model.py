"""A module that moves between versions: always the bits of one of them, whatever happens."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deltavc.errors import (
    BaseMismatch,
    BaseUnavailable,
    DeltavcError,
    IntegrityError,
    NothingToUndo,
    ShapeMismatch,
    StateError,
    UnknownRevision,
    UsageError,
)
from deltavc.live import LiveModel
from deltavc.repo.living import RepositorySource

from .conftest import Net, Studio, Wrapped, digest, state  # type: ignore[import-not-found]

STAGINGS = ("beside", "in-place")
both = pytest.mark.parametrize("staging", STAGINGS)


@both
@pytest.mark.parametrize("base", ["mapped", "memory"])
def test_it_holds_the_bits_that_checkout_writes(studio: Studio, staging: str, base: str) -> None:
    revs = [studio.lora(), studio.noisy(), studio.lora("first"), studio.checkpoint()]
    expected = {rev: studio.written(rev) for rev in revs}
    net = Net()  # random weights: it need not hold any version before
    live = studio.repo.live(net, revs[0], staging=staging, base=base)
    assert live.revision == revs[0]
    assert state(net) == expected[revs[0]]
    for rev in [*reversed(revs), *revs, revs[1], revs[3], revs[0]]:
        done = live.switch(rev)
        assert (done.after, live.revision) == (rev, rev)
        assert state(net) == expected[rev]
        assert live.verify().ok


def test_it_answers_with_what_show_resolves(studio: Studio) -> None:
    revs = [studio.lora(), studio.noisy()]
    live = studio.repo.live(Net(), revs[0])
    for rev in (*revs, revs[0]):
        live.switch(rev)
        with live.serving() as served:
            assert live.serving_id == studio.repo.serving_id(served)
        assert studio.repo.show(live.serving_id).id == rev
        assert live.serving_id.isascii()


def test_only_what_differs_is_replaced(studio: Studio) -> None:
    one, two = studio.lora("first", "second"), studio.lora("first")
    live = studio.repo.live(Net(), one)
    done = live.switch(two)
    assert (done.before, done.after) == (one, two)
    assert (done.tensors, done.bytes) == (2, 2 * 8 * 8 * 4)
    assert live.switch(two).tensors == 0


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    studio = Studio(tmp_path_factory.mktemp("walk"))
    studio.revs = [  # type: ignore[attr-defined]
        studio.checkpoint(),
        studio.lora(),
        studio.lora("first"),
        studio.noisy(),
        studio.lora("half"),
    ]
    studio.expected = {r: studio.written(r) for r in studio.revs}  # type: ignore[attr-defined]
    return studio


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(st.one_of(st.integers(0, 4), st.just("back"), st.just("release")), max_size=12),
    staging=st.sampled_from(STAGINGS),
)
def test_any_walk_ends_at_the_bits_of_where_it_ends(
    walked: Any, steps: list[Any], staging: str
) -> None:
    net = Net()
    live = walked.repo.live(net, walked.revs[0], staging=staging)
    trail = [walked.revs[0]]
    for step in steps:
        if step == "release":
            live.release()
        elif step == "back":
            if len(trail) == 1:
                with pytest.raises(NothingToUndo):
                    live.rollback()
            else:
                trail.pop()
                assert live.rollback().after == trail[-1]
        else:
            live.switch(walked.revs[step])
            if walked.revs[step] != trail[-1]:
                trail.append(walked.revs[step])
        assert live.revision == trail[-1]
        assert state(net) == walked.expected[trail[-1]]


def test_a_rollback_computes_nothing_while_the_version_before_lies_ready(studio: Studio) -> None:
    one, two = studio.lora(), studio.lora()
    live = studio.repo.live(Net(), one)
    assert live.switch(two).computed == 2
    assert live.rollback().computed == 0
    assert live.verify().ok
    assert live.release() == 2 * 8 * 8 * 4
    assert live.switch(two).computed == 2
    assert live.verify().ok


def test_names_may_have_a_wrapper_in_front(studio: Studio) -> None:
    one, two = studio.lora(), studio.noisy()
    wrapped = Wrapped()
    live = studio.repo.live(wrapped, one)
    live.switch(two)
    assert state(wrapped.model) == studio.written(two)


@both
def test_weights_that_somebody_changed_are_found_and_put_right(
    studio: Studio, staging: str
) -> None:
    rev = studio.lora()
    net = Net()
    live = studio.repo.live(net, rev, staging=staging)
    with torch.no_grad():
        net.second.weight[0, 0] += 1
        net.embed.weight[3] = 0
    found = live.verify()
    assert not found.ok
    assert found.differing == ("embed.weight", "second.weight")
    assert live.switch(rev).tensors == 2
    assert state(net) == studio.written(rev)


def test_optimizers_and_hooks_keep_their_parameters(studio: Studio) -> None:
    one, two = studio.lora(), studio.lora()
    net = Net()
    live = studio.repo.live(net, one)
    before = list(net.parameters())
    live.switch(two)
    assert all(a is b for a, b in zip(before, net.parameters(), strict=True))
    assert all(p.requires_grad for p in net.parameters())


# refusals: nothing is touched ------------------------------------------------


@pytest.fixture
def moved(studio: Studio) -> Iterator[Any]:
    """A live model that must hold its bits, whatever the test asks of it."""
    studio.first = studio.lora()  # type: ignore[attr-defined]
    studio.net = Net()  # type: ignore[attr-defined]
    studio.live = studio.repo.live(studio.net)  # type: ignore[attr-defined]
    expected = studio.written("HEAD")
    yield studio
    assert state(studio.net) == expected  # type: ignore[attr-defined]
    assert studio.live.revision == studio.first  # type: ignore[attr-defined]
    with studio.live.serving() as rev:  # type: ignore[attr-defined]
        assert rev == studio.first  # type: ignore[attr-defined]


def refused(studio: Any, rev: str, kind: type[DeltavcError], *words: str) -> DeltavcError:
    with pytest.raises(kind) as found:
        studio.live.switch(rev)
    for word in words:
        assert word in found.value.message, found.value.message
    return found.value


def test_versions_of_another_form_are_refused_by_name(moved: Any) -> None:
    grown = moved.checkpoint(second__weight=np.zeros((9, 8), "f4"), second__bias=np.zeros(9, "f4"))
    refused(moved, grown, ShapeMismatch, "reshapes 'second.bias', 'second.weight'")
    retyped = moved.checkpoint(first__bias=np.zeros(8, "f2"))
    refused(moved, retyped, ShapeMismatch, "reshapes 'first.bias'")
    fewer = moved.checkpoint(first__bias=None)
    refused(moved, fewer, ShapeMismatch, "removes 'first.bias'")
    more = moved.checkpoint(third__weight=np.ones((8, 8), "f4"))
    refused(moved, more, ShapeMismatch, "adds 'third.weight'")


def test_an_unknown_revision(moved: Any) -> None:
    refused(moved, "nowhere", UnknownRevision)


def test_another_base(moved: Any) -> None:
    other = moved.folder()
    shutil.copytree(moved.base, other)
    from safetensors.numpy import save_file

    save_file({**moved.weights, "first.bias": np.ones(8, "f4")}, other / "model.safetensors")
    moved.repo.add_base("other", other)
    done = moved.repo.commit(other, message="on another base", base="other")
    error = refused(moved, done.commit, BaseMismatch, "stands on base")
    assert error.context["expected"] != error.context["found"]


def test_a_missing_delta(moved: Any) -> None:
    packs = moved.repo.path / ".deltavc" / "objects" / "packs"
    before = set(packs.iterdir())
    rev = moved.lora()
    for path in set(packs.iterdir()) - before:
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 3])
    moved.repo.live(Net(), moved.first)  # others are not concerned
    source = RepositorySource(moved.reopen()._repo)
    for staging in STAGINGS:
        live = LiveModel(moved.net, source, moved.first, staging=staging)
        with pytest.raises(IntegrityError):
            live.switch(rev)
        assert live.verify().ok


def test_damage_in_the_middle_of_a_delta(moved: Any) -> None:
    packs = moved.repo.path / ".deltavc" / "objects" / "packs"
    before = set(packs.iterdir())
    rev = moved.noisy()
    (path,) = [p for p in set(packs.iterdir()) - before if p.stat().st_size > 500]
    data = bytearray(path.read_bytes())
    for at in range(60, 160):
        data[at] ^= 0x55
    path.chmod(0o644)
    path.write_bytes(data)
    source = RepositorySource(moved.reopen()._repo)
    for staging in STAGINGS:
        live = LiveModel(moved.net, source, moved.first, staging=staging)
        with pytest.raises(IntegrityError):
            live.switch(rev)
        assert live.verify().ok


def test_a_module_that_is_not_the_bound_one_any_more(moved: Any) -> None:
    rev = moved.lora()
    kept = moved.net.first.weight
    moved.net.first.weight = torch.nn.Parameter(torch.zeros(8, 8))
    error = refused(moved, rev, StateError, "'first.weight'")
    assert error.context["tensors"] == ["first.weight"]
    with pytest.raises(StateError):
        moved.live.verify()
    moved.net.first.weight = kept
    moved.net.extra = torch.nn.Parameter(torch.zeros(1))
    refused(moved, rev, StateError, "'extra'")
    del moved.net.extra


def test_a_base_that_changed_under_a_running_model(studio: Studio) -> None:
    one, two = studio.lora(), studio.lora()
    net, copied = Net(), Net()
    mapped = studio.repo.live(net, one)
    memory = studio.repo.live(copied, one, base="memory")
    expected = state(net)
    weights = studio.base / "model.safetensors"
    kept = studio.folder()
    weights.rename(kept)
    with pytest.raises(BaseUnavailable):
        mapped.switch(two)
    assert state(net) == expected
    shutil.copyfile(kept, weights)
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(BaseMismatch):
        mapped.switch(two)
    assert state(net) == expected
    memory.switch(two)  # does not depend on the files
    shutil.copyfile(kept, weights)
    mapped.switch(two)
    assert state(net) == state(copied) == studio.written(two)


def test_unknown_choices(studio: Studio) -> None:
    studio.lora()
    with pytest.raises(UsageError):
        studio.repo.live(Net(), staging="magic")
    with pytest.raises(UsageError):
        studio.repo.live(Net(), base="cloud")


# failures in the middle of writing --------------------------------------------


class Stubborn(torch.nn.Parameter):
    """A parameter that refuses other memory when it is told to."""

    refuses = False

    @property
    def data(self) -> Any:  # type: ignore[override]
        return torch.Tensor.data.__get__(self)  # type: ignore[attr-defined]

    @data.setter
    def data(self, value: Any) -> None:
        if Stubborn.refuses:
            Stubborn.refuses = False
            raise MemoryError
        torch.Tensor.data.__set__(self, value)  # type: ignore[attr-defined]


def test_an_exchange_that_fails_is_taken_back(studio: Studio) -> None:
    one, two = studio.lora(), studio.noisy()
    net = Net()
    net.second.weight = Stubborn(torch.zeros(8, 8))
    live = studio.repo.live(net, one)
    expected = state(net)
    Stubborn.refuses = True
    with pytest.raises(MemoryError):
        live.switch(two)
    assert state(net) == expected == studio.written(one)
    with live.serving() as rev:
        assert rev == one
    live.switch(two)
    assert state(net) == studio.written(two)
    live.rollback()
    assert state(net) == expected


class Flaky:
    """Versions of a source, of which some computations fail."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.failing: set[str] = set()  # commits whose third range of rows fails
        self.count = 0

    @property
    def tied(self) -> Any:
        return self.inner.tied

    def open(self, rev: str) -> Any:
        return _FlakyVersion(self, self.inner.open(rev))


class _FlakyVersion:
    def __init__(self, flaky: Flaky, inner: Any) -> None:
        self._flaky = flaky
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def rebuild(self, param: str) -> Any:
        made, flaky = self._inner.rebuild(param), self._flaky
        compute = made.compute

        def failing(start: int, stop: int, out: Any) -> None:
            flaky.count += 1
            if self._inner.commit in flaky.failing and flaky.count > 2:
                out[:] = 0
                raise MemoryError
            compute(start, stop, out)

        made.compute = failing
        return made


@both
@pytest.mark.parametrize("threads", [1, 2])
def test_writing_that_fails_leaves_the_old_version(
    studio: Studio, staging: str, threads: int
) -> None:
    one, two = studio.lora(), studio.noisy()
    flaky = Flaky(RepositorySource(studio.repo._repo))
    net = Net()
    live = LiveModel(net, flaky, one, staging=staging, threads=threads)
    flaky.failing, flaky.count = {two}, 0
    with pytest.raises(MemoryError):
        live.switch(two)
    assert state(net) == studio.written(one)
    with live.serving() as rev:
        assert rev == one
    flaky.failing = set()
    live.switch(two)
    assert state(net) == studio.written(two)


def test_a_mix_that_could_not_be_undone_is_never_served(studio: Studio) -> None:
    one, two = studio.lora(), studio.noisy()
    flaky = Flaky(RepositorySource(studio.repo._repo))
    net = Net()
    live = LiveModel(net, flaky, one, staging="in-place")
    flaky.failing, flaky.count = {one, two}, 0
    with pytest.raises(MemoryError):
        live.switch(two)
    with pytest.raises(IntegrityError) as found, live.serving():
        pass
    assert "switch" in found.value.hint
    flaky.failing = set()
    live.switch(two)
    with live.serving() as rev:
        assert rev == two
    assert state(net) == studio.written(two)


# threads -----------------------------------------------------------------------


@both
def test_a_request_sees_one_version(studio: Studio, staging: str) -> None:
    revs = [studio.lora(), studio.noisy(), studio.lora("first")]
    net = Net()
    expected = {}
    for rev in revs:
        studio.repo.live(net, rev)
        expected[rev] = digest(net)
    live = studio.repo.live(net, revs[0], staging=staging)
    stop, mixes, served = threading.Event(), [], set()

    def serve() -> None:
        while not stop.is_set():
            with live.serving() as rev:
                served.add(rev)
                if digest(net) != expected[rev]:
                    mixes.append(rev)

    threads = [threading.Thread(target=serve) for _ in range(3)]
    for thread in threads:
        thread.start()
    for turn in range(20):
        live.switch(revs[turn % 3])
    stop.set()
    for thread in threads:
        thread.join()
    assert not mixes
    assert len(served) > 1


@both
def test_several_threads_switch_at_once(studio: Studio, staging: str) -> None:
    revs = [studio.lora(), studio.noisy(), studio.lora("first")]
    net = Net()
    live = studio.repo.live(net, revs[0], staging=staging)
    errors: list[BaseException] = []

    def switch(turn: int) -> None:
        try:
            for step in range(8):
                live.switch(revs[(turn + step) % 3])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=switch, args=(turn,)) for turn in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert live.verify().ok
    assert state(net) == studio.written(live.revision)


def test_a_serving_thread_cannot_switch(studio: Studio) -> None:
    one, two = studio.lora(), studio.lora()
    live = studio.repo.live(Net(), one)
    with live.serving(), live.serving():
        with pytest.raises(UsageError):
            live.switch(two)
        with pytest.raises(UsageError):
            live.rollback()
    assert live.switch(two).after == two


def test_a_switch_does_not_wait_longer_than_it_is_told(studio: Studio) -> None:
    one, two = studio.lora(), studio.lora()
    net = Net()
    live = studio.repo.live(net, one)
    inside, leave = threading.Event(), threading.Event()

    def request() -> None:
        with live.serving():
            inside.set()
            leave.wait()

    thread = threading.Thread(target=request)
    thread.start()
    inside.wait()
    with pytest.raises(StateError) as found:
        live.switch(two, timeout=0.01)
    assert found.value.context["readers"] == 1
    assert state(net) == studio.written(one)
    leave.set()
    thread.join()
    done = live.switch(two)
    assert (done.tensors, done.computed) == (2, 0)  # what was built is not built again
    assert live.verify().ok


def test_a_request_that_fails_does_not_keep_switches_out(studio: Studio) -> None:
    one, two = studio.lora(), studio.lora()
    live = studio.repo.live(Net(), one)
    with pytest.raises(ZeroDivisionError), live.serving():
        raise ZeroDivisionError
    assert live.switch(two, timeout=1).after == two
