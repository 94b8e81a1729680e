"""The functions that a query may use, and those of SQLite's that are put in other words.

One call of a function is not interrupted, so those that can take hours on long texts
have a linear form here in place of SQLite's own.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = [
    "FUNCTIONS",
    "IN_VIEWS",
    "LINEAR",
    "LONGEST",
    "SCHEMA_TABLES",
    "TABLE_FUNCTIONS",
    "Value",
]

Value = str | int | float | bytes | None

LONGEST = 16 << 20
"""Bytes of the longest text; the longest lines of an event log are below it."""

TABLE_FUNCTIONS = frozenset({"json_each", "json_tree"})
SCHEMA_TABLES = frozenset({"sqlite_master", "sqlite_schema"})
_NAMES = """
abs char coalesce concat concat_ws glob hex if ifnull iif instr length like likelihood
likely lower ltrim max min nullif octet_length quote replace round rtrim sign substr
substring trim typeof unicode unlikely upper
date datetime julianday strftime time timediff unixepoch
avg count group_concat median string_agg sum total
cume_dist dense_rank first_value lag last_value lead nth_value ntile percent_rank rank
row_number
json json_array json_array_length json_error_position json_extract json_group_array
json_group_object json_insert json_object json_patch json_pretty json_quote json_remove
json_replace json_set json_type json_valid -> ->>
acos acosh asin asinh atan atan2 atanh ceil ceiling cos cosh degrees exp floor ln log log10
log2 mod pi pow power radians sin sinh sqrt tan tanh trunc
"""
FUNCTIONS = frozenset(_NAMES.split())
"""What a query may call: nothing that writes, loads, reads files, or takes hours at once."""
IN_VIEWS = frozenset({"printf", "format"})


def _instr(text: Value, part: Value) -> int | None:
    if text is None or part is None:
        return None
    return _text(text).find(_text(part)) + 1


def _replace(text: Value, old: Value, new: Value) -> str | None:
    if text is None or old is None or new is None:
        return None
    whole, part, by = _text(text), _text(old), _text(new)
    if not part:
        return whole
    if len(whole) + whole.count(part) * len(by) > LONGEST:
        raise ValueError("the text would be too long")
    return whole.replace(part, by)


def _trimmer(method: Callable[[str, str], str]) -> Callable[..., str | None]:
    def trim(text: Value, characters: Value = " ") -> str | None:
        if text is None or characters is None:
            return None
        wanted = "".join(dict.fromkeys(_text(characters)))
        if len(wanted) > 200:
            raise ValueError("too many characters to trim")
        return method(_text(text), wanted)

    return trim


def _text(value: Value) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


LINEAR: tuple[tuple[str, int, Callable[..., str | int | None]], ...] = (
    ("instr", 2, _instr),
    ("replace", 3, _replace),
    *(
        (name, arguments, _trimmer(method))
        for name, method in (("trim", str.strip), ("ltrim", str.lstrip), ("rtrim", str.rstrip))
        for arguments in (1, 2)
    ),
)
