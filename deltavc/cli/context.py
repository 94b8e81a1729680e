"""The surroundings of a run, read once: environment, settings, clock, who acts.

A verb gets a :class:`Context` as its first argument. The library never looks
around itself; what it needs of this comes to it as a
:class:`~deltavc.repo.session.Session`.
"""

from __future__ import annotations

import os
import sys
import time
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deltavc.cli.output import TABLE_FORMATS, Manners, Output
from deltavc.errors import NotARepository, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import TextIO

    from deltavc.cli.invocation import Invocation
    from deltavc.cli.settings import Settings
    from deltavc.cli.verb import Verb
    from deltavc.repo.repository import Repository
    from deltavc.repo.session import Session, Signing

__all__ = ["Context", "clock", "make_output", "user_settings_file"]

REPOSITORY = ".deltavc"


def clock() -> int:
    """Returns the time in milliseconds since 1970, UTC; ``SOURCE_DATE_EPOCH`` fixes it.

    Returns:
        The time.

    Raises:
        UsageError: ``SOURCE_DATE_EPOCH`` is not a number of seconds.
    """
    fixed = os.environ.get("SOURCE_DATE_EPOCH")
    if not fixed:
        return time.time_ns() // 1_000_000
    if not (fixed.isascii() and fixed.isdecimal() and len(fixed) <= 12):
        raise UsageError(
            f"'{fixed}' in SOURCE_DATE_EPOCH is not a number of seconds since 1970",
            hint="unset SOURCE_DATE_EPOCH",
        )
    return int(fixed) * 1000


def user_settings_file() -> Path:
    """Returns the user's settings file, whether or not it is there."""
    import click

    return Path(click.get_app_dir("deltavc")) / "config.toml"


def _flag(environ: Mapping[str, str], name: str) -> bool:
    return environ.get(name, "") not in ("", "0", "false")


def make_output(
    invocation: Invocation, settings: Settings | None, *, tabular: bool = False
) -> Output:
    """Makes the sink of a run.

    Args:
        invocation: The global options.
        settings: The settings; None where they are not read: help, version, completion, and
            what fails before a verb runs. The environment then decides alone.
        tabular: Whether the answer is a table, which has more formats.

    Returns:
        The sink.
    """
    from deltavc.cli.terminal import wants_color

    environ = os.environ
    stdout, stderr, stdin = (stream or _nowhere() for stream in (sys.stdout, sys.stderr, sys.stdin))
    get = _nothing if settings is None else settings.get
    wanted = invocation.expected_format
    if wanted is None:
        # A default that a verb cannot give falls back; only --format is refused for that.
        wanted = get("ui.format") if settings is not None else environ.get("DELTAVC_FORMAT")
        possible = ("json", "jsonl", *(TABLE_FORMATS if tabular else ()))
        wanted = wanted if wanted in possible else "human"
    is_terminal = stdout.isatty()
    color = invocation.color or (get("ui.color") if get("ui.color") != "auto" else None)
    hints = settings.wants_hint if settings is not None else _hints_by(environ)
    paged = is_terminal and not invocation.no_pager and environ.get("TERM") != "dumb"
    manners = Manners(
        format="human" if wanted in (None, "auto") else str(wanted),
        quiet=invocation.quiet,
        verbose=invocation.verbose,
        color=wants_color(color, environ, is_terminal),
        color_stderr=wants_color(color, environ, stderr.isatty()),
        pager=_pager(get("ui.pager"), environ) if paged else None,
        progress=get("ui.progress") or "auto",
        plain_progress=_flag(environ, "CI"),
        ask=not invocation.no_input and not _flag(environ, "DELTAVC_NO_INPUT") and stdin.isatty(),
        yes=invocation.yes,
        wants_hint=lambda name: not invocation.quiet and hints(name),
        now=clock,
    )
    return Output(invocation.schema, manners, stdout=stdout, stderr=stderr, stdin=stdin)


def _hints_by(environ: Mapping[str, str]) -> Callable[[str], bool]:
    wanted = environ.get("DELTAVC_HINTS") != "0"
    return lambda _name: wanted


def _nothing(_key: str) -> Any:
    return None


def _pager(setting: str | None, environ: Mapping[str, str]) -> list[str] | None:
    from deltavc.cli.pager import pager_command

    return pager_command(setting, environ)


def _nowhere() -> TextIO:
    """Stands in for a standard stream that was closed before the program began."""
    return Path(os.devnull).open("r+", encoding="utf-8")


