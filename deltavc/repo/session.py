"""What the surroundings give to the library: who acts, what time it is, how many threads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Progress", "Session", "Signing", "no_progress"]

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much is done and how much there is (0: unknown)."""


def no_progress(what: str, done: int, total: int) -> None:
    """Ignores progress."""


@dataclass(frozen=True)
class Signing:
    """With which key signatures are made, and whose are believed.

    Relative paths are seen from the folder that holds the repository.

    Attributes:
        key: File of the private key, or of the public one whose private key an agent holds.
        always: Sign every commit, annotated tag and approval, also unasked.
        allowed_signers: Whose keys are believed; default: ``allowed_signers`` in
            ``.deltavc``, else in the work tree.
        revoked_keys: Keys that are believed no more; default: ``revoked_keys`` likewise.
        environ: Variables for OpenSSH: ``PATH``, and where the agent is.
    """

    key: Path | None = None
    always: bool = False
    allowed_signers: Path | None = None
    revoked_keys: Path | None = None
    environ: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Session:
    """The surroundings of a run, injected so that results can be reproduced.

    Attributes:
        actor: Who acts, ``name <mail>``, for commits and the event log.
        clock: Returns the time in milliseconds since 1970, UTC.
        threads: Worker threads for reading, encoding and rebuilding.
        progress: Told how far long work is.
        lock_timeout: Seconds to wait for another process's lock.
        signing: Keys for signatures.
        host: The machine, as observed, for the event log.
        user: The operating system's user, as observed, likewise.
    """

    actor: str
    clock: Callable[[], int]
    threads: int = 2
    progress: Progress = no_progress
    lock_timeout: float = 30.0
    signing: Signing = field(default_factory=Signing)
    host: str | None = None
    user: str | None = None
