"""Merges held against mergekit and PEFT themselves, and against the truth where these are off.

Both peers are run on increments (mergekit over a base of zeros), in float32
unless a test is about bfloat16. They round after each operation, deltavc's
increments are rounded once and merged in float64, so results may differ by a
few float32 steps of the largest operand: ``close`` allows eight.
"""

from __future__ import annotations

import itertools
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from mergekit.merge_methods import merge_tensors
from mergekit.merge_methods.slerp import slerp as mergekit_slerp
from mergekit.sparsify import RescaleNorm, della_magprune, rescaled_masked_tensor
from numpy.typing import NDArray
from peft.utils import merge_utils

from deltavc.delta import kinds
from deltavc.delta.increment import Increment
from deltavc.delta.rebuild import Rebuild, Term
from deltavc.delta.tensor import DTYPES, Tensor
from deltavc.merge.draws import key_for, threshold, words
from deltavc.merge.registry import strategy
from deltavc.merge.strategy import Outcome, Parameter, Side

pytestmark = pytest.mark.interop

SHAPE = (60, 80)
COUNT = 4800
KEYS = ("a", "b", "c")
Values = NDArray[np.float32]


def increments(count: int, seed: int = 0) -> list[Values]:
    """Increments of different sizes, partly in agreement."""
    draw = np.random.default_rng(seed)
    common = draw.standard_normal(SHAPE)
    return [
        ((common + 1.5 * draw.standard_normal(SHAPE)) * 10.0 ** -(k + 2)).astype(np.float32)
        for k in range(count)
    ]


def merged(name: str, values: list[Values], **options: Any) -> NDArray[np.float64]:
    """The increment that deltavc merges, as numbers."""
    zeros = Tensor(DTYPES["F32"], SHAPE, np.zeros(COUNT, np.uint32))
    parameter = Parameter("w", zeros, DTYPES["F32"], SHAPE)
    terms = [(Term(kinds.dense(Tensor.from_array(v)), Fraction(1)),) for v in values]
    sides = [Side(t, key) for t, key in zip(terms, KEYS, strict=False)]
    outcome = strategy(name, **options).combine(parameter, sides)
    return numbers(outcome, sides, parameter).reshape(SHAPE)


def numbers(outcome: Outcome, sides: list[Side], parameter: Parameter) -> NDArray[np.float64]:
    if outcome.delta is not None:
        vector = [Term(outcome.delta, Fraction(1))]
    else:
        assert outcome.coefficients is not None
        pairs = zip(outcome.coefficients, sides, strict=True)
        vector = [Term(t.delta, c * t.coefficient) for c, s in pairs for t in s.terms]
    increment = Increment(parameter.base, vector, parameter.shape)
    return increment.values(0, parameter.count).astype(np.float64)


def mergekit(method: str, values: list[Values], **parameters: Any) -> NDArray[np.float64]:
    """The increment that mergekit merges over a base of zeros."""
    tensors = [torch.zeros(SHAPE), *(torch.from_numpy(v.copy()) for v in values)]
    found = merge_tensors(tensors, method, parameters=parameters, base_index=0)
    return found.numpy().astype(np.float64)


def close(found: NDArray[Any], peer: NDArray[Any], values: list[Values]) -> bool:
    room = 8 * 2.0**-24 * sum(np.abs(v.astype(np.float64)) for v in values)
    return bool((np.abs(found - peer) <= room).all())


WEIGHTS = [0.7, 0.4, 1.1]


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("density", [0.3, 0.55, 1.0])
@pytest.mark.parametrize("method", ["ties", "breadcrumbs", "breadcrumbs_ties"])
def test_trimming_presets_are_mergekits(method: str, density: float, count: int) -> None:
    values, weights = increments(count), WEIGHTS[:count]
    found = merged(f"mergekit:{method}", values, density=density, weights=weights, lambda_=0.8)
    peer = mergekit(method, values, density=density, weight=weights, **{"lambda": 0.8})
    assert close(found, peer, values)
    assert np.array_equal(found != 0, peer != 0)


@pytest.mark.parametrize("count", [2, 3])
def test_linear_presets_are_mergekits(count: int) -> None:
    values, weights = increments(count), WEIGHTS[:count]
    found = merged("mergekit:task_arithmetic", values, weights=weights, lambda_=0.8)
    assert close(
        found, mergekit("task_arithmetic", values, weight=weights, **{"lambda": 0.8}), values
    )
    found = merged("mergekit:linear", values, weights=weights)
    tensors = [torch.from_numpy(v.copy()) for v in values]
    peer = merge_tensors(tensors, "linear", parameters={"weight": weights}).numpy()
    assert close(found, peer, values)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("density", [0.2, 1.0])
