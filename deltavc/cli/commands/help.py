"""``deltavc help``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from deltavc.cli import topics
from deltavc.cli.verb import argument, verb
from deltavc.cli.verbs import VERBS
from deltavc.errors import UsageError

if TYPE_CHECKING:
    from deltavc.cli.context import Context


@verb(
    "help",
    light=True,
    examples=["deltavc help revisions", "deltavc help exit-codes", "deltavc help config set"],
)
@argument("topic", "A topic, or the words of a verb", nargs=-1, required=False)
def command(ctx: Context, topic: tuple[str, ...]) -> None:
    """Explain a verb or a topic.

    Without a topic: list the topics. A verb may have several words, as in
    ``deltavc help config set``.
    """
    if not topic:
        _list_topics(ctx)
        return
    name = " ".join(topic)
    text = topics.text(name) if name in topics.TOPICS else _verb_help(topic)
    ctx.out.data({"topic": name, "text": text}, human=text, ids=text.splitlines())


def _list_topics(ctx: Context) -> None:
    width = max(map(len, topics.TOPICS))
    lines = [f"  {name.ljust(width)}  {about}" for name, about in topics.TOPICS.items()]
    ctx.out.data(
        {
            "topics": dict(topics.TOPICS),
            "verbs": {name: row.summary for name, row in VERBS.items()},
        },
        human=["Topics:", *lines, "", "Read one: deltavc help TOPIC; a verb: deltavc help VERB"],
        ids=[*topics.TOPICS, *VERBS],
    )


def _verb_help(words: tuple[str, ...]) -> str:
    """Returns the help of a verb, found by its words."""
    from deltavc.cli.root import ROOT

    context = click.Context(ROOT, info_name="deltavc", max_content_width=100)
    found: click.Command = ROOT
    for word in words:
        inner = found.get_command(context, word) if isinstance(found, click.Group) else None
        if inner is None:
            raise _no_topic(words)
        found, context = inner, click.Context(inner, info_name=word, parent=context)
    return found.get_help(context)


def _no_topic(words: tuple[str, ...]) -> UsageError:
    from difflib import get_close_matches

    near = get_close_matches(words[0], [*topics.TOPICS, *VERBS], n=1)
    hint = f"did you mean: deltavc help {near[0]}" if near else "list the topics: deltavc help"
    return UsageError(f"there is no topic or verb '{' '.join(words)}'", hint=hint)
