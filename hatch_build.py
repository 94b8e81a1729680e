"""Build hook: compiles the C sources when the package is built or installed.

Without a C compiler the package is whole all the same, only slower (ADR 0008).
``python hatch_build.py`` compiles in place, for work on the sources.
"""

from __future__ import annotations

import os
import runpy
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NATIVE = Path("deltavc", "delta", "native")
BUILDER = runpy.run_path(str(Path(__file__).parent / NATIVE / "build.py"))


def compile_native(root: Path) -> dict[str, str]:
    """Compiles all libraries in place; returns for each why it could not be made, or nothing."""
    reasons: dict[str, str] = BUILDER["build"](root / NATIVE, os.environ.get("CC", "cc"))
    return reasons


def message(reasons: dict[str, str]) -> str:
    """Returns one line about libraries that could not be made; nothing if all were."""
    failed = {name: reason for name, reason in reasons.items() if reason}
    if not failed:
        return ""
    told = ", ".join(sorted(failed))
    return f"no native code for {told} ({next(iter(failed.values()))}); same results, slower"


class NativeBuildHook(BuildHookInterface[Any]):
    """Puts the libraries into the wheel, which is then one for this platform."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        """Compiles, and tells the builder what came of it.

        Args:
            version: "standard" or "editable".
            build_data: What the builder is told.
        """
        if self.target_name != "wheel":
            return
        reasons = compile_native(Path(self.root))
        if text := message(reasons):
            self.app.display_warning(text)
        made = sorted(name for name, reason in reasons.items() if not reason)
        if not made:
            return
        build_data["artifacts"] += [
            (NATIVE / (name + BUILDER["SUFFIX"])).as_posix() for name in made
        ]
        build_data["pure_python"] = False
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"py3-none-{platform}"


if __name__ == "__main__":
    text = message(compile_native(Path(__file__).parent))
    sys.exit(text or 0)
