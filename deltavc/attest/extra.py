"""The libraries of the standards, imported when they are needed."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from deltavc.errors import MissingExtra

__all__ = ["EXTRA", "available", "require"]

EXTRA = "attest"


def require(module: str) -> Any:
    """Imports a module of the extra.

    Args:
        module: Its full name.

    Returns:
        The module.

    Raises:
        MissingExtra: It is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise MissingExtra(
            f"evidence in this form needs '{package}', which is not installed",
            hint=f'pip install "deltavc[{EXTRA}]"',
            extra=EXTRA,
            package=package,
        ) from error


def available(module: str) -> bool:
    """Tells whether a module of the extra is installed, without the seconds to import it."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the package that it is in
        return False
