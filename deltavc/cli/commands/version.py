"""``deltavc version``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deltavc.cli.verb import verb
from deltavc.version import __version__

if TYPE_CHECKING:
    from deltavc.cli.context import Context


@verb("version", light=True, examples=["deltavc version", "deltavc version --json"])
def command(ctx: Context) -> None:
    """Print the version."""
    ctx.out.data({"version": __version__}, human=f"deltavc {__version__}", ids=[__version__])
