"""The demo's second part: two releases, one that a gate stops, one that fails, an audit.

All numbers are those of the models that the first part rebuilt, order by order. The
incident is a real one: a full fine-tune that is the best of all on the task that the
gate asks for, and has lost the other.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime

import deltavc
from benchmarks.demo_story import FAILURE, RECEIPT, SYSTEM, Story, differing_files
from benchmarks.tasks import Task

__all__ = ["release"]

KAI = "Kai <kai@example.org>"
NOOR = "Noor <noor@example.org>"

RULES = (
    "accuracy >= 0.85",
    "accuracy not worse than baseline by 0.1",
    "accuracy[structural] not worse than baseline by 0.15",
)
"""The margins are wide: release 2 may lose a little for the task that it gains."""

SLICE = "Structural Integrity"
"""The failure that most of the orders have after leaks, 152 of 400."""


def release(story: Story) -> None:
    """Tells the second part of the story; wants the versions rebuilt and measured."""
    (story.folder / "scores").mkdir()
    define(story)
    first(story)
    stopped(story)
    second(story)
    during = incident(story)
    audit(story, during)


def define(story: Story) -> None:
    """Says what is measured, what a release must pass, and who serves what."""
    story.chapter(
        "Two environments",
        "The pilot tries a version; the company takes what the pilot serves, once somebody agrees.",
    )
    how = ("--direction", "higher", "--kind", "proportion", "--min-samples", "100")
    story.run("kpi", "define", "accuracy", *how)
    story.run("kpi", "define", "system", *how)
    _gate(story, RULES[0])
    story.run(
        "env", "define", "pilot", "--gate", "release", "--target", "serve/pilot",
    )  # fmt: skip
    story.run(
        "env", "define", "company", "--after", "pilot", "--gate", "release", "--approvals", "1",
        "--target", "serve/company", "--keep", "3", "--protect",
    )  # fmt: skip


def _gate(story: Story, *rules: str) -> None:
    words = [word for rule in rules for word in ("--require", rule)]
    story.run("kpi", "gate", "define", "release", *words)


def first(story: Story) -> None:
    """Brings v1 to everybody."""
    story.chapter("Release 1: v1 knows failure modes")
    _measured(story, "v1")
    _to_everybody(story, "v1", "first release", "numbers checked")


def stopped(story: Story) -> None:
    """Tries v3, which learnt from mixed-up labels in between."""
    story.chapter(
        "A gate stops v3",
        "From now on nothing may get worse, in all and on a slice. v3 learnt systems, but v2's\n"
        "mixed-up labels are still in it.",
    )
    _gate(story, *RULES)
    _measured(story, "v3")
    story.run("deploy", "v3", "--env", "pilot", "--reason", "systems, too", "--yes", answer=1)
    _serves(story, "pilot", "v1", "the gate stopped v3, the pilot still serves v1")


def second(story: Story) -> None:
    """Brings the merge of two teams' work to everybody."""
    story.chapter("Release 2: m-sum knows failure modes and systems")
    _measured(story, "m-sum")
    _measured(story, "m-sum", SYSTEM)
    _to_everybody(story, "m-sum", "failure modes and systems", "a bit less for a lot more")


def incident(story: Story) -> str:
    """Brings full-1 to everybody, and back; returns a time at which it was live."""
    story.chapter(
        "Release 3: full-1 is the best on failure modes that there ever was",
        "Every rule of the gate passes. Nobody told the gate that the company uses systems now.",
    )
    _measured(story, "full-1")
    _to_everybody(story, "full-1", "better on failure modes", "best numbers so far")
    during = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    story.chapter(
        "The incident: systems are wrong since this morning",
        "Noor is on call. full-1 was trained on failure modes alone.",
    )
    back = story.run(
        "rollback", "company", "--reason", "systems are wrong, INC-318", "--yes", actor=NOOR
    )
    _serves(story, "company", "m-sum", f"{back.seconds:.1f} s later the company serves m-sum again")
    catalog = story.folder / "orders" / ".deltavc" / "catalog.db"
    print("\nThe pilot goes back, too: without the catalog, which is only an index.")
    print("\norders$ rm .deltavc/catalog.db*", flush=True)
    for path in catalog.parent.glob("catalog.db*"):
        path.unlink()
    back = story.run("rollback", "pilot", "--reason", "INC-318", "--yes", actor=NOOR)
    _serves(story, "pilot", "m-sum", f"{back.seconds:.1f} s later the pilot does, too")
    story.chapter(
        "What the gate did not ask, it asks from now on",
        "Measured with class means in place of the head that full-1 lacks.",
    )
    _measured(story, "full-1", SYSTEM)
    _gate(story, *RULES, "system not worse than baseline by 0.1")
    story.run("kpi", "gate", "check", "release", "full-1", "--against", "env:company", answer=1)
    return during


