"""Presets: option values that give what other tools compute under the same name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["PRESETS", "Preset"]


@dataclass(frozen=True)
class Preset:
    """A strategy with options that reproduce another tool's variant.

    Attributes:
        strategy: Name of the strategy.
        options: The options that differ from its defaults, as text.
        meaning: What is reproduced, and what is not.
    """

    strategy: str
    options: Mapping[str, str]
    meaning: str


def _elect(tool: str, **options: str) -> dict[str, str]:
    """Returns the options of a tool's vote: both let a sum of 0 elect plus."""
    vote = {"zero": "plus"}
    if tool == "peft":  # unweighted values elect, and the number of those that agree divides
        vote |= {"sign": "sum", "divisor": "count"}
    return vote | options


_DRAWS = "the draws are deltavc's own: equal in distribution"
_PEFT = "on increments, as in its *_svd variants before the SVD; its plain ones work on factors"

PRESETS: dict[str, Preset] = {
    "mergekit:linear": Preset(
        "linear", {"normalize": "true"}, "a one-sided change, which it dilutes, is taken whole"
    ),
    "mergekit:task_arithmetic": Preset("task-arithmetic", {}, "exact, where it rounds each step"),
    "mergekit:ties": Preset(
        "ties", _elect("mergekit", density="1"), "ties at the threshold by position"
    ),
    "mergekit:dare_linear": Preset("dare-linear", {"density": "1", "rescale": "l1"}, _DRAWS),
    "mergekit:dare_ties": Preset(
        "dare-ties", _elect("mergekit", density="1", rescale="l1", divisor="none"), _DRAWS
    ),
    "mergekit:breadcrumbs": Preset("breadcrumbs", {"density": "1"}, "ties by position"),
    "mergekit:breadcrumbs_ties": Preset(
        "breadcrumbs-ties", _elect("mergekit", density="1", divisor="none"), "ties by position"
    ),
    "mergekit:della": Preset("della", _elect("mergekit", density="1", rescale="l1"), _DRAWS),
    "mergekit:della_linear": Preset("della-linear", {"density": "1", "rescale": "l1"}, _DRAWS),
    "mergekit:model_stock": Preset(
        "model-stock", {}, "but for sides that disagree, where it moves away from both"
    ),
    "mergekit:karcher": Preset("karcher", {}, "on increments, where it averages whole weights"),
    "mergekit:slerp": Preset("slerp", {}, "on increments, where it turns whole weights"),
    "mergekit:sce": Preset("sce", {"zero": "plus"}, "its select_topk is density"),
    "peft:ties": Preset("ties", _elect("peft"), _PEFT),
    "peft:dare_linear": Preset("dare-linear", {}, f"{_PEFT}; {_DRAWS}"),
    "peft:dare_ties": Preset("dare-ties", _elect("peft"), f"{_PEFT}; {_DRAWS}"),
    "peft:magnitude_prune": Preset("magnitude-prune", {}, _PEFT),
    "paper:ties": Preset(
        "ties",
        {"density": "1/5", "sign": "sum", "divisor": "count", "scope": "model"},
        "its threshold for the model is over the parameters that are merged",
    ),
    "paper:dare": Preset("dare-linear", {"density": "1/10"}, "with its drop rate of 0.9"),
}
