"""Settings: which there are, where they come from, which one wins.

Later wins: built-in, the user's file, the file that ``DELTAVC_CONFIG`` names,
the repository's ``.deltavc/config.toml``, the environment, ``--config``.
``deltavc.toml`` in the work tree holds policy only (KPIs, gates, environments):
a file that arrives with somebody's branch cannot say which program pages the
output. For the same reason some keys are the user's alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deltavc.cli.output import FORMATS
from deltavc.errors import DeltavcError, UsageError

__all__ = ["POLICY_TABLES", "SETTINGS", "Setting", "Settings", "find", "load", "parse", "read_file"]

POLICY_TABLES = ("kpi", "gate", "env")


@dataclass(frozen=True)
class Setting:
    """One setting.

    Attributes:
        about: What it is for.
        kind: text, bool, count (an integer of at least 1) or choice.
        default: Built-in value; None where there is none.
        choices: The values of a choice.
        environ: Environment variable that sets it.
        user_only: Not taken from a repository's file.
    """

    about: str
    kind: str = "text"
    default: Any = None
    choices: tuple[str, ...] = ()
    environ: str | None = None
    user_only: bool = False


WHEN = ("auto", "always", "never")

SETTINGS: dict[str, Setting] = {
    "user.name": Setting("Who acts, for commits and the audit trail"),
    "user.email": Setting("The mail address that goes with user.name"),
    "ui.color": Setting("When to colour output", "choice", "auto", WHEN),
    "ui.format": Setting("Default of --format", "choice", "auto", FORMATS, "DELTAVC_FORMAT"),
    "ui.pager": Setting(
        "Program that pages long output; empty for none", environ="DELTAVC_PAGER", user_only=True
    ),
    "ui.progress": Setting("When to show progress", "choice", "auto", WHEN),
    "compute.threads": Setting(
        "Worker threads; default: the processors there are", "count", environ="DELTAVC_THREADS"
    ),
    "workspace.path": Setting("Folder that checkout rebuilds and status watches", default="model"),
    "signing.key": Setting("Key to sign with: a private one, or a public one that an agent has"),
    "signing.always": Setting("Sign all commits, tags and approvals", "bool", False),
    "signing.allowed_signers": Setting(
        "File of those whose signatures count; default: allowed_signers in .deltavc, or beside it"
    ),
    "signing.revoked_keys": Setting(
        "File of keys that count no more; default: revoked_keys in .deltavc, or beside it"
    ),
    "core.bare": Setting("The repository has no workspace", "bool", False),
    "hints": Setting("hints.NAME = false silences the hint of that name", "bool", True),
}
"""All settings; ``hints`` stands for every ``hints.NAME``."""


def find(key: str) -> Setting:
    """Returns the setting of a key.

    Args:
        key: Such as ``ui.color`` or ``hints.base-add``.

    Returns:
        The setting.

    Raises:
        UsageError: There is none; the hint names the nearest.
    """
    family, dot, name = key.partition(".")
    if family == "hints" and dot and name.replace("-", "").isalnum() and name.isascii():
        return SETTINGS["hints"]
    if key in SETTINGS and key != "hints":
        return SETTINGS[key]
    from difflib import get_close_matches

    near = get_close_matches(key, SETTINGS, n=1)
    hint = f"did you mean '{near[0]}'" if near else "list the settings: deltavc config list"
    raise UsageError(f"there is no setting '{key}'", hint=hint, key=key)


def parse(key: str, value: Any) -> Any:
    """Checks a value for a setting and gives it the setting's type.

    Args:
        key: The setting's key.
        value: A text, or what TOML made of it.

    Returns:
        The value.

    Raises:
        UsageError: No such setting, or no value for it.
    """
    setting = find(key)
    if setting.kind == "bool":
        words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
        parsed: Any = value if isinstance(value, bool) else words.get(str(value).lower())
        wanted = "true or false"
    elif setting.kind == "count":
        text = str(value)
        is_number = text.isascii() and text.isdecimal() and 0 < len(text) <= 4 and int(text) > 0
        parsed, wanted = (int(text) if is_number else None), "a number from 1 to 9999"
    elif setting.kind == "choice":
        parsed = value if value in setting.choices else None
        wanted = "one of: " + ", ".join(setting.choices)
    else:
        parsed, wanted = (value if isinstance(value, str) else None), "a text"
    if parsed is None:
        raise UsageError(
            f"'{value}' is not a value for setting '{key}'",
            hint=f"it takes {wanted}",
            key=key,
            value=str(value),
        )
    return parsed


@dataclass
class Settings:
    """The settings of a run.

    Attributes:
        values: Key to value and where it comes from; keys with neither value nor default
            are not there.
        unknown: What files hold that is no setting, as sentences for warnings.
        policy: The tables of ``deltavc.toml``.
    """

    values: dict[str, tuple[Any, str]] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    policy: dict[str, Any] = field(default_factory=dict)
    hints_off: bool = False

    def get(self, key: str) -> Any:
        """Returns a setting's value; None when it has none."""
        return self.values.get(key, (None, ""))[0]

    def wants_hint(self, name: str) -> bool:
        """Tells whether the hint of this name is wanted."""
        return not self.hints_off and self.values.get(f"hints.{name}", (True, ""))[0] is not False


