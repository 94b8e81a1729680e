"""How a verb is written: the decorators, and the command classes behind them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import click

from deltavc.cli.invocation import GLOBAL_OPTIONS, HELP_OPTION, Invocation
from deltavc.cli.output import TABLE_FORMATS

__all__ = ["Argument", "Verb", "VerbGroup", "argument", "group", "spelling", "usage_words", "verb"]


class Argument(click.Argument):
    """A positional argument that can explain itself.

    Args:
        about: One line for the help.
    """

    def __init__(self, *args: Any, about: str = "", **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.about = about

    def make_metavar(self, ctx: click.Context) -> str:
        """Returns the argument's name as the help and the errors write it."""
        del ctx
        return self.spelling().strip("[]")

    def spelling(self) -> str:
        """Returns the argument as the usage line writes it: ``REV...``, ``[NAME]``."""
        name = (self.metavar or self.name or "").upper() + ("..." if self.nargs == -1 else "")
        return name if self.required else f"[{name}]"


def spelling(option: click.Option) -> str:
    """Returns an option as the reference writes it: ``-p, --param GLOB...``."""
    names = ", ".join((*option.opts, *option.secondary_opts))
    if option.count:
        return names + "..."
    if option.is_flag:
        return names
    metavar = option.metavar or (option.name or "").upper()
    return f"{names} {metavar}{'...' if option.multiple else ''}"


def usage_words(command: click.Command, path: str) -> str:
    """Returns the words of the usage line: the path and the arguments."""
    words = [path, *(p.spelling() for p in command.params if isinstance(p, Argument))]
    return " ".join(words)


class _Framed(click.Command):
    """What verbs and groups share: global options, and the layout of the help."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Returns the command's own parameters, then the global ones."""
        del ctx
        return [*self.params, *GLOBAL_OPTIONS, HELP_OPTION]

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        """Returns the one help option of all commands."""
        del ctx
        return HELP_OPTION

    def summary(self) -> str:
        """Returns the first line of the help: what the command does."""
        return inspect.cleandoc(self.help or "").split("\n", 1)[0].removesuffix(".")

    def explanation(self) -> str:
        """Returns the help after its first line."""
        return inspect.cleandoc(self.help or "").partition("\n")[2].strip()

    def write_head(self, ctx: click.Context, formatter: click.HelpFormatter, usage: str) -> None:
        """Writes summary, usage line and explanation."""
        del ctx
        formatter.write(f"{self.summary()}\n\nUsage: {usage}\n")
        if explanation := self.explanation():
            formatter.write_paragraph()
            formatter.write_text(explanation)


