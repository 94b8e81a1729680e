"""The three verdicts, and which of several counts; light, as the catalog is written with it."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["FAIL", "INCONCLUSIVE", "PASS", "worst_of"]

PASS, FAIL, INCONCLUSIVE = "pass", "fail", "inconclusive"
_RANK = {PASS: 0, INCONCLUSIVE: 1, FAIL: 2}


def worst_of(verdicts: Iterable[str]) -> str | None:
    """Returns the worst verdict: fail, else inconclusive, else pass; None without any.

    A word of a damaged record that is no verdict is worse than all.
    """
    return max(verdicts, key=lambda verdict: _RANK.get(verdict, len(_RANK)), default=None)
