"""The table of verbs: everything that the first screen, suggestions and completion need.

It is plain data, so that ``deltavc --help`` imports no verb. A row's module is
``deltavc.cli.commands.<name with - as _>`` and holds the attribute ``command``;
a test holds the summaries here to the first lines of the docstrings there.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["SECTIONS", "VERBS", "VerbRow", "module_of"]


class VerbRow(NamedTuple):
    """One verb of the first screen: its section, its summary and its subverbs, if it is a group."""

    section: str
    summary: str
    subverbs: tuple[str, ...] = ()


SECTIONS = (
    "Start",
    "Record",
    "History",
    "Measure",
    "Ship",
    "Account",
    "Share",
    "Safety",
    "Help",
)

VERBS: dict[str, VerbRow] = {
    "init": VerbRow("Start", "Create a repository"),
    "base": VerbRow(
        "Start",
        "Register and check frozen base models",
        ("add", "list", "show", "verify", "remove"),
    ),
    "doctor": VerbRow("Start", "Check the installation and the repository"),
    "status": VerbRow("Record", "Show where things stand"),
    "diff": VerbRow("Record", "Show what differs between two revisions"),
    "commit": VerbRow("Record", "Record an adapter or a checkpoint as a new revision"),
    "log": VerbRow("History", "List revisions, newest first"),
    "show": VerbRow("History", "Show one object"),
    "blame": VerbRow("History", "Say which commit each delta came from"),
    "branch": VerbRow("History", "List, create, rename, move or delete branches"),
    "switch": VerbRow("History", "Move HEAD without writing a model"),
    "checkout": VerbRow("History", "Rebuild a revision into files"),
    "tag": VerbRow("History", "List, create, verify or delete tags"),
    "merge": VerbRow("History", "Bring other lines of adaptation into this one"),
    "revert": VerbRow("History", "Take revisions back with a new commit"),
    "cherry-pick": VerbRow("History", "Apply the change of other revisions here"),
    "bisect": VerbRow(
        "History", "Find the first bad revision", ("kpi", "run", "start", "mark", "reset")
    ),
    "kpi": VerbRow(
        "Measure",
        "Define, record and compare what is measured, and check gates",
        ("define", "list", "add", "import", "show", "compare", "gate"),
    ),
    "env": VerbRow(
        "Ship",
        "Define environments, and tell what they serve and served",
        ("define", "list", "show", "log", "approve", "mark"),
    ),
    "deploy": VerbRow("Ship", "Make a revision the one that an environment serves"),
    "promote": VerbRow("Ship", "Deploy what another environment serves"),
    "rollback": VerbRow("Ship", "Return an environment to what it served before"),
    "audit": VerbRow(
        "Account",
        "Ask what happened, and check that nobody touched it",
        ("log", "head", "query", "verify", "export"),
    ),
    "report": VerbRow("Account", "Write one HTML file about what is served, and why"),
    "undo": VerbRow("Safety", "Take back the last operation"),
    "redo": VerbRow("Safety", "Do again what undo took back"),
    "op": VerbRow("Safety", "Look at operations and go back to one", ("log", "show", "restore")),
    "fsck": VerbRow("Safety", "Check that what is stored is whole"),
    "config": VerbRow("Help", "Show and change settings", ("get", "set", "unset", "list")),
    "completion": VerbRow("Help", "Print a completion script for a shell"),
    "help": VerbRow("Help", "Explain a verb or a topic"),
    "version": VerbRow("Help", "Print the version"),
}
"""Verbs in the order of the first screen within each section."""


def module_of(name: str) -> str:
    """Returns the module that defines a verb."""
    return "deltavc.cli.commands." + name.replace("-", "_")