class Verb(_Framed):
    """One verb. Made by :func:`verb`.

    Attributes:
        examples: Command lines for the help, ready to be pasted.
        exit_codes: Exit codes that are special to this verb, and what they mean here.
        see: Help topics to read on.
        mutating: Whether it changes the repository: it needs an actor, and refuses ``--at-op``.
        tabular: Whether its answer is a table, so that csv, tsv and md are possible.
        light: Whether it must work without settings, even where their files are broken.
        hardy: Whether it passes over settings and policy files that are broken.
        version: The number in the document's ``schema``.
        document: The word in the document's ``schema``, where it is not the verb.
    """

    def __init__(
        self,
        name: str | None,
        *,
        examples: Sequence[str] = (),
        exit_codes: Mapping[int, str] | None = None,
        see: Sequence[str] = (),
        mutating: bool = False,
        tabular: bool = False,
        light: bool = False,
        hardy: bool = False,
        version: int = 1,
        document: str = "",
        **attributes: Any,
    ) -> None:
        super().__init__(name, **attributes)
        self.document = document
        self.examples = tuple(examples)
        self.exit_codes = dict(exit_codes or {})
        self.see = tuple(see)
        self.mutating = mutating
        self.tabular = tabular
        self.light = light
        self.hardy = hardy
        self.version = version

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        """Notes which verb runs before its arguments are parsed, so that errors can say so."""
        if parent is not None and not extra.get("resilient_parsing"):
            words = [*parent.command_path.split()[1:], info_name or ""]
            invocation = parent.ensure_object(Invocation)
            invocation.verb = " ".join(words)
            invocation.schema = f"deltavc.{self.document or '-'.join(words)}/{self.version}"
        return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> int:
        """Runs the verb with a fresh :class:`~deltavc.cli.context.Context`.

        Returns:
            The exit code: what the verb returned, 0 for None.
        """
        from deltavc.cli.context import Context

        invocation = ctx.ensure_object(Invocation)
        invocation.parsed = True
        if invocation.format in TABLE_FORMATS and not self.tabular:
            raise click.UsageError(
                f"the answer of '{invocation.verb}' is not a table, so it has no format "
                f"'{invocation.format}'",
                ctx,
            )
        if invocation.at_op is not None and self.mutating:
            raise click.UsageError(
                f"'{invocation.verb}' changes the repository, so it cannot run with --at-op", ctx
            )
        context = Context(invocation, self)
        assert self.callback is not None
        code = self.callback(context, **ctx.params)
        context.pass_warnings()
        return 0 if code is None else int(code)

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the help: sentence, usage, arguments, options, examples, exit codes, more."""
        options = [p for p in self.params if isinstance(p, click.Option)]
        arguments = [p for p in self.params if isinstance(p, Argument)]
        usage = usage_words(self, ctx.command_path)
        self.write_head(ctx, formatter, usage + (" [options]" if options else ""))
        if arguments:
            with formatter.section("Arguments"):
                formatter.write_dl([(a.spelling().strip("[]"), a.about) for a in arguments])
        if options:
            with formatter.section("Options"):
                formatter.write_dl([(spelling(o), o.help or "") for o in options])
        if self.examples:
            with formatter.section("Examples"):
                formatter.write("".join(f"  {example}\n" for example in self.examples))
        if self.exit_codes:
            with formatter.section("Exit codes"):
                formatter.write_dl([(str(c), text) for c, text in self.exit_codes.items()])
        more = ["deltavc -h (options accepted everywhere)"]
        more += [f"deltavc help {topic}" for topic in self.see]
        formatter.write_paragraph()
        formatter.write("More: " + ", ".join(more) + "\n")


class VerbGroup(_Framed, click.Group):
    """A verb with subverbs, such as ``base``. Made by :func:`group`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Returns the subverbs in the order in which they were written."""
        del ctx
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Runs a subverb, or says which ones there are."""
        if not ctx._protected_args:
            names = ", ".join(self.list_commands(ctx))
            raise click.UsageError(f"'{ctx.command_path}' needs one of: {names}", ctx)
        return super().invoke(ctx)

    def verbs(self) -> Iterator[tuple[str, Verb]]:
        """Yields the subverbs by their words, those of a group within the group too."""
        for name, command in self.commands.items():
            if isinstance(command, VerbGroup):
                yield from ((f"{name} {inner}", found) for inner, found in command.verbs())
            elif isinstance(command, Verb):
                yield name, command

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the help: sentence, usage, and the subverbs with their usage."""
        self.write_head(ctx, formatter, f"{ctx.command_path} VERB")
        rows = []
        for name, command in self.verbs():
            rows.append((usage_words(command, name), command.summary()))
        with formatter.section("Verbs"):
            formatter.write_dl(rows, col_max=36)
        formatter.write_paragraph()
        formatter.write(f"More: {ctx.command_path} VERB -h\n")


def verb(
    name: str,
    *,
    group: VerbGroup | None = None,
    examples: Sequence[str] = (),
    exit_codes: Mapping[int, str] | None = None,
    see: Sequence[str] = (),
    mutating: bool = False,
    tabular: bool = False,
    light: bool = False,
    hardy: bool = False,
    version: int = 1,
    document: str = "",
) -> Callable[[Callable[..., int | None]], Verb]:
    """Makes a verb of a function ``(ctx: Context, **parameters) -> int | None``.

    The function's docstring is the help: its first line one sentence in the
    imperative, the rest an explanation. What it returns is the exit code.

    Args:
        name: The verb.
        group: The group that it is a subverb of.
        examples: Command lines for the help.
        exit_codes: Exit codes that are special to it.
        see: Help topics to read on.
        mutating: It changes the repository.
        tabular: Its answer is a table.
        light: It works without settings.
        hardy: It passes over settings and policy files that are broken.
        version: The number in the document's ``schema``.
        document: The word in the document's ``schema``; default: the verb's words.

    Returns:
        A decorator that makes the :class:`Verb`.
    """

    def decorate(function: Callable[..., int | None]) -> Verb:
        command = click.command(
            name,
            cls=Verb,
            examples=examples,
            exit_codes=exit_codes,
            see=see,
            mutating=mutating,
            tabular=tabular,
            light=light,
            hardy=hardy,
            version=version,
            document=document,
        )(function)
        if group is not None:
            group.add_command(command)
        return command

    return decorate


def group(name: str, help: str) -> VerbGroup:  # noqa: A002 (click's name)
    """Makes a verb that has subverbs.

    Args:
        name: The verb.
        help: One sentence in the imperative, then an explanation if need be.

    Returns:
        The group; give it to :func:`verb`.
    """
    return VerbGroup(name, help=help, no_args_is_help=False)


def argument(
    name: str, about: str, **attributes: Any
) -> Callable[[Callable[..., int | None]], Callable[..., int | None]]:
    """Declares a positional argument, as ``click.argument`` does, with a line for the help."""
    return click.argument(name, cls=Argument, about=about, **attributes)
