"""Names, options, records and presets of merge strategies."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltavc.errors import ObjectCorrupt, UsageError
from deltavc.merge.registry import (
    PRESETS,
    STRATEGIES,
    strategy,
    strategy_from_record,
    strategy_type,
)


@pytest.mark.parametrize("name", [*STRATEGIES, *PRESETS])
def test_a_record_gives_the_strategy_back_and_holds_every_option(name: str) -> None:
    made = strategy(name)
    record = made.record()
    assert strategy_from_record(record) == made
    unset = {o.name for o in made.options().values() if o.default is None}
    assert set(record) | unset >= {"strategy", *made.options()}
    assert all(isinstance(value, str) for value in record.values())


@given(st.fractions(0, 1, max_denominator=10**6), st.lists(st.fractions(), min_size=1, max_size=4))
def test_records_are_exact(density: Fraction, weights: list[Fraction]) -> None:
    density = density or Fraction(1)
    made = strategy("ties", density=density, weights=weights, lambda_=Fraction(1, 3))
    again = strategy_from_record(made.record())
    assert again == made
    assert again.record()["lambda"] == "1/3"


def test_text_floats_and_rationals_mean_the_same() -> None:
    ways: list[object] = ["0.3", 0.3, Fraction(3, 10), "3/10", "3e-1"]
    assert len({strategy("ties", density=way).record()["density"] for way in ways}) == 1
    lists: list[object] = ["0.7,0.3", "0.7 0.3", [0.7, 0.3], (Fraction(7, 10), "0.3")]
    assert {strategy("linear", weights=way).record()["weights"] for way in lists} == {"7/10,3/10"}


BAD: list[tuple[str, dict[str, Any], str]] = [
    (
        "ties",
        {"density": 0},
        "'0' is no density for ties: it must be a number above 0 and at most 1",
    ),
    ("ties", {"density": 1.01}, "it must be a number above 0 and at most 1"),
    ("ties", {"density": "much"}, "'much' is no density for ties: it must be a number"),
    ("ties", {"density": True}, "it must be a number"),
    ("ties", {"density": "1e999999999999"}, "it must be a number"),
    ("ties", {"density": "nan"}, "it must be a number"),
    ("ties", {"density": float("inf")}, "it must be a number"),
    ("ties", {"density": "9" * 300}, "it must be a number"),
    ("ties", {"density": "1/0"}, "it must be a number"),
    ("ties", {"sign": "loudest"}, "it must be weighted, sum or count"),
    ("ties", {"weights": "1,x"}, "'1,x' is no weights for ties: it must be numbers, one for each"),
    ("ties", {"weights": 3}, "it must be numbers, one for each side"),
    ("slerp", {"t": -0.1}, "it must be a number at least 0 and at most 1"),
    ("dare-ties", {"seed": -1}, "it must be a whole number from 0 to 9223372036854775807"),
    ("dare-ties", {"seed": 1.5}, "it must be a whole number"),
    ("dare-ties", {"rescale": "sqrt"}, "it must be inverse, l1 or none"),
    ("linear", {"normalize": "perhaps"}, "it must be true or false"),
    ("sum", {"density": 0.5}, "sum has no option 'density'"),
    ("karcher", {"iterations": 0}, "it must be a whole number from 1 to 1000"),
]


@pytest.mark.parametrize(("name", "options", "message"), BAD)
def test_a_bad_option_is_one_sentence_with_a_hint(
    name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        strategy(name, **options)
    assert message in caught.value.message
    assert caught.value.hint
    assert caught.value.exit_code == 2


def test_an_unknown_name_is_guessed_at() -> None:
    with pytest.raises(UsageError, match="there is no merge strategy 'tie'") as caught:
        strategy("tie")
    assert caught.value.hint == "did you mean 'ties'?"
    with pytest.raises(UsageError) as caught:
        strategy("frankenmerge")
    assert "sum, linear" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "options", "count", "message"),
    [
        ("ties", {"weights": "1,2,3"}, 2, "ties has 3 weights for 2 sides"),
        ("linear", {"weights": "1"}, 2, "linear has 1 weights for 2 sides"),
        ("slerp", {}, 3, "slerp merges 2 sides, not 3"),
        ("karcher", {}, 1, "karcher merges 2 or more sides, not 1"),
        ("linear", {"weights": "1,-1", "normalize": True}, 2, "add up to 0"),
        ("dare-linear", {"weights": "1,-1", "divisor": "weights"}, 2, "add up to 0"),
        ("karcher", {"weights": "1,-1"}, 2, "must be positive"),
        ("della", {"density": 0.1}, 2, "draws with density - epsilon to density + epsilon"),
        ("della", {"density": 0.9}, 2, "0.75 to 1.05"),
    ],
)
def test_what_does_not_fit_the_sides_is_refused(
    name: str, options: dict[str, Any], count: int, message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        strategy(name, **options).check(count)
    assert message in caught.value.message
    assert caught.value.hint


def test_a_preset_gives_way_to_what_is_asked() -> None:
    plain = strategy("mergekit:ties")
    assert plain.record()["density"] == "1"
    assert strategy("mergekit:ties", density="0.4").record() == plain.record() | {"density": "2/5"}
    assert plain.name == "ties"


@pytest.mark.parametrize(
    "record",
    [{}, {"strategy": "tiez"}, {"strategy": "ties", "density": "2"}, {"strategy": "sum", "x": "1"}],
)
def test_a_record_that_cannot_be_read_is_damage(record: dict[str, str]) -> None:
    with pytest.raises(ObjectCorrupt):
        strategy_from_record(record)


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_says_what_it_is(name: str) -> None:
    kind = strategy_type(name)
    assert kind.name == name
    assert kind.summary
    assert kind.source
    assert all(option.meaning for option in kind.options().values())


def test_choosing_a_strategy_does_not_import_torch() -> None:
    code = (
        "import sys; from deltavc.merge.registry import *;"
        "[strategy(n) for n in (*STRATEGIES, *PRESETS)];"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