def audit(story: Story, during: str) -> None:
    """Asks what an auditor asks, and writes the report."""
    story.chapter("The auditor: what answered then, who agreed, and is all of it true?")
    shown = story.run("env", "show", "company", "--at", during)
    _names(story, f"at {during} the company served full-1", shown.text, "full-1")
    story.run("audit", "query", "--saved", "approvals-of", "--param", "rev=full-1")
    story.run("audit", "query", "--saved", "rollbacks")
    served = story.folder / "orders" / "serve" / "company" / "current"
    serving = json.loads((served / RECEIPT).read_text(encoding="utf-8"))["serving_id"]
    print("\nA server's log names the model by its serving id, as the folder's receipt does:")
    shown = story.run("show", serving)
    _names(story, f"{serving} is m-sum", shown.text, "m-sum")
    checked = story.run("audit", "verify")
    story.check(
        "nobody touched the history, and the new catalog says what the files say",
        "" if "0 warnings, 0 problems" in checked.text else checked.text,
    )
    story.chapter("The report")
    story.run("report", "-o", "../report.html", "--title", "Work orders")
    page = story.folder / "report.html"
    text = page.read_text(encoding="utf-8")
    lacking = [what for what in ("INC-318", "Kai", "m-sum", "v1") if what not in text]
    story.check(f"{page} tells of it, in {page.stat().st_size / 1e6:.2f} MB", lacking)


def _measured(story: Story, name: str, task: Task = FAILURE) -> None:
    """Records what a rebuilt model answers, order by order."""
    kpi = "system" if task is SYSTEM else "accuracy"
    found = {kpi: story.answers(name, task)}
    if task is FAILURE:
        found["accuracy[structural]"] = found[kpi].only(SLICE)
    for series, answers in found.items():
        file = f"{name}-{re.sub('[^a-z]+', '-', series).strip('-')}.json"
        answers.write(story.folder / "scores" / file)
        story.run(
            "kpi", "add", name, f"{series}={round(answers.score.accuracy, 6)}",
            "--values", f"../scores/{file}", "--dataset", f"{task.name}-2009",
        )  # fmt: skip


def _to_everybody(story: Story, name: str, reason: str, agreed: str) -> None:
    """Deploys to the pilot, asks, has it approved by somebody else, and promotes."""
    story.run("deploy", name, "--env", "pilot", "--reason", reason, "--yes")
    promote = ("promote", "pilot", "company", "--reason", reason, "--yes")
    asked = story.run(*promote, answer=36)
    request = re.search(r"\br-\d{6,}\b", asked.text)
    assert request is not None
    story.run("env", "approve", request[0], "--reason", agreed, actor=KAI)
    story.run(*promote)
    _serves(story, "company", name, f"the company serves {name}")


def _serves(story: Story, environment: str, name: str, what: str) -> None:
    """Checks every file that a server reads against the version's checkout."""
    served = story.folder / "orders" / "serve" / environment / "current"
    wrong = differing_files(story.rebuilt(name), served)
    story.check(f"{what}, byte for byte", wrong)


def _names(story: Story, what: str, text: str, name: str) -> None:
    """Checks that an answer names the commit of a version."""
    commit = deltavc.open(story.folder / "orders").log(name, limit=1)[0].commit
    story.check(what, "" if commit[:10] in text else "it does not say so")
