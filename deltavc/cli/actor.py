"""Who acts: ``DELTAVC_ACTOR``, then the settings, then git's identity, then the login name."""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Mapping

from deltavc.errors import UsageError

__all__ = ["find_actor", "login_name"]

MAX_LENGTH = 200


def find_actor(environ: Mapping[str, str], name: str | None, email: str | None) -> tuple[str, bool]:
    """Finds out who acts.

    Args:
        environ: Environment.
        name: The setting ``user.name``.
        email: The setting ``user.email``.

    Returns:
        The actor, and False where it is only the login name.

    Raises:
        UsageError: The given name cannot stand in the audit trail.
    """
    if actor := environ.get("DELTAVC_ACTOR", "").strip():
        return _checked(actor, "DELTAVC_ACTOR"), True
    if name:
        return _checked(_joined(name, email), "user.name"), True
    identity = _ask_git()
    if identity.get("user.name"):
        return _checked(_joined(identity["user.name"], identity.get("user.email")), "git"), True
    return _checked(_login(), "the login name"), False


def _joined(name: str, email: str | None) -> str:
    return f"{name.strip()} <{email.strip()}>" if email and email.strip() else name.strip()


def _checked(actor: str, source: str) -> str:
    """Refuses what could forge a line of the trail, or hide in it."""
    if not actor or len(actor) > MAX_LENGTH or not actor.isprintable():
        raise UsageError(
            f"who acts, from {source}, is empty, too long, or has control characters",
            hint="set DELTAVC_ACTOR to 'NAME <MAIL>'",
        )
    return actor


def _ask_git() -> dict[str, str]:
    """Asks git, which alone knows its includes, conditions and scopes."""
    command = ["git", "config", "--null", "--get-regexp", r"^user\.(name|email)$"]
    try:
        answer = subprocess.run(command, capture_output=True, timeout=5, check=False)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return {}
    text = answer.stdout.decode("utf-8", "replace")
    pairs = (entry.partition("\n") for entry in text.split("\0") if entry)
    return {key: value for key, _, value in pairs}


def login_name() -> str:
    """Returns the operating system's user, as observed: no variable of the environment counts."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _login() -> str:
    user = login_name()
    return f"{user} <{user}@{os.uname().nodename}>"
