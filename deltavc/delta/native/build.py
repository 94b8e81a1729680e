"""Compiles the C sources of this folder, each into a shared library of its own beside it.

Run when the package is built or installed (``hatch_build.py``), so this module
needs the standard library alone. A library carries a stamp of its sources:
:func:`deltavc.delta.native.library` leaves one alone that belongs to others.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

__all__ = ["FLAGS", "STAMP", "SUFFIX", "build", "names", "stamp"]

SUFFIX = ".native.so"  # with a dot, so that nobody takes it for a module of Python
STAMP = "deltavc_stamp"
# No -ffast-math, and no contraction of a*b+c behind the sources' back: where an operation must
# not change, as in error-free sums, the compiler may not change it either.
FLAGS = ("-O3", "-std=gnu11", "-ffp-contract=off", "-fPIC", "-shared", "-Wall", "-Wextra")
_TIMEOUT = 300


def names(folder: Path) -> list[str]:
    """Returns the names of the libraries: those of the C files."""
    return sorted(path.stem for path in folder.glob("*.c"))


def stamp(folder: Path, name: str) -> str:
    """Returns what tells a library's sources from others: a hash of NAME.c and NAME_*.h.

    Args:
        folder: Where the sources are.
        name: The library.

    Returns:
        Sixteen hexadecimal digits.
    """
    digest = hashlib.sha256(" ".join(FLAGS).encode())
    for path in [folder / f"{name}.c", *sorted(folder.glob(f"{name}_*.h"))]:
        content = path.read_bytes()
        digest.update(f"\0{path.name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:16]


def build(folder: Path, compiler: str) -> dict[str, str]:
    """Compiles every library of a folder that is not there yet in its present form.

    A library is made beside and renamed, so that programs which have the old one
    mapped keep it. One that could not be made is removed.

    Args:
        folder: Where the sources are and the libraries go.
        compiler: The C compiler, with options if need be.

    Returns:
        For each library the reason why it could not be made; empty where it was.
    """
    import shlex
    import shutil

    command = shlex.split(compiler)
    found = bool(command) and shutil.which(command[0]) is not None
    reasons = {}
    for name in names(folder):
        target = folder / f"{name}{SUFFIX}"
        if found and _carries(target, stamp(folder, name)):
            reasons[name] = ""
            continue
        reason = _compile(folder, name, command) if found else f"'{compiler}' was not found"
        if reason:
            target.unlink(missing_ok=True)
        reasons[name] = reason
    return reasons


def _carries(library: Path, mark: str) -> bool:
    """Tells whether a library has this stamp in it."""
    try:
        return mark.encode() in library.read_bytes()
    except OSError:
        return False


def _compile(folder: Path, name: str, command: Sequence[str]) -> str:
    """Makes one library; returns why it could not."""
    import subprocess
    import tempfile

    with tempfile.TemporaryDirectory(prefix=".native-", dir=folder) as scratch:
        mark = Path(scratch) / "stamp.c"
        mark.write_text(f'const char {STAMP}[] = "{stamp(folder, name)}";\n', encoding="ascii")
        made = Path(scratch) / f"{name}{SUFFIX}"
        parts = [str(folder / f"{name}.c"), str(mark), "-o", str(made), "-lm"]
        try:
            done = subprocess.run(  # noqa: S603 - the compiler that the builder chose
                [*command, *FLAGS, *parts],
                capture_output=True,
                text=True,
                timeout=_TIMEOUT,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
        if done.returncode or not made.is_file():
            lines = (done.stderr or done.stdout).strip().splitlines()
            return next((line for line in lines if "error" in line), "the compiler failed")
        os.replace(made, folder / f"{name}{SUFFIX}")  # noqa: PTH105
    return ""
