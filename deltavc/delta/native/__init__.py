"""Inner loops in C, where they are there: same bits, several times faster.

Each ``NAME.c`` of this folder becomes ``NAME.native.so`` beside it when the package is
installed with a C compiler at hand (:mod:`deltavc.delta.native.build`). Python
calls it through ctypes, which lets go of the interpreter lock meanwhile::

    kernels = library("rounding")
    if kernels is None:
        ...  # the same in NumPy or torch

No result may depend on whether a library is there: every caller has another way
to the same bits, and tests take both. To build after a change: ``python
hatch_build.py`` or ``pip install -e .``. ADR 0008 has the reasons.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from deltavc.delta.native.build import STAMP, SUFFIX, names, stamp

__all__ = ["library", "states", "without"]

_FOLDER = Path(__file__).parent
_off = 0


def library(name: str) -> ctypes.CDLL | None:
    """Returns a library of this folder, or None where it cannot be used.

    Args:
        name: Name of its C file, without suffix.

    Returns:
        The library, with no prototypes set: give ``argtypes`` to what you call.
    """
    return None if _off else _load(name)[0]


def states() -> dict[str, str]:
    """Returns for each library why it is not in use; an empty text for one that is."""
    return {name: "switched off" if _off else _load(name)[1] for name in names(_FOLDER)}


@contextmanager
def without() -> Iterator[None]:
    """Does as if no library were there, in the whole process, for as long as it lasts."""
    global _off
    _off += 1
    try:
        yield
    finally:
        _off -= 1


@cache
def _load(name: str) -> tuple[ctypes.CDLL | None, str]:
    """Returns a library, or None and the reason."""
    path = _FOLDER / f"{name}{SUFFIX}"
    if sys.byteorder != "little":
        return None, "made for little-endian machines"
    if not path.is_file():
        return None, "not compiled: no C compiler was there when deltavc was installed"
    try:
        loaded = ctypes.CDLL(str(path))
        found = ctypes.c_char_p(ctypes.addressof(ctypes.c_char.in_dll(loaded, STAMP))).value
        expected = stamp(_FOLDER, name).encode()
    except (OSError, ValueError) as error:
        return None, f"not loaded: {error}"
    if found != expected:
        return None, "made from other sources: install deltavc again"
    return loaded, ""