def read_file(path: Path) -> dict[str, Any]:
    """Reads a TOML file; a file that is not there is empty.

    Args:
        path: The file.

    Returns:
        Nested values.

    Raises:
        UsageError: It cannot be read, or is not TOML.
    """
    import tomllib

    from deltavc.repo.layout import read_text

    try:
        nested = tomllib.loads(read_text(path))
        all(flatten(nested))  # a thousand tables in each other end here, as malformed
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise UsageError(
            f"the settings file '{path}' cannot be read: {error.strerror}",
            hint="make it readable, or move it away",
            path=str(path),
        ) from error
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"the settings file '{path}' is not valid TOML: {error}",
            hint="repair the file, or move it away",
            path=str(path),
        ) from error
    return nested


def flatten(nested: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Yields dotted keys and their values."""
    for name, value in nested.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def load(
    *,
    files: Sequence[tuple[Path, bool]],
    policy_file: Path | None,
    environ: Mapping[str, str],
    overrides: Sequence[tuple[str, str]],
    forgiving: bool = False,
) -> Settings:
    """Reads all sources.

    Args:
        files: Settings files, the later winning, each with whether it is a repository's.
        policy_file: ``deltavc.toml`` of the work tree.
        environ: Environment.
        overrides: The ``--config`` options.
        forgiving: A file that is wrong is passed over, with a sentence among ``unknown``.

    Returns:
        The settings.

    Raises:
        UsageError: A file, a variable or an option is wrong.
    """
    settings = Settings()
    for key, setting in SETTINGS.items():
        if setting.default is not None and key != "hints":
            settings.values[key] = (setting.default, "built-in")
    caught = DeltavcError if forgiving else ()
    for path, is_repository in files:
        try:
            _take_file(settings, path, is_repository)
        except caught as error:
            settings.unknown.append(f"{error.message}; the file is passed over")
    if policy_file is not None:
        try:
            _take_policy(settings, policy_file)
        except caught as error:
            settings.unknown.append(f"{error.message}; the file is passed over")
    for key, setting in SETTINGS.items():
        text = environ.get(setting.environ) if setting.environ else None
        # An empty pager means none; any other empty variable means that it is not set.
        if text or (text is not None and key == "ui.pager"):
            settings.values[key] = (_from(str(setting.environ), key, text), str(setting.environ))
    if "DELTAVC_PROGRESS" in environ:
        on = environ["DELTAVC_PROGRESS"] not in ("", "0")
        settings.values["ui.progress"] = ("always" if on else "never", "DELTAVC_PROGRESS")
    settings.hints_off = environ.get("DELTAVC_HINTS") == "0"
    for key, text in overrides:
        settings.values[key] = (parse(key, text), "--config")
    return settings


def _from(source: str, key: str, value: Any) -> Any:
    try:
        return parse(key, value)
    except UsageError as error:
        raise UsageError(f"{source}: {error.message}", hint=error.hint, **error.context) from None


def _take_file(settings: Settings, path: Path, is_repository: bool) -> None:
    for key, value in flatten(read_file(path)):
        try:
            setting = find(key)
        except UsageError as error:
            settings.unknown.append(f"{error.message} (in '{path}'); {error.hint}")
            continue
        if is_repository and setting.user_only:
            settings.unknown.append(
                f"setting '{key}' is ignored in '{path}': it is taken from the user's file only"
            )
            continue
        settings.values[key] = (_from(f"'{path}'", key, value), str(path))


def _take_policy(settings: Settings, path: Path) -> None:
    content = read_file(path)
    for name in content:
        if name not in POLICY_TABLES:
            raise UsageError(
                f"'{path}' holds '{name}', but that file is for policy only",
                hint="it takes kpi, gate and env; settings: deltavc config set KEY VALUE",
                path=str(path),
            )
    settings.policy = content
