"""What environments are: checks of definitions, their form in ``deltavc.toml``, which one holds.

The file wins over what was recorded, as for KPIs and gates. Read without torch,
SQLAlchemy and the catalog, since a rollback needs it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from deltavc.errors import UnknownRevision, UsageError
from deltavc.ids import ObjectId, check_name
from deltavc.kpi.definitions import checked_table, text_of
from deltavc.records import canonical
from deltavc.records.receipt import FORMS
from deltavc.records.ship import Environment
from deltavc.repo.policy_file import FILE, read_policy_file, tables

if TYPE_CHECKING:
    from deltavc.repo.repository import Repository

__all__ = [
    "ENVIRONMENT",
    "MARKS",
    "SERVE",
    "check_environment",
    "definition_id",
    "definitions",
    "environment_of",
    "environments_of_file",
    "target_of",
]

ENVIRONMENT, SERVE, MARKS = "env:", "serve:", "marks:"
MAX_KEEP, MAX_APPROVALS, MAX_TEXT = 1000, 100, 4096
_KEYS = ("after", "gates", "approvals", "target", "keep", "format", "hook", "protect")


def definition_id(environment: Environment) -> ObjectId:
    """Returns the object id of a definition, recorded or not."""
    from deltavc.codec.digest import object_id

    return object_id("environment", [canonical.encode(environment)])


def definitions(repo: Repository, refs: Mapping[str, str]) -> dict[str, tuple[Environment, str]]:
    """Returns the environments by name, each with where it is defined.

    Args:
        repo: The repository.
        refs: The refs.

    Returns:
        Definitions, and ``deltavc.toml`` or ``recorded``.

    Raises:
        UsageError: The file cannot be read, or holds what is no definition.
    """
    found = {
        name.removeprefix(ENVIRONMENT): (recorded(repo, value), "recorded")
        for name, value in sorted(refs.items())
        if name.startswith(ENVIRONMENT)
    }
    file = environments_of_file(repo.root / FILE)
    return dict(sorted((found | {name: (env, FILE) for name, env in file.items()}).items()))


def recorded(repo: Repository, value: str) -> Environment:
    """Returns the definition that an ``env:`` ref stands at."""
    return canonical.decode(repo.store.get(ObjectId(value), "environment"), Environment)


def environment_of(repo: Repository, refs: Mapping[str, str], name: str) -> Environment:
    """Returns the definition of an environment.

    Args:
        repo: The repository.
        refs: The refs; of them only the environment's own is looked at.
        name: The environment.

    Returns:
        Its definition.

    Raises:
        UnknownRevision: There is none of this name.
    """
    file = environments_of_file(repo.root / FILE)
    if name in file:
        return file[name]
    value = refs.get(ENVIRONMENT + name)
    if value is None:
        raise unknown(name)
    return recorded(repo, value)


def unknown(name: str) -> UnknownRevision:
    """Returns the error for an environment that is not there."""
    return UnknownRevision(
        f"environment '{name[:80]}' is not defined",
        hint=f"define it: deltavc env define {name[:80]} --target DIR; list them: deltavc env list",
        environment=name,
    )


def target_of(repo: Repository, environment: Environment) -> Path | None:
    """Returns the folder that an environment keeps in step; None for a pointer only."""
    return None if environment.target is None else repo.root / environment.target


def check_environment(repo: Repository, environment: Environment) -> Environment:
    """Returns a definition that makes sense by itself and in this repository.

    Args:
        repo: The repository.
        environment: The definition.

    Returns:
        The definition.

    Raises:
        UsageError: It makes no sense.
        InvalidName: The environment cannot be called that.
    """
    name = check_name(environment.name, "environment")
    for what, value, most in (
        ("approvals", environment.approvals, MAX_APPROVALS),
        ("keep", environment.keep, MAX_KEEP),
    ):
        least = 1 if what == "keep" else 0
        if not least <= value <= most:
            raise UsageError(
                f"environment '{name}' cannot have {what} {value}",
                hint=f"--{what} is a number from {least} to {most}",
                environment=name,
            )
    if environment.form not in FORMS:
        raise UsageError(
            f"'{environment.form[:40]}' is not a form to write",
            hint=f"--target-format is one of: {', '.join(FORMS)}",
        )
    if environment.after == name:
        raise UsageError(f"environment '{name}' cannot come after itself", hint="leave --after out")
    _check_texts(environment)
    _check_target(repo, environment)
    return environment


def _check_texts(environment: Environment) -> None:
    for what, text in (("hook", environment.hook), ("target", environment.target)):
        if text is not None and (not text.strip() or len(text) > MAX_TEXT or "\0" in text):
            raise UsageError(
                f"the {what} of environment '{environment.name}' is empty, too long, or has a NUL",
                hint=f"give --{what} a value, or leave it out",
            )
    if environment.hook is not None and environment.target is None:
        raise UsageError(
            f"environment '{environment.name}' has a hook and no target to switch",
            hint="say where versions are kept: --target DIR",
        )


def _check_target(repo: Repository, environment: Environment) -> None:
    target = target_of(repo, environment)
    if target is None:
        return
    repo.layout.check_target(target)
    if repo.workspace is not None and _overlap(repo.workspace, target):
        raise UsageError(
            f"the target of environment '{environment.name}' overlaps the workspace",
            hint="choose another folder",
        )


def check_apart(repo: Repository, all_: Mapping[str, Environment]) -> None:
    """Refuses environments that write to one folder, or come after each other in a circle.

    Args:
        repo: The repository.
        all_: All definitions by name.

    Raises:
        UsageError: Two targets overlap, ``after`` names none, or leads back.
    """
    targets = [(n, t) for n, env in all_.items() if (t := target_of(repo, env)) is not None]
    for i, (name, target) in enumerate(targets):
        for other, folder in targets[:i]:
            if _overlap(target, folder):
                raise UsageError(
                    f"environments '{other}' and '{name}' have targets that overlap",
                    hint="give each a folder of its own",
                )
    for name, env in all_.items():
        seen, before = {name}, env.after
        while before is not None:
            if before not in all_:
                raise UsageError(
                    f"environment '{name}' comes after '{before[:80]}', which is not defined",
                    hint=f"define that first: deltavc env define {before[:80]}",
                )
            if before in seen:
                raise UsageError(
                    f"environments come after each other in a circle: '{name}', '{before}'",
                    hint="leave one --after out",
                )
            seen.add(before)
            before = all_[before].after


def _overlap(a: Path, b: Path) -> bool:
    one, other = Path(os.path.realpath(a)), Path(os.path.realpath(b))
    return one.is_relative_to(other) or other.is_relative_to(one)


def environments_of_file(path: Path) -> dict[str, Environment]:
    """Reads the tables ``[env.NAME]`` of a TOML file; one that is not there has none.

    Args:
        path: The file.

    Returns:
        Definitions by name.

    Raises:
        UsageError: The file cannot be read, or holds what is no definition.
        InvalidName: An environment cannot be called that.
    """
    content = read_policy_file(path)
    return {
        name: _from_table(name, table, path.name)
        for name, table in tables(content, "env", path).items()
    }


def _from_table(name: str, table: object, origin: str) -> Environment:
    check_name(name, "environment")
    where = f"'env.{name}' in {origin}"
    values = checked_table(table, _KEYS, where)
    gates = values.get("gates", [])
    if not isinstance(gates, list) or not all(isinstance(gate, str) for gate in gates):
        raise UsageError(f"gates of {where} is not a list of names", hint='gates = ["release"]')
    numbers = {"approvals": values.get("approvals", 0), "keep": values.get("keep", 3)}
    for key, number in numbers.items():
        if type(number) is not int:
            raise UsageError(f"{key} of {where} is not a whole number", hint=f"{key} = 1")
    protect = values.get("protect", False)
    if not isinstance(protect, bool):
        raise UsageError(f"protect of {where} is neither true nor false", hint="protect = true")
    texts = {
        key: text_of(values, key, where) if key in values else None
        for key in ("after", "target", "hook")
    }
    return Environment(
        name=name,
        after=texts["after"],
        gates=tuple(dict.fromkeys(gates)),
        approvals=numbers["approvals"],
        target=texts["target"],
        keep=numbers["keep"],
        form=text_of(values, "format", where, "full"),
        hook=texts["hook"],
        protect=protect,
    )
