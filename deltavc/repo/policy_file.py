"""The file ``deltavc.toml`` in the work tree: policy that is reviewed like code."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deltavc.errors import UsageError
from deltavc.repo.layout import read_text

__all__ = ["FILE", "read_policy_file", "tables"]

FILE = "deltavc.toml"


def read_policy_file(path: Path) -> Mapping[str, Any]:
    """Returns what a policy file holds; one that is not there holds nothing.

    Args:
        path: The file.

    Returns:
        Nested values.

    Raises:
        UsageError: The file cannot be read, or is no TOML.
    """
    try:
        return tomllib.loads(read_text(path))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise UsageError(
            f"the policy file '{path}' cannot be read: {error.strerror}",
            hint="make it readable, or move it away",
        ) from error
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"the policy file '{path}' is not valid TOML: {error}", hint="repair the file"
        ) from error


def tables(content: Mapping[str, Any], name: str, path: Path) -> Mapping[str, Any]:
    """Returns the tables ``[name.…]`` of a policy file by the rest of their names.

    Args:
        content: What the file holds.
        name: The first part of the tables' names.
        path: The file, for messages.

    Returns:
        The tables; none without any.

    Raises:
        UsageError: The name stands for something else.
    """
    found = content.get(name, {})
    if not isinstance(found, Mapping):
        raise UsageError(f"'{name}' in '{path}' is not a table", hint=f"write it as [{name}.NAME]")
    return found