def test_sce_is_mergekits(density: float, count: int) -> None:
    # large enough that mergekit's absolute threshold of 1e-6 on the weights stays out of it
    values = [v * np.float32(100) for v in increments(count)]
    found = merged("mergekit:sce", values, density=density)
    assert close(found, mergekit("sce", values, select_topk=density), values)


@pytest.mark.parametrize("count", [2, 3])
def test_spherical_presets_are_mergekits_on_increments(count: int) -> None:
    values = [v * np.float32(100) for v in increments(count)]
    tensors = [torch.from_numpy(v.copy()) for v in values]
    peer = mergekit("model_stock", values)
    # its cosines are float32 sums of 4800 products; ours are exact
    assert np.allclose(merged("mergekit:model_stock", values), peer, rtol=1e-5, atol=1e-8)
    peer = merge_tensors(tensors, "karcher", parameters={}).numpy()
    assert np.allclose(merged("mergekit:karcher", values), peer, rtol=1e-4, atol=1e-6)
    for t in (0.3, 0.5):
        flat = [v.reshape(1, -1) for v in tensors[:2]]
        peer = mergekit_slerp(torch.tensor([t]), *flat).numpy().reshape(SHAPE)
        assert np.allclose(merged("mergekit:slerp", values[:2], t=t), peer, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("sign", ["total", "frequency"])
@pytest.mark.parametrize("density", [0.3, 0.75])
def test_trimming_presets_are_pefts(density: float, sign: str, count: int) -> None:
    values, weights = increments(count), WEIGHTS[:count]
    tensors = [torch.from_numpy(v.copy()) for v in values]
    found = merged(
        "peft:ties",
        values,
        density=density,
        weights=weights,
        sign={"total": "sum", "frequency": "count"}[sign],
    )
    peer = merge_utils.ties(tensors, torch.tensor(weights), density, majority_sign_method=sign)
    assert close(found, peer.numpy(), values)
    found = merged("peft:magnitude_prune", values, density=density, weights=weights)
    peer = merge_utils.magnitude_prune(tensors, torch.tensor(weights), density)
    assert close(found, peer.numpy(), values)


def drawn(values: list[Values], density: float, seed: int) -> list[torch.Tensor]:
    """The masks of deltavc's draws, for peers that draw from a global generator."""
    limit = threshold(Fraction(str(density)))
    masks = [words(key_for(seed, "w", k), 0, COUNT) < limit for k in KEYS[: len(values)]]
    return [torch.from_numpy(m.reshape(SHAPE).astype(np.float32)) for m in masks]


@pytest.mark.parametrize("density", [0.1, 0.5])
def test_dare_presets_are_the_peers_on_the_same_draws(density: float) -> None:
    values, weights = increments(2), WEIGHTS[:2]
    tensors = [torch.from_numpy(v.copy()) for v in values]
    masks = drawn(values, density, 7)
    options = {"density": density, "weights": weights, "seed": 7}
    # PEFT divides by the density
    kept = [t * m / density for t, m in zip(tensors, masks, strict=True)]
    peer = merge_utils.task_arithmetic(kept, torch.tensor(weights))
    scaled = [(v / density).astype(np.float32) for v in values]
    assert close(merged("peft:dare_linear", values, **options), peer.numpy(), scaled)
    stacked = torch.stack(kept)
    mask = merge_utils.calculate_majority_sign_mask(stacked, method="total")
    column = torch.tensor(weights).reshape(2, 1, 1)
    peer = merge_utils.disjoint_merge(stacked * column, mask)
    assert close(merged("peft:dare_ties", values, **options), peer.numpy(), scaled)
    # mergekit keeps the L1 norm
    kept = [
        rescaled_masked_tensor(t, m, RescaleNorm.l1) for t, m in zip(tensors, masks, strict=True)
    ]
    peer = sum(w * k for w, k in zip(weights, kept, strict=True))
    assert np.allclose(
        merged("mergekit:dare_linear", values, **options), peer.numpy(), rtol=2e-5, atol=1e-9
    )


def test_della_keeps_by_rank_as_mergekit_does() -> None:
    """The draws differ, so the shares kept at each rank are compared, over 2,000 rows."""
    rows, row, density, epsilon = 2000, 24, 0.5, 0.3
    values = np.random.default_rng(3).permuted(
        np.tile(np.linspace(1, 2, row, dtype=np.float32), (rows, 1)), axis=1
    )
    torch.manual_seed(1)
    peer = della_magprune(torch.from_numpy(values.copy()), density, epsilon).numpy() != 0
    zeros = Tensor(DTYPES["F32"], (rows, row), np.zeros(rows * row, np.uint32))
    parameter = Parameter("w", zeros, DTYPES["F32"], (rows, row))
    side = Side((Term(kinds.dense(Tensor.from_array(values)), Fraction(1)),), "a")
    made = strategy("della-linear", density=density, epsilon=epsilon, rescale="none")
    own = numbers(made.combine(parameter, [side]), [side], parameter).reshape(rows, row) != 0
    order = np.argsort(values, axis=1)
    shares = [np.take_along_axis(kept, order, axis=1).mean(axis=0) for kept in (own, peer)]
    chances = np.linspace(density - epsilon, density + epsilon, row)
    spread = np.sqrt(chances * (1 - chances) / rows)
    assert all((np.abs(share - chances) < 5 * spread).all() for share in shares)


# where a peer is off --------------------------------------------------------------


def bfloat16(values: NDArray[Any]) -> tuple[torch.Tensor, Tensor]:
    rounded = torch.from_numpy(np.asarray(values, dtype=np.float32)).to(torch.bfloat16)
    bits = rounded.view(torch.int16).numpy().view(np.uint16).reshape(-1)
    return rounded, Tensor(DTYPES["BF16"], tuple(rounded.shape), bits)


def test_arithmetic_in_bfloat16_misses_the_weighted_sum_where_deltavc_does_not() -> None:
    """mergekit adds and rounds step by step in bfloat16; a formal sum is rounded once."""
    draw = np.random.default_rng(5)
    base, held = bfloat16(draw.standard_normal(SHAPE) * 0.02)
    pairs = [bfloat16(draw.standard_normal(SHAPE) * 0.005) for _ in range(2)]
    weights = [0.7, 0.4]
    truth = held.to_float64() + sum(
        w * t.to_float64() for w, (_, t) in zip(weights, pairs, strict=True)
    )
    wanted, _ = bfloat16(truth)
    sides = [
        Side((Term(kinds.dense(t), Fraction(1)),), k) for k, (_, t) in zip("ab", pairs, strict=True)
    ]
    parameter = Parameter("w", held, DTYPES["BF16"], SHAPE)
    outcome = strategy("task-arithmetic", weights=weights).combine(parameter, sides)
    assert outcome.coefficients is not None
    terms = [
        Term(side.terms[0].delta, c) for c, side in zip(outcome.coefficients, sides, strict=True)
    ]
    found = Rebuild(held, terms).tensor()
    assert np.array_equal(found.bits, wanted.view(torch.int16).numpy().view(np.uint16).reshape(-1))
    variants = [base, *(base + t for t, _ in pairs)]
    peer = merge_tensors(variants, "task_arithmetic", parameters={"weight": weights}, base_index=0)
    assert float((peer != wanted).float().mean()) > 0.05


def test_ties_at_the_threshold_go_by_position_where_mergekit_sorts_unstably() -> None:
    values = [np.zeros(SHAPE, dtype=np.float32)]
    flat = values[0].reshape(-1)
    flat[: COUNT // 2] = 0.5
    flat[1::3] = -0.5
    flat[5] = 2.0
    found = merged("mergekit:ties", values, density=0.25).reshape(-1)
    peer = mergekit("ties", values, density=0.25, weight=[1.0]).reshape(-1)
    # the same number of elements of the same size, and ours are the first ones
    assert np.count_nonzero(found) == np.count_nonzero(peer) == COUNT // 4
    assert sorted(np.abs(found)) == sorted(np.abs(peer))
    halves = np.flatnonzero(np.abs(flat) == 0.5)
    assert np.flatnonzero(np.abs(found) == 0.5).tolist() == halves[: COUNT // 4 - 1].tolist()


def test_the_l1_norm_is_not_the_expected_change() -> None:
    """DARE divides by the probability, so that the mean over draws is the change itself.

    mergekit's default gives what is kept the L1 norm of the whole, a factor that
    depends on what was drawn.
    """
    values = increments(1)
    scales: dict[str, set[float]] = {"inverse": set(), "l1": set()}
    for seed, rescale in itertools.product(range(4), scales):
        found = merged("dare-linear", values, density=0.25, seed=seed, rescale=rescale)
        kept = found != 0
        ratio = float(np.median(found[kept] / values[0][kept]))
        scales[rescale].add(round(ratio, 6))
    assert scales["inverse"] == {4.0}
    assert len(scales["l1"]) == 4
    assert all(3.5 < scale < 4.5 for scale in scales["l1"])


def test_sides_that_disagree_leave_the_merge_base_where_mergekit_moves_away() -> None:
    values = increments(2)
    values[1] = -values[0] + np.float32(0.3) * values[1]
    cosine = float((values[0] * values[1]).sum())
    assert cosine < 0
    assert not merged("model-stock", values).any()
    mean = (values[0].astype(np.float64) + values[1]) / 2
    peer = mergekit("model_stock", values)
    assert float((peer * mean).sum()) < 0  # the opposite of what both sides have in common
