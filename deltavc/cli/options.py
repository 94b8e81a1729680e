"""Options that several verbs share, so that a letter means the same everywhere.

Use them as decorators: ``@options.message``, ``@options.dry_run``. Those with a
text of their own are functions: ``@options.as_kind("auto, peft or checkpoint", …)``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    _Type = click.ParamType[Any, Any]
else:
    _Type = click.ParamType  # generic in some versions of click only

__all__ = [
    "BASE",
    "BRANCH",
    "ENVIRONMENT",
    "FORMS",
    "GATE",
    "KEY_VALUE",
    "KPI",
    "REVISION",
    "TAG",
    "TIME",
    "as_kind",
    "dry_run",
    "key",
    "kpi_names",
    "label",
    "limit",
    "max_rank",
    "message",
    "option",
    "override_gate",
    "param",
    "reason",
    "rel_error",
    "since",
    "until",
]

F = TypeVar("F", bound=Callable[..., Any])


class KeyValue(_Type):
    """A text ``KEY=VALUE``; gives the pair."""

    name = "KEY=VALUE"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        """Splits the text at its first equals sign."""
        if isinstance(value, tuple):
            return (str(value[0]), str(value[1]))
        key, equals, rest = str(value).partition("=")
        if not equals or not key.strip():
            self.fail(f"'{value}' is not of the form KEY=VALUE", param, ctx)
        return key.strip(), rest


class Names(_Type):
    """A name that the shell can complete from the repository; any text is taken.

    Args:
        kind: The metavar.
        offered: Kinds of name that completion offers, such as ``branch`` and ``tag``; see
            :func:`deltavc.cli.completion.offer`.
    """

    def __init__(self, kind: str, *offered: str) -> None:
        self.name = kind
        self.offered = offered

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Takes any text but an empty one."""
        if not str(value).strip():
            self.fail("a name cannot be empty", param, ctx)
        return str(value)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Offers the repository's names."""
        from deltavc.cli.completion import offer

        del ctx, param
        return offer(self.offered, incomplete)


