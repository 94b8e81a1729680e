"""The grammar that is promised against the command tree that there is."""

from __future__ import annotations

import re
import shlex
from importlib import import_module
from pathlib import Path

import click
import pytest

from deltavc.cli import topics
from deltavc.cli.invocation import GLOBAL_OPTIONS, HELP_OPTION
from deltavc.cli.root import ROOT
from deltavc.cli.verb import Verb, VerbGroup, spelling, usage_words
from deltavc.cli.verbs import VERBS, module_of

GRAMMAR = Path(__file__).with_name("grammar.md").read_text(encoding="utf-8")
COMMANDS = Path(import_module("deltavc.cli.commands").__file__ or "").parent


def blocks(fence: str) -> list[list[str]]:
    texts = re.findall(f"```{fence}\n(.*?)```", GRAMMAR, re.DOTALL)
    return [text.strip("\n").split("\n") for text in texts]


def spelled(line: str) -> str:
    """Returns the option of a grammar's line: what stands before two spaces."""
    return re.split(r"\s{2,}", line.strip())[0]


def path_of(words: str) -> str:
    return " ".join(word for word in words.split()[1:] if re.fullmatch("[a-z-]+", word))


PROMISED = {path_of(lines[0]): lines for lines in blocks("usage")}
LATER = {
    name.strip(): [spelled(line) for line in text.strip("\n").split("\n")]
    for name, text in re.findall(r"```later (.*?)\n(.*?)```", GRAMMAR, re.DOTALL)
}


def registered() -> dict[str, Verb]:
    """Returns every verb and subverb of the table, by its words."""
    found = {}
    for name in VERBS:
        command = ROOT.get_command(click.Context(ROOT), name)
        if isinstance(command, VerbGroup):
            found |= {f"{name} {inner}": verb for inner, verb in command.verbs()}
        else:
            found[name] = command
    return found


FOUND = registered()


def test_the_grammar_is_read() -> None:
    assert {"config get", "config set", "help", "commit", "base add", ""} <= set(PROMISED)
    assert len(PROMISED) > 30
    assert {"version", "help", "completion", "config list"} <= set(FOUND)


@pytest.mark.parametrize("name", sorted(FOUND))
def test_a_verb_has_the_promised_arguments_and_options_and_no_others(name: str) -> None:
    assert name in PROMISED, f"deltavc {name} is not in the grammar"
    head, *lines = PROMISED[name]
    command = FOUND[name]
    assert usage_words(command, f"deltavc {name}") == head
    options = [spelling(p) for p in command.params if isinstance(p, click.Option)]
    assert sorted(options) == sorted(spelled(line) for line in lines)
    assert not set(options) & set(LATER.get(name, []))


def test_global_options_are_the_promised_ones() -> None:
    options = [spelling(p) for p in (*GLOBAL_OPTIONS, HELP_OPTION) if isinstance(p, click.Option)]
    assert options == [spelled(line) for line in PROMISED[""][1:]]


@pytest.mark.parametrize("name", sorted(FOUND))
def test_a_verb_explains_itself(name: str) -> None:
    command = FOUND[name]
    assert re.match(r"[A-Z][^.]*\Z", command.summary()), "one sentence, imperative"
    assert command.examples, "at least one example"
    assert set(command.see) <= set(topics.TOPICS)
    for parameter in command.params:
        text = parameter.help if isinstance(parameter, click.Option) else parameter.about  # type: ignore[attr-defined]
        assert text, f"{parameter.name} has no help"
    for parameter in (p for p in command.params if isinstance(p, click.Option)):
        assert not parameter.prompt


@pytest.mark.parametrize("name", sorted(FOUND))
def test_the_examples_parse(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for example in FOUND[name].examples:
        words = shlex.split(example.split(" > ")[0].split(" | ")[0])
        assert words[0] == "deltavc"
        rest = words[1 + len(name.split()) :]
        assert words[1 : 1 + len(name.split())] == name.split()
        parent = click.Context(ROOT, info_name="deltavc")
        FOUND[name].make_context(name.split()[-1], rest, parent=parent)


def test_options_are_unique_and_letters_are_not_reused() -> None:
    shared = {opt for p in (*GLOBAL_OPTIONS, HELP_OPTION) for opt in p.opts}
    for name, command in FOUND.items():
        own = [opt for p in command.params if isinstance(p, click.Option) for opt in p.opts]
        assert len(own) == len(set(own)), name
        assert not set(own) & shared, name


def test_the_table_and_the_modules_agree() -> None:
    modules = {path.stem for path in COMMANDS.glob("*.py")} - {"__init__"}
    assert {module_of(name).rpartition(".")[2] for name in VERBS} == modules
    for name, row in VERBS.items():
        command = ROOT.get_command(click.Context(ROOT), name)
        assert command.name == name  # type: ignore[union-attr]
        assert command.summary() == row.summary  # type: ignore[union-attr]
        subverbs = tuple(command.commands) if isinstance(command, VerbGroup) else ()
        assert subverbs == row.subverbs
