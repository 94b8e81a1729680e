"""The help topics: Markdown files here, and pages that are generated from the code."""

from __future__ import annotations

from pathlib import Path

__all__ = ["TOPICS", "text"]

TOPICS = {
    "revisions": "How to name a revision",
    "gates": "KPIs, the gate language and its verdicts",
    "environment": "Environment variables and the order of settings",
    "exit-codes": "What the exit codes mean",
    "formatting": "Output for people and for programs",
    "glossary": "The words that deltavc uses",
}


def text(topic: str) -> str:
    """Returns the text of a topic.

    Args:
        topic: One of :data:`TOPICS`.

    Returns:
        Markdown that reads well as it is.
    """
    written = Path(__file__).with_name(f"{topic}.md").read_text(encoding="utf-8")
    if topic == "exit-codes":
        from deltavc.cli.reference import exit_code_lines

        written = written.replace("{codes}", "\n".join(exit_code_lines()))
    return written.rstrip("\n")