class Context:
    """What a verb has at hand.

    Args:
        invocation: The global options.
        verb: The verb that is about to run.

    Raises:
        UsageError: A settings file, a variable or an override is wrong.

    Attributes:
        out: The sink of the answer.
        at_op: The operation of ``--at-op``; None for now.
        mutating: Whether this run changes the repository.
    """

    def __init__(self, invocation: Invocation, verb: Verb) -> None:
        self.invocation = invocation
        self.verb = verb
        self.at_op = invocation.at_op
        self.mutating = verb.mutating
        self._repository: Repository | None = None
        self.out = invocation.output = make_output(
            invocation, None if verb.light else self.settings, tabular=verb.tabular
        )
        if not verb.light:
            for text in self.settings.unknown:
                self.out.warn(text)

    @cached_property
    def settings(self) -> Settings:
        """The settings of the run."""
        return read_settings(self.invocation, forgiving=self.verb.hardy)

    @property
    def directory(self) -> Path:
        """The folder that the run works in; ``-C`` has been followed already."""
        return Path.cwd()

    @property
    def start(self) -> Path:
        """Where the search for the repository begins: ``DELTAVC_DIR`` or the folder."""
        return _start()

    def repository_folder(self) -> Path:
        """Returns the folder ``.deltavc``, without opening it.

        Returns:
            The folder.

        Raises:
            NotARepository: There is none.
        """
        found = find_repository(self.start)
        if found is None:
            raise NotARepository(f"no repository at or above '{self.start}'", start=str(self.start))
        return found

    def open_repository(self) -> Repository:
        """Opens the repository at or above the folder, for this verb.

        Returns:
            The repository; its session acts as :meth:`actor` when the verb is mutating.

        Raises:
            NotARepository: There is none.
            FormatTooNew: A newer deltavc wrote it.
            UnknownRevision: There is no operation of the id that ``--at-op`` gives.
        """
        from deltavc.repo.repository import Repository

        self._repository = Repository.open(self.start, self.session())
        if self.at_op is not None:
            self._repository.look_at(self.at_op)
        return self._repository

    def changes(self) -> None:
        """Says that this run changes the repository, for a verb that otherwise only lists.

        Raises:
            UsageError: ``--at-op`` was given.
        """
        if self.at_op is not None:
            raise UsageError(
                f"'{self.invocation.verb}' changes the repository, so it cannot run with --at-op",
                hint="leave --at-op out",
            )
        self.mutating = True

    def pass_warnings(self) -> None:
        """Tells what the library warned of; the frame calls it when the verb is done."""
        if self._repository is not None:
            for text in dict.fromkeys(self._repository.warnings):
                self.out.warn(text)

    def session(self) -> Session:
        """Returns the surroundings as the library wants them.

        Only a mutating verb finds out who acts: asking git for it takes a process.
        """
        from deltavc.cli.actor import login_name
        from deltavc.repo.session import Session

        return Session(
            actor=self.actor() if self.mutating else "",
            clock=clock,
            threads=self.threads,
            progress=self.out.progress,
            signing=self._signing(),
            host=os.uname().nodename,
            user=login_name(),
        )

    def _signing(self) -> Signing:
        from deltavc.repo.session import Signing

        return Signing(
            key=self._path("signing.key"),
            always=bool(self.settings.get("signing.always")),
            allowed_signers=self._path("signing.allowed_signers"),
            revoked_keys=self._path("signing.revoked_keys"),
            environ=os.environ,
        )

    def _path(self, key: str) -> Path | None:
        """Returns a setting that is a path; ``~`` is the user's folder."""
        text = self.settings.get(key)
        try:
            return Path(text).expanduser() if text else None
        except RuntimeError as error:
            raise UsageError(
                f"'{text}' in setting '{key}' begins with the folder of an unknown user",
                hint="write the whole path",
            ) from error

    def actor(self) -> str:
        """Returns who acts, ``name <mail>``, for commits and the audit trail."""
        return self._actor

    @cached_property
    def _actor(self) -> str:
        from deltavc.cli.actor import find_actor

        actor, is_certain = find_actor(
            os.environ, self.settings.get("user.name"), self.settings.get("user.email")
        )
        if not is_certain:
            self.out.warn(f"nobody said who acts, so the audit trail says '{actor}'")
            self.out.hint("actor", 'say it once: deltavc config set --user user.name "NAME"')
        return actor

    def clock(self) -> int:
        """Returns the time in milliseconds; ``SOURCE_DATE_EPOCH`` fixes it."""
        return clock()

    @property
    def threads(self) -> int:
        """Worker threads: the setting, else the processors that this process may use."""
        configured = self.settings.get("compute.threads")
        return int(configured) if configured else len(os.sched_getaffinity(0))


def _start() -> Path:
    path = os.environ.get("DELTAVC_DIR")
    start = Path(path) if path else Path.cwd()
    return start.parent if start.name == REPOSITORY else start


def find_repository(start: Path) -> Path | None:
    """Returns the nearest folder ``.deltavc`` at or above a folder."""
    start = start.absolute()
    for folder in (start, *start.parents):
        if (folder / REPOSITORY).is_dir():
            return folder / REPOSITORY
    return None


def read_settings(invocation: Invocation, *, forgiving: bool = False) -> Settings:
    """Reads the settings of a run from all their sources.

    Args:
        invocation: Its ``--config`` overrides.
        forgiving: Files that are wrong are passed over with a warning.

    Returns:
        The settings.

    Raises:
        UsageError: A file, a variable or an override is wrong.
    """
    from deltavc.cli.settings import load

    files = [(user_settings_file(), False)]
    if extra := os.environ.get("DELTAVC_CONFIG"):
        files.append((Path(extra), False))
    folder = find_repository(_start())
    if folder is not None:
        files.append((folder / "config.toml", True))
    return load(
        files=files,
        policy_file=None if folder is None else folder.parent / "deltavc.toml",
        environ=os.environ,
        overrides=invocation.config,
        forgiving=forgiving,
    )
