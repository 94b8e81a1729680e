"""deltavc: git for adapted models."""

from deltavc.version import __version__

__all__ = ["__version__"]