class Time(_Type):
    """A moment; gives milliseconds since 1970 in UTC.

    ISO 8601 with or without time and zone (UTC when there is none), ``now``, or how long
    ago: ``14 days ago``, ``3 h ago``.
    """

    name = "TIME"
    _AGO = re.compile(r"(\d{1,9})\s*(min|minute|h|hour|d|day|week)s?(\s+ago)?\Z")
    _UNITS = {  # noqa: RUF012 (never changed)
        "min": 60,
        "minute": 60,
        "h": 3600,
        "hour": 3600,
        "d": 86_400,
        "day": 86_400,
        "week": 604_800,
    }

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Reads the moment, relative ones by the clock of the run."""
        if isinstance(value, int):
            return value
        text = str(value).strip()
        if ago := self._AGO.match(text.lower()):
            return _now() - int(ago[1]) * self._UNITS[ago[2]] * 1000
        if text.lower() == "now":
            return _now()
        try:
            moment = datetime.fromisoformat(text)
            if moment.tzinfo is None:
                moment = moment.replace(tzinfo=UTC)
            return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
        except (ValueError, OverflowError):
            self.fail(
                f"'{text}' is not a time, such as 2026-10-01, 2026-10-01T12:00Z or '14 days ago'",
                param,
                ctx,
            )


def _now() -> int:
    from deltavc.cli.context import clock

    return clock()


KEY_VALUE = KeyValue()
REVISION = Names("REV", "branch", "tag", "env:")
BRANCH = Names("NAME", "branch")
TAG = Names("NAME", "tag")
BASE = Names("NAME", "base")
KPI = Names("NAME", "kpi")
GATE = Names("NAME", "gate")
ENVIRONMENT = Names("NAME", "env")
TIME = Time()
FORMS = ("full", "peft", "vllm")  # of deltavc.records.receipt, which help need not import


def option(*names: str, **attributes: Any) -> Callable[[F], F]:
    """Declares an option, as ``click.option`` does; for symmetry with ``argument``."""
    return click.option(*names, **attributes)


def message(text: str = "Message") -> Callable[[F], F]:
    """Adds ``-m, --message``; the parameter is ``message: str | None``."""
    return option("-m", "--message", metavar="TEXT", help=text)


def dry_run(text: str = "Show what would change") -> Callable[[F], F]:
    """Adds ``-n, --dry-run``; the parameter is ``dry_run: bool``."""
    return option("-n", "--dry-run", is_flag=True, help=text)


def param(text: str = "Only these parameters") -> Callable[[F], F]:
    """Adds ``-p, --param``; the parameter is ``params: tuple[str, ...]``."""
    return option("-p", "--param", "params", metavar="GLOB", multiple=True, help=text)


def limit(what: str) -> Callable[[F], F]:
    """Adds ``-l, --limit``; the parameter is ``limit: int | None``."""
    return option(
        "-l", "--limit", metavar="N", type=click.IntRange(min=0), help=f"At most N {what}"
    )


def kpi_names(text: str = "Show these KPIs") -> Callable[[F], F]:
    """Adds ``-k, --kpi``; the parameter is ``kpis: tuple[str, ...]``."""
    return option("-k", "--kpi", "kpis", metavar="NAME", type=KPI, multiple=True, help=text)


def label(text: str) -> Callable[[F], F]:
    """Adds ``--label``; the parameter is ``labels``, pairs of key and value."""
    return option(
        "--label", "labels", metavar="KEY=VALUE", type=KEY_VALUE, multiple=True, help=text
    )


def reason(text: str = "Kept in the audit trail") -> Callable[[F], F]:
    """Adds ``--reason``; the parameter is ``reason: str | None``."""
    return option("--reason", metavar="TEXT", help=text)


def override_gate() -> Callable[[F], F]:
    """Adds ``--override-gate``; the parameter is ``override: tuple[str, ...]``."""
    return option(
        "--override-gate",
        "override",
        metavar="NAME",
        multiple=True,
        type=GATE,
        help="Deploy in spite of this gate; needs --reason; refused where protected",
    )


def key() -> Callable[[F], F]:
    """Adds ``--key``; the parameter is ``key: str | None``."""
    return option("--key", metavar="TEXT", help="Idempotency key: the same key is done once")


def sign() -> Callable[[F], F]:
    """Adds ``--sign``; the parameter is ``sign: bool``."""
    return option("--sign", is_flag=True, help="Sign with the configured key")


def since(text: str = "Not before") -> Callable[[F], F]:
    """Adds ``--since``; the parameter is ``since: int | None``, in milliseconds."""
    return option("--since", metavar="TIME", type=TIME, help=text)


def until(text: str = "Not after") -> Callable[[F], F]:
    """Adds ``--until``; the parameter is ``until: int | None``, in milliseconds."""
    return option("--until", metavar="TIME", type=TIME, help=text)


def max_rank(text: str) -> Callable[[F], F]:
    """Adds ``--max-rank``; the parameter is ``max_rank: int | None``."""
    return option("--max-rank", metavar="N", type=click.IntRange(min=1), help=text)


def rel_error(text: str) -> Callable[[F], F]:
    """Adds ``--rel-error``; the parameter is ``rel_error: float | None``."""
    return option(
        "--rel-error",
        metavar="X",
        type=click.FloatRange(min=0, max=1, max_open=True),
        help=text,
    )


def as_kind(text: str, kinds: tuple[str, ...], default: str) -> Callable[[F], F]:
    """Adds ``--as``; the parameter is ``kind: str``.

    Args:
        text: The help.
        kinds: What may be chosen.
        default: What is chosen when nothing is.
    """
    return option(
        "--as", "kind", metavar="KIND", type=click.Choice(kinds), default=default, help=text
    )
