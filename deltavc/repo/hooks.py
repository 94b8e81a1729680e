"""The command that an environment runs after a switch.

It gets what happened in its environment, its output never reaches standard output, and
it must end: an incident does not wait for it for ever.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from deltavc.repo.results_ship import HookRow

if TYPE_CHECKING:
    import subprocess

__all__ = ["TIMEOUT", "run_hook"]

TIMEOUT = 600.0
MAX_TOLD = 2000
TIMED_OUT, NOT_RUN = 124, 127


def run_hook(command: str, values: Mapping[str, str], timeout: float = TIMEOUT) -> HookRow:
    """Runs a hook in the shell.

    Args:
        command: The command.
        values: Variables for it, beside those that this process has.
        timeout: Seconds after which it counts as failed and is ended.

    Returns:
        How it ended, with the end of what it said; 124 for one that took too long.
    """
    import subprocess

    started = time.monotonic()
    variables = [f"{name}={value}" for name, value in values.items()]
    process = ["/usr/bin/env", *variables, "/bin/sh", "-c", command]
    try:
        with subprocess.Popen(  # noqa: S603 - running it is what a hook is for
            process,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as running:
            code, output = _wait(running, timeout)
    except OSError as error:
        code, output = NOT_RUN, f"{error.strerror}".encode()
    told = output[-MAX_TOLD:].decode("utf-8", "replace").strip()
    return HookRow(command=command, exit_code=code, seconds=time.monotonic() - started, output=told)


def _wait(running: subprocess.Popen[bytes], timeout: float) -> tuple[int, bytes]:
    import subprocess

    try:
        output, _ = running.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        import os
        import signal

        os.killpg(running.pid, signal.SIGKILL)
        output, _ = running.communicate()
        return TIMED_OUT, output + f"\nended after {timeout:g} s".encode()
    return running.returncode, output
