"""One threshold for the whole model, against trimming all parameters as one long vector."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from deltavc.delta import kinds
from deltavc.delta.rebuild import Term
from deltavc.delta.tensor import DTYPES, Tensor
from deltavc.errors import MergeConflict, UsageError
from deltavc.merge.registry import strategy
from deltavc.merge.strategy import Parameter, Side
from deltavc.merge.survey import Shares, survey
from deltavc.store.scratch import FileRoom

if TYPE_CHECKING:
    from tests.merge.conftest import Bench

Model = list[tuple[Parameter, tuple[Side, ...]]]
numbers = st.one_of(st.sampled_from([0.0, 1.0, -1.0, 3.0]), st.floats(-4, 4, width=16))
models = st.lists(st.lists(st.tuples(numbers, numbers), max_size=9), min_size=1, max_size=5)


def kept(values: list[float], density: Fraction, gamma: Fraction) -> list[float]:
    """The definition: the largest of one vector but for outliers, equal ones by position."""
    count = max(1, int(density * len(values)))
    skip = min(int(gamma * len(values)), len(values) - count)
    order = sorted(range(len(values)), key=lambda i: (-abs(values[i]), i))
    chosen = set(order[skip : skip + count])
    return [v if i in chosen else 0.0 for i, v in enumerate(values)]


def model(bench: Bench, columns: list[NDArray[np.float32]]) -> Model:
    """Parameters in order, whose sides' increments are the rows of each array."""
    made = []
    for number, values in enumerate(columns):
        parameter = bench.parameter((values.shape[1],), name=f"w.{number}")
        sides = tuple(bench.side(row, f"side-{k}") for k, row in enumerate(values))
        made.append((parameter, sides))
    return made


def given_shares(made: Model, shares: Shares) -> Iterator[tuple[Parameter, list[Side]]]:
    for parameter, sides in made:
        yield parameter, [replace(s, share=shares.get((parameter.name, s.key))) for s in sides]


@given(models, st.sampled_from(["1/7", "1/3", "1/2", "1"]), st.sampled_from(["0", "1/10", "1/4"]))
@settings(max_examples=60)
def test_a_model_is_trimmed_as_one_vector(
    bench: Bench, drawn: list[list[tuple[float, float]]], density: str, gamma: str
) -> None:
    columns = [np.array(pairs, dtype="<f4").reshape(-1, 2).T for pairs in drawn]
    made = model(bench, columns)
    chosen = strategy("breadcrumbs", density=density, gamma=gamma, scope="model")
    assert chosen.surveys
    shares = survey(chosen, lambda: iter(made), threads=2)
    found: list[float] = []
    for parameter, sides in given_shares(made, shares):
        found += bench.values(chosen.combine(parameter, sides), parameter).tolist()
    whole = np.concatenate(columns, axis=1)
    if whole.size:
        rows = [kept(row.tolist(), Fraction(density), Fraction(gamma)) for row in whole]
        assert found == [float(np.float32(a + b)) for a, b in zip(*rows, strict=True)]


def test_what_is_equal_is_taken_by_parameter_then_by_position(bench: Bench) -> None:
    made = model(bench, [np.full((1, 1000), 0.5, "<f4") for _ in range(3)])
    chosen = strategy("ties", density="1/2", scope="model")
    shares = survey(chosen, lambda: iter(made))
    counts = []
    for parameter, sides in given_shares(made, shares):
        values = bench.values(chosen.combine(parameter, sides), parameter)
        counts.append(int(np.count_nonzero(values)))
        assert not values[counts[-1] :].any()
    assert counts == [1000, 500, 0]


def test_large_changes_of_one_parameter_leave_nothing_of_another(bench: Bench) -> None:
    draw = np.random.default_rng(3)
    large, small = (
        (draw.standard_normal((2, 4000)) * scale + scale * 9).astype("<f4") for scale in (1, 1e-3)
    )
    made = model(bench, [small, large])
    for scope, wanted in (("tensor", [2000, 2000]), ("model", [0, 4000])):
        chosen = strategy("magnitude-prune", density="1/2", scope=scope)
        shares = survey(chosen, lambda: iter(made)) if chosen.surveys else {}
        for (parameter, sides), count in zip(given_shares(made, shares), wanted, strict=True):
            outcome = chosen.combine(parameter, [sides[0]])
            assert np.count_nonzero(bench.values(outcome, parameter)) == count


def test_by_itself_a_parameter_is_a_model(bench: Bench) -> None:
    draw = np.random.default_rng(4)
    ((parameter, sides),) = model(bench, [draw.standard_normal((2, 500)).astype("<f4")])
    one = strategy("ties", density="0.3", scope="model").combine(parameter, sides)
    other = strategy("ties", density="0.3").combine(parameter, sides)
    assert one.delta is not None
    assert other.delta is not None
    assert one.delta.id() == other.delta.id()


def test_strategies_that_select_nothing_by_magnitude_have_no_scope(bench: Bench) -> None:
    with pytest.raises(UsageError, match="has no option 'scope'"):
        strategy("dare-ties", scope="model")
    with pytest.raises(UsageError, match="has no option 'scope'"):
        strategy("core-ties", scope="model")
    with pytest.raises(UsageError, match="keeps no share"):
        survey(strategy("sum"), lambda: iter(()))
    assert not strategy("sum").surveys


def test_a_survey_refuses_what_a_merge_refuses(bench: Bench) -> None:
    parameter = bench.parameter((2,))
    values = Tensor(DTYPES["F32"], (2,), np.zeros(2, "<u4"))
    side = Side((Term(kinds.replace(values), Fraction(1)),), "a")
    with pytest.raises(MergeConflict):
        survey(strategy("ties", scope="model"), lambda: [(parameter, (side,))])


@pytest.mark.parametrize("name", ["ties", "dare-linear", "sce", "della"])
def test_bytes_do_not_depend_on_the_room(bench: Bench, tmp_path: Path, name: str) -> None:
    draw = np.random.default_rng(6)
    parameter = bench.parameter((64, 48), "BF16")
    sides = [bench.side(draw.standard_normal((64, 48)), key) for key in "ab"]
    one = strategy(name).combine(parameter, sides)
    other = strategy(name).combine(replace(parameter, room=FileRoom(tmp_path, least=1)), sides)
    assert one.delta is not None
    assert other.delta is not None
    assert one.delta.id() == other.delta.id()
