"""The reference page of merge strategies says what the registry says."""

from __future__ import annotations

import re
from pathlib import Path

from deltavc.merge.registry import PRESETS, STRATEGIES, strategy_type

PAGE = (Path(__file__).parents[2] / "docs/reference/merge-strategies.md").read_text("utf-8")


def tables() -> dict[str, dict[str, list[str]]]:
    """The page's tables by their first column's title, rows by their first cell."""
    found: dict[str, dict[str, list[str]]] = {}
    for block in re.findall(r"(?:^\|.*\n)+", PAGE, re.MULTILINE):
        lines = [[c.strip() for c in line.strip("|\n").split("|")] for line in block.splitlines()]
        rows = {re.sub("`", "", cells[0]): cells[1:] for cells in lines[2:]}
        found[f"{lines[0][0]}: {lines[0][1]}"] = rows
    return found


def test_every_strategy_is_told_with_its_source() -> None:
    rows = tables()["strategy: the merge base plus"]
    assert set(rows) == set(STRATEGIES)
    for name, (_, kind, source) in rows.items():
        assert kind in ("formal", "element-wise", "low-rank")
        found = re.search(r"arXiv:(\d+\.\d+)", strategy_type(name).source)
        assert found is None or found[1] in source or "TIES" in source or "arithmetic" in source


def test_every_option_is_told_with_its_default() -> None:
    defaults = tables()["strategy: options and their defaults"]
    assert set(defaults) == set(STRATEGIES)
    for name, (told,) in defaults.items():
        options = strategy_type(name).options()
        wanted = {}
        for option in options.values():
            text = "" if option.default is None else option.kind.write(option.default)
            wanted[option.name] = text or option.meaning.partition("; ")[2].removesuffix(
                " if not given"
            )
        assert dict(re.findall(r"`([a-z-]+)` ([^,]+)", told)) == wanted, name
    told = tables()["option: values"]
    used = {option for name in STRATEGIES for option in strategy_type(name).options()}
    assert set(told) == used


def test_every_preset_is_told_with_its_values() -> None:
    rows = tables()["preset: is"]
    assert set(rows) == set(PRESETS)
    for name, (is_, reproduces) in rows.items():
        preset = PRESETS[name]
        assert is_ == ", ".join([preset.strategy, *(f"{k} {v}" for k, v in preset.options.items())])
        assert reproduces == preset.meaning
