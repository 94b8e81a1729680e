"""The command ``deltavc``: the first screen, and verbs that are imported on use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

from deltavc.cli.invocation import GLOBAL_OPTIONS, HELP_OPTION, Shortcut
from deltavc.cli.verb import VerbGroup, _Framed, spelling
from deltavc.cli.verbs import SECTIONS, VERBS, module_of

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

__all__ = ["ROOT", "Root"]


class Root(VerbGroup):
    """The group of all verbs; it knows them from a table and imports the one that runs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Returns the verbs in the order of the first screen."""
        del ctx
        return [name for section in SECTIONS for name in VERBS if VERBS[name].section == section]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports a verb's module and returns its command; None for an unknown verb."""
        del ctx
        if cmd_name not in VERBS:
            return None
        command = import_module(module_of(cmd_name)).command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Finds the verb; suggestions for a mistyped one come from the table."""
        if args[0] not in VERBS and not ctx.resilient_parsing and not args[0].startswith("-"):
            raise click.exceptions.NoSuchCommand(args[0], possibilities=list(VERBS), ctx=ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Runs a verb; shows the first screen without one."""
        if not ctx._protected_args:
            raise Shortcut("help", ctx.get_help())
        return super().invoke(ctx)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Completes verbs from the table, importing none, and the global options."""
        from click.shell_completion import CompletionItem

        names = [name for name in self.list_commands(ctx) if name.startswith(incomplete)]
        items = [CompletionItem(name, help=VERBS[name].summary) for name in names]
        return [*items, *_Framed.shell_complete(self, ctx, incomplete)]

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the first screen: verbs by the order of a day, then the global options."""
        self.write_head(ctx, formatter, "deltavc VERB [arguments] [options]")
        width = max(map(len, VERBS))
        for section in SECTIONS:
            names = [name for name in VERBS if VERBS[name].section == section]
            if names:
                with formatter.section(section):
                    formatter.write_dl([(n.ljust(width), VERBS[n].summary) for n in names])
        with formatter.section("Options, accepted before and after the verb"):
            options = [o for o in (*GLOBAL_OPTIONS, HELP_OPTION) if isinstance(o, click.Option)]
            formatter.write_dl([(spelling(o), o.help or "") for o in options])
        formatter.write_paragraph()
        formatter.write("More: deltavc VERB -h, deltavc help TOPIC (deltavc help lists them)\n")


ROOT = Root(
    "deltavc",
    help="Keep versions of an adapted model: exact, compressed deltas on a frozen base.",
    no_args_is_help=False,
    invoke_without_command=True,
    context_settings={"max_content_width": 100},
)
