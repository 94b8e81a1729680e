"""The entry point: runs a command line and turns whatever happens into an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

import click

from deltavc.cli.invocation import Invocation, Shortcut
from deltavc.cli.output import Output
from deltavc.cli.root import ROOT

__all__ = ["main", "run"]

READER_GONE = 141
COMPLETION_VARIABLE = "_DELTAVC_COMPLETE"


def run() -> NoReturn:
    """Runs the process's command line and exits; the console script."""
    for stream in (sys.stdout, sys.stderr):
        # A symbol that the terminal's encoding lacks must not end a command.
        with suppress(AttributeError, ValueError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    code = main(sys.argv[1:])
    if code == READER_GONE:
        # Else the interpreter flushes at exit, fails again, and says so.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(code)


def main(argv: Sequence[str]) -> int:
    """Runs one command line in this process.

    Streams, environment and working folder are the process's; the folder is
    left as it was found, whatever ``-C`` did.

    Args:
        argv: The words after the program's name.

    Returns:
        The exit code.
    """
    if COMPLETION_VARIABLE in os.environ:
        from deltavc.cli.completion import answer

        return answer(ROOT, os.environ[COMPLETION_VARIABLE])
    try:
        folder = os.getcwd()  # noqa: PTH109 (cheaper than a Path, and never shown)
    except OSError:
        folder = "/"
    invocation = Invocation(argv=list(argv))
    try:
        return _guarded(invocation)
    finally:
        with suppress(OSError):
            os.chdir(folder)


def _guarded(invocation: Invocation) -> int:
    try:
        try:
            return _execute(invocation)
        except BrokenPipeError:
            raise
        except BaseException as error:
            return _failed(invocation, error)
    except BrokenPipeError:
        return READER_GONE


def _execute(invocation: Invocation) -> int:
    """Parses and runs; the answer is complete when this returns."""
    try:
        with ROOT.make_context("deltavc", list(invocation.argv), obj=invocation) as context:
            code = int(ROOT.invoke(context))
    except Shortcut as shortcut:
        invocation.schema = f"deltavc.{shortcut.kind}/1"
        output = invocation.output = _output(invocation)
        key = "text" if shortcut.kind == "help" else shortcut.kind
        if output.is_document:
            output.data({key: shortcut.text})
        else:
            output.page(shortcut.text)
        code = 0
    except click.exceptions.Exit as signal:
        code = signal.exit_code
    output = invocation.output or _output(invocation)
    output.finish()
    return code


def _failed(invocation: Invocation, error: BaseException) -> int:
    if isinstance(error, SystemExit | GeneratorExit):
        raise error
    if os.environ.get("DELTAVC_DEBUG", "0") not in ("", "0"):
        import traceback

        traceback.print_exception(error)
    from deltavc.cli.failures import describe

    failure = describe(error, invocation.argv, invocation.verb)
    output = invocation.output or _output(invocation)
    try:
        output.fail(failure)
    except BrokenPipeError:
        raise
    except OSError:
        # stdout itself cannot be written, /dev/full for one: stderr is what is left.
        with suppress(OSError):
            sys.stderr.write(f"error: {failure.message}\n")
    return failure.exit_code


def _output(invocation: Invocation) -> Output:
    """Makes the sink without settings, for help, version, and what fails before a verb runs."""
    from deltavc.cli.context import make_output

    return make_output(invocation, None)
