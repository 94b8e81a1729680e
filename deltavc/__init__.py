"""deltavc: git for adapted models.

Exact, compressed deltas on a frozen base. The command line is ``deltavc``; the
Python API is the same verbs::

    import deltavc

    repo = deltavc.open(".")
    repo.commit("out/adapter", message="first release")
    state_dict = repo.load("main")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deltavc.version import __version__

if TYPE_CHECKING:
    from deltavc.api import Repository, Signing, init, open  # noqa: A004

__all__ = ["Repository", "Signing", "__version__", "init", "open"]


def __getattr__(name: str) -> Any:
    """Imports the API on first use, so that the command line starts without it."""
    if name in ("Repository", "Signing", "init", "open"):
        from deltavc import api

        return getattr(api, name)
    raise AttributeError(f"module 'deltavc' has no attribute '{name}'")
