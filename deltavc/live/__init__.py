"""A resident torch model that moves between versions in place.

``LiveModel`` (:mod:`deltavc.live.model`) is what :meth:`deltavc.Repository.live`
returns. Beneath it: which tensor of the module is which parameter
(:mod:`deltavc.live.binding`), who may look while weights change
(:mod:`deltavc.live.guard`), and the rebuild into memory
(:mod:`deltavc.live.rebuilding`). Versions come from outside, as
:mod:`deltavc.live.source` says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deltavc.live.model import LiveModel, Switched, Verified

__all__ = ["LiveModel", "Switched", "Verified"]


def __getattr__(name: str) -> Any:
    """Imports the model on first use: it needs torch."""
    if name in __all__:
        from deltavc.live import model

        return getattr(model, name)
    raise AttributeError(f"module 'deltavc.live' has no attribute '{name}'")
