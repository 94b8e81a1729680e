"""``deltavc config``: get, set, unset, list."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deltavc.cli import options
from deltavc.cli import settings as known
from deltavc.cli.context import user_settings_file
from deltavc.cli.tables import Column
from deltavc.cli.verb import argument, group, verb
from deltavc.errors import RepositoryUnwritable, UsageError

if TYPE_CHECKING:
    from deltavc.cli.context import Context

command = group("config", "Show and change settings.")

_KEY = "The setting, such as user.name or ui.color"


@verb(
    "get",
    group=command,
    examples=["deltavc config get user.name", "deltavc config get ui.color --json"],
    exit_codes={1: "the setting has no value"},
)
@argument("key", _KEY)
def get(ctx: Context, key: str) -> int:
    """Print the value of a setting."""
    known.find(key)
    default = True if key.startswith("hints.") else None
    value, origin = ctx.settings.values.get(key, (default, "built-in"))
    text = _word(value)
    ctx.out.data(
        {"key": key, "value": value, "origin": None if value is None else origin},
        human=[] if value is None else text,
        ids=[] if value is None else [text],
    )
    return 1 if value is None else 0


@verb(
    "set",
    group=command,
    examples=[
        'deltavc config set --user user.name "Ada"',
        "deltavc config set workspace.path model",
        "deltavc config set --user hints.actor false",
    ],
)
@argument("key", _KEY)
@argument("value", "Its new value")
@click.option("--user", is_flag=True, help="In the user file instead of the repository's")
@options.dry_run()
def set_(ctx: Context, key: str, value: str, user: bool, dry_run: bool) -> None:
    """Give a setting a value."""
    parsed = known.parse(key, value)
    if known.find(key).user_only and not user:
        raise UsageError(
            f"setting '{key}' is taken from the user's file only",
            hint=f"deltavc config set --user {key} VALUE",
        )
    _change(ctx, key, parsed, user=user, dry_run=dry_run)


@verb("unset", group=command, examples=["deltavc config unset --user ui.color"])
@argument("key", _KEY)
@click.option("--user", is_flag=True, help="In the user file")
@options.dry_run()
def unset(ctx: Context, key: str, user: bool, dry_run: bool) -> None:
    """Take a value out of a settings file."""
    known.find(key)
    _change(ctx, key, None, user=user, dry_run=dry_run)


@verb(
    "list",
    group=command,
    tabular=True,
    examples=["deltavc config list", "deltavc config list --origin"],
    see=["environment"],
)
@click.option("--origin", is_flag=True, help="Show where each value comes from")
def list_(ctx: Context, origin: bool) -> None:
    """List the settings that have a value."""
    columns = [Column("key"), Column("value", word=_word, shrink=True)]
    if origin:
        columns.append(Column("origin", shrink=True))
    rows = [
        {"key": key, "value": value, "origin": source}
        for key, (value, source) in sorted(ctx.settings.values.items())
    ]
    ctx.out.table(columns, rows)


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _change(ctx: Context, key: str, value: Any, *, user: bool, dry_run: bool) -> None:
    from deltavc.cli.toml import edit

    path = user_settings_file() if user else ctx.repository_folder() / "config.toml"
    before = dict(known.flatten(known.read_file(path))).get(key)
    changed = before != value or type(before) is not type(value)
    if changed:
        try:
            content = path.read_text(encoding="utf-8") if path.exists() else ""
            content = edit(content, key, value)
            if not dry_run:
                _write(path, content)
        except OSError as error:
            raise RepositoryUnwritable(
                f"the settings file '{path}' cannot be written: {error.strerror}", path=str(path)
            ) from error
    words = f"{key} = {_word(value)}" if value is not None else f"{key} is not set"
    ctx.out.data(
        {"key": key, "value": value, "before": before, "path": str(path), "dry_run": dry_run},
        human=f"{'would be: ' if dry_run else ''}{words}   in {path}"
        + ("" if changed else " (as before)"),
    )
    ctx.out.changed(changed)


def _write(path: Path, content: str) -> None:
    """Replaces a file in one step: a reader sees the old settings or the new ones."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("x", encoding="utf-8") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
