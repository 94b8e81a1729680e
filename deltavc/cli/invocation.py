"""One run of the command line: the global options, and what the frame knows of the run.

The global options are accepted before and after the verb: every command has
them (:data:`GLOBAL_OPTIONS`), and all of them write into the one
:class:`Invocation` of the run. The later one wins; ``-v`` and ``--config`` add up.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import click

from deltavc.cli.output import FORMATS, Output

__all__ = ["GLOBAL_OPTIONS", "HELP_OPTION", "Invocation", "Shortcut"]


@dataclass
class Invocation:
    """The state of one run.

    Attributes:
        argv: The command line without the program's name.
        format: The value of ``--format`` or ``--json``; None when neither was given.
        quiet: ``-q``
        verbose: How often ``-v`` was given.
        color: The value of ``--color``.
        no_pager: ``--no-pager``
        no_input: ``--no-input``
        yes: ``-y``
        config: The ``--config`` overrides in order.
        at_op: The value of ``--at-op``.
        schema: Name of the document: that of the verb once it is known.
        verb: The verb that runs, such as ``base add``.
        output: The sink, once it was made.
        parsed: Whether the whole command line has been read.
    """

    argv: Sequence[str] = ()
    format: str | None = None
    quiet: bool = False
    verbose: int = 0
    color: str | None = None
    no_pager: bool = False
    no_input: bool = False
    yes: bool = False
    config: list[tuple[str, str]] = field(default_factory=list)
    at_op: str | None = None
    schema: str = "deltavc.error/1"
    verb: str = ""
    output: Output | None = None
    parsed: bool = False

    @property
    def expected_format(self) -> str | None:
        """The format that was asked for; a command line that cannot be parsed is searched for it.

        ``deltavc commit --bogus --json`` has to answer in JSON, though parsing
        ends at the first option.
        """
        if self.parsed or self.format is not None:
            return self.format
        words = list(self.argv)
        words = words[: words.index("--")] if "--" in words else words
        found = None
        for at, word in enumerate(words):
            if word == "--json":
                found = "json"
            elif word.startswith("--format="):
                found = word.removeprefix("--format=")
            elif word == "--format" and at + 1 < len(words):
                found = words[at + 1]
        return found if found in FORMATS else None


class Shortcut(Exception):
    """Ends parsing: the answer is the help or the version.

    Args:
        kind: help or version.
        text: What to show.
    """

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(kind)
        self.kind = kind
        self.text = text


def _put(change: Callable[[Invocation, Any], None]) -> Callable[..., None]:
    """Makes a click callback that changes the invocation if the option was really given."""

    def callback(context: click.Context, parameter: click.Parameter, value: Any) -> None:
        source = context.get_parameter_source(parameter.name or "")
        if source is click.core.ParameterSource.COMMANDLINE:
            change(context.ensure_object(Invocation), value)

    return callback


def _set(name: str, constant: Any = None) -> Callable[..., None]:
    def change(invocation: Invocation, value: Any) -> None:
        setattr(invocation, name, value if constant is None else constant)

    return _put(change)


def _add_verbose(invocation: Invocation, value: int) -> None:
    invocation.verbose += value


def _add_config(invocation: Invocation, value: tuple[str, ...]) -> None:
    for text in value:
        key, equals, setting = text.partition("=")
        if not equals or not key:
            raise click.BadParameter(f"'{text}' is not KEY=VALUE", param_hint="'--config'")
        invocation.config.append((key, setting))


def _change_directory(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> None:
    """Goes to the folder at once, so that paths among the arguments are seen from there."""
    if value is None:
        return
    try:
        os.chdir(value)
    except OSError as error:
        if not context.resilient_parsing:
            raise click.BadParameter(
                f"'{value}' is not a folder that can be entered", context, parameter
            ) from error


def _help(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    del parameter
    if value and not context.resilient_parsing:
        raise Shortcut("help", context.get_help())


def _version(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    del parameter
    if value and not context.resilient_parsing:
        from deltavc.version import __version__

        raise Shortcut("version", __version__)


def _option(*names: str, **attributes: Any) -> click.Option:
    """Makes a global option; its storage name cannot clash with that of a verb's parameter."""
    long = next(name for name in names if name.startswith("--"))
    storage = "global_" + long.strip("-").replace("-", "_")
    return click.Option([*names, storage], expose_value=False, **attributes)


GLOBAL_OPTIONS: list[click.Parameter] = [
    _option(
        "-C",
        "--directory",
        metavar="DIR",
        callback=_change_directory,
        is_eager=True,
        type=click.Path(),
        help="Run as if started in DIR",
    ),
    _option(
        "--json",
        is_flag=True,
        callback=_set("format", "json"),
        help="Print exactly one JSON document to stdout (same as --format json)",
    ),
    _option(
        "--format",
        metavar="FORMAT",
        type=click.Choice(FORMATS),
        callback=_set("format"),
        help="auto, human, json, jsonl, csv, tsv or md; not every command has every one",
    ),
    _option(
        "-q",
        "--quiet",
        is_flag=True,
        callback=_set("quiet"),
        help="Print only identifiers, one a line",
    ),
    _option(
        "-v",
        "--verbose",
        count=True,
        callback=_put(_add_verbose),
        help="Say more on stderr; twice for debugging",
    ),
    _option(
        "--color",
        metavar="WHEN",
        type=click.Choice(("auto", "always", "never")),
        callback=_set("color"),
        help="auto, always or never",
    ),
    _option("--no-pager", is_flag=True, callback=_set("no_pager"), help="Do not page long output"),
    _option(
        "--no-input",
        is_flag=True,
        callback=_set("no_input"),
        help="Never prompt; fail instead (implied when stdin is not a terminal)",
    ),
    _option("-y", "--yes", is_flag=True, callback=_set("yes"), help="Answer yes to confirmations"),
    _option(
        "--config",
        metavar="KEY=VALUE",
        multiple=True,
        callback=_put(_add_config),
        help="Override one setting for this run",
    ),
    _option(
        "--at-op",
        metavar="OPERATION",
        callback=_set("at_op"),
        help="Read the repository as it was at this operation; read-only",
    ),
    _option(
        "--version",
        is_flag=True,
        is_eager=True,
        callback=_version,
        help="Print the version and exit",
    ),
]

HELP_OPTION = _option(
    "-h", "--help", is_flag=True, is_eager=True, callback=_help, help="Show help and exit"
)
