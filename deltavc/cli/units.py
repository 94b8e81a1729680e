"""How sizes, counts and times are written, for people and in documents.

Times are integer milliseconds since 1970 in UTC, as in the records.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

__all__ = ["count", "iso", "seconds", "size", "stamp", "when"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MINUTE, _HOUR, _DAY = 60_000, 3_600_000, 86_400_000


def _datetime(milliseconds: int) -> datetime | None:
    try:
        return _EPOCH + timedelta(milliseconds=milliseconds)
    except OverflowError:
        return None


def iso(milliseconds: int) -> str:
    """Returns a time in ISO 8601, UTC, with milliseconds only where there are some."""
    moment = _datetime(milliseconds)
    if moment is None:
        return f"{milliseconds} ms"
    text = moment.strftime("%Y-%m-%dT%H:%M:%S").rjust(19, "0")
    rest = milliseconds % 1000
    return f"{text}.{rest:03d}Z" if rest else f"{text}Z"


def stamp(milliseconds: int) -> str:
    """Returns a time as people read it in full: ``2026-11-20 09:12 UTC``."""
    moment = _datetime(milliseconds)
    return f"{milliseconds} ms" if moment is None else moment.strftime("%Y-%m-%d %H:%M UTC")


def when(milliseconds: int, now: int) -> str:
    """Returns a time as people read it in a list: how long ago under a week, else the day.

    Args:
        milliseconds: The time.
        now: The time at which it is read.

    Returns:
        ``2 min ago``, ``3 h ago``, ``1 day ago`` or ``2026-11-20``.
    """
    age = now - milliseconds
    if age < 0 or age >= 7 * _DAY:
        return iso(milliseconds)[:10]
    if age < _MINUTE:
        return "just now"
    if age < _HOUR:
        return f"{age // _MINUTE} min ago"
    if age < _DAY:
        return f"{age // _HOUR} h ago"
    days = age // _DAY
    return f"{days} day{'s' if days > 1 else ''} ago"


def size(number: int) -> str:
    """Returns a number of bytes in three digits and a binary unit: ``24.1 MiB``."""
    if abs(number) < 1024:
        return f"{number} B"
    units = ["KiB", "MiB", "GiB", "TiB", "PiB"]
    value = number / 1024
    while abs(value) >= 999.5 and len(units) > 1:
        value /= 1024
        units.pop(0)
    digits = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
    return f"{value:.{digits}f} {units[0]}"


def count(number: int) -> str:
    """Returns a whole number with its thousands apart: ``1,204``."""
    return f"{number:,}"


def seconds(duration: float) -> str:
    """Returns a duration: ``0.4 s``, ``12 s``, ``3 min 05 s``."""
    if duration < 9.95:
        return f"{duration:.1f} s"
    whole = round(duration)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"
