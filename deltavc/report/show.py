"""How values look in the report. All text of foreign origin goes through here."""

from __future__ import annotations

from datetime import UTC, datetime

from markupsafe import Markup, escape

from deltavc.ids import short
from deltavc.kpi import words

__all__ = [
    "as_code",
    "day",
    "foreign",
    "ident",
    "interval",
    "iso",
    "mail",
    "name_of",
    "number",
    "visible",
    "when",
]

# What must not act: controls, marks and embeddings that reorder text, spaces without width,
# line ends that only some see, and tags. Joiners stay: several scripts need them.
_UNSAFE = [
    *range(0x20),
    *range(0x7F, 0xA0),
    0xAD,
    0x61C,
    0x180E,
    0x200B,
    0x200E,
    0x200F,
    *range(0x2028, 0x202F),
    *range(0x2060, 0x2070),
    0xFEFF,
    *range(0xFFF9, 0xFFFC),
    *range(0xE0000, 0xE0080),
]


def _escaped(code: int) -> str:
    if code < 1 << 8:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 1 << 16 else f"\\U{code:08x}"


_ESCAPES = {code: _escaped(code) for code in _UNSAFE}
MOST = 400


def visible(text: str, most: int = MOST) -> str:
    r"""Returns a text on one line that acts nowhere: what would is written as ``\u202e``.

    Args:
        text: Text of any origin.
        most: Characters to keep.

    Returns:
        The text, cut where it is too long.
    """
    if len(text) > most:
        text = text[:most] + "…"
    if text.isascii() and text.isprintable():
        return text
    return text.translate(_ESCAPES).encode("utf-8", "backslashreplace").decode("utf-8")


def foreign(text: str | None, most: int = MOST) -> Markup:
    """Returns a text of foreign origin, escaped, with a direction of its own."""
    if not text:
        return Markup("")
    return Markup("<bdi>{}</bdi>").format(visible(text, most))


def name_of(actor: str) -> Markup:
    """Returns who somebody is without the mail address: ``Ada`` of ``Ada <ada@example.org>``."""
    name, bracket, _ = actor.partition("<")
    return foreign(name.strip() if bracket and name.strip() else actor, 80)


def mail(actor: str) -> Markup:
    """Returns the mail address of ``Ada <ada@example.org>``; nothing where there is none."""
    _, bracket, rest = actor.partition("<")
    return foreign(rest.rstrip("> "), 120) if bracket else Markup("")


def ident(oid: str | None) -> Markup:
    """Returns an id as people see it, its full form behind it."""
    if not oid:
        return Markup("")
    return Markup('<code class="id" title="{}">{}</code>').format(visible(oid), visible(short(oid)))


def _moment(milliseconds: int) -> datetime | None:
    try:
        return datetime.fromtimestamp(milliseconds // 1000, UTC)
    except (ValueError, OverflowError, OSError):  # outside of what calendars know
        return None


def as_code(text: str) -> Markup:
    """Returns a rule or a name as it is typed."""
    return Markup("<code>{}</code>").format(foreign(text))


def iso(milliseconds: int) -> str:
    """Returns a time as the command line reads it, in whole seconds."""
    moment = _moment(milliseconds)
    return "now" if moment is None else f"{moment:%Y-%m-%dT%H:%M:%SZ}".rjust(20, "0")


def when(milliseconds: int) -> Markup:
    """Returns a time: ``2026-10-01 12:00 UTC``, or the number where no calendar reaches."""
    moment = _moment(milliseconds)
    if moment is None:
        return Markup("<span>{} ms</span>").format(milliseconds)
    text = f"{moment:%Y-%m-%d %H:%M}".rjust(16, "0")
    return Markup('<time datetime="{}">{} UTC</time>').format(iso(milliseconds), text)


def day(milliseconds: int) -> str:
    """Returns the day of a time: ``2026-10-01``."""
    moment = _moment(milliseconds)
    return f"{milliseconds} ms" if moment is None else f"{moment:%Y-%m-%d}".rjust(10, "0")


def number(value: float | None, unit: str = "", *, sign: bool = False) -> Markup:
    """Returns a number with its unit; a dash for none."""
    if value is None:
        return Markup("\u2013")
    text = words.signed(value, unit) if sign else words.value(value, unit)
    return escape(visible(text).replace("-", "\u2212"))


def interval(low: float | None, high: float | None, *, sign: bool = False) -> Markup:
    """Returns an interval; nothing where neither end is known."""
    if low is None and high is None:
        return Markup("")
    ends = words.interval(low, high, sign=sign).replace("-", "\u2212")
    return Markup('<span class="interval">{}</span>').format(ends.replace("..", "\u2009…\u2009"))
