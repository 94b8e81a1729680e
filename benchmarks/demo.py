"""The demo: adapt a real model, commit, take one version back, release, go back, tell of it.

``make demo`` runs it. It types what a person would type, shows what deltavc
answers, and then checks the claims: bits are compared with the files that were
committed and with a history that never had the version that was taken back, and
each accuracy is measured again on the model that deltavc rebuilt. Then the versions
are released (``demo_release``). The exit code is other than 0 if any check failed.
"""

from __future__ import annotations

import shutil
import sys
import time
from dataclasses import dataclass

import deltavc
from benchmarks.assets import CACHE, MINILM, SRE
from benchmarks.demo_release import release
from benchmarks.demo_story import (
    FAILURE,
    SYSTEM,
    Story,
    differing_files,
    differing_tensors,
)
from benchmarks.tasks import Task
from benchmarks.timing import table
from benchmarks.training import Score, Trained, evaluate, train_full, train_lora

__all__ = ["main"]

WORK = CACHE / "demo"

WRONG_LABELS = Task("failure", skip=16, shuffled=True)


@dataclass(frozen=True)
class Models:
    """What was trained before deltavc is asked for anything."""

    failure: Trained
    wrong: Trained
    system: Trained
    alone: Trained
    full: Trained
    before: Score
    stranger: Score


def train(story: Story) -> Models:
    """Trains, or takes from the cache, and puts copies where a person would have them."""
    story.chapter(
        "Training",
        "Base: all-MiniLM-L6-v2. Task 'failure': what broke, from the text of a maintenance work\n"
        "order; 96 labelled orders from before 2009 to learn from, 400 later ones to test on.",
    )
    base = MINILM.folder()
    before = evaluate(base, FAILURE)
    _say("base, class means as head", before)
    failure = train_lora(base, FAILURE)
    _say("LoRA r=8 on task failure", failure.score, failure)
    wrong = train_lora(base, WRONG_LABELS, start_from=[failure.folder], head=None)
    _say("LoRA on top of it, second batch of orders, labels mixed up", wrong.score, wrong)
    system = train_lora(base, SYSTEM, start_from=[failure.folder], head="system")
    _say("LoRA on top of the first, too, on task system, own head", system.score, system)
    alone = train_lora(base, SYSTEM, head="system")
    _say("LoRA r=8 on task system, by another team, from the base", alone.score, alone)
    full = train_full(base, FAILURE)
    _say("full fine-tune on task failure", full.score, full)
    stranger = evaluate(SRE.folder(), FAILURE, base=base)
    _say("a stranger's full fine-tune (SRE vocabulary), as it is", stranger)
    for name, source in (
        ("minilm", base),
        ("out/failure-lora", failure.folder),
        ("out/failure-lora-2", wrong.folder),
        ("out/system-lora", system.folder),
        ("out/system-alone", alone.folder),
        ("out/failure-full", full.folder),
        ("out/sre", SRE.folder()),
    ):
        shutil.copytree(source, story.folder / name, ignore=shutil.ignore_patterns(".*"))
    return Models(failure, wrong, system, alone, full, before, stranger)


def _say(what: str, score: Score, trained: Trained | None = None) -> None:
    cost = ""
    if trained is not None:
        cost = f", {trained.cpu_seconds:.0f} CPU s{' (cached)' if trained.cached else ''}"
    print(f"  {what}: accuracy {score.accuracy:.4f}{cost}", flush=True)


def record(story: Story, models: Models) -> None:
    """Commits everything, a bad version in the middle."""
    story.chapter("A repository on a frozen base")
    story.run("init")
    origin = "hf:sentence-transformers/all-MiniLM-L6-v2"
    story.run("base", "add", "minilm", "../minilm", "--source", origin)
    kpi = _kpi(models.before)
    story.commit("root", "the base itself", "commit", "../minilm", "-m", "MiniLM as it came", *kpi)
    story.chapter(
        "Adapters, each on top of the one before",
        "v2 and v3 were both trained on v1's model, by two people; both are stacked on it.",
    )
    story.commit(
        "v1", "LoRA", "commit", "../out/failure-lora", "-m", "learn failure modes",
        *_kpi(models.failure.score),
    )  # fmt: skip
    story.commit(
        "v2", "LoRA, stacked", "commit", "../out/failure-lora-2", "--stack",
        "-m", "second batch of orders", *_kpi(models.wrong.score),
    )  # fmt: skip
    story.commit(
        "v3", "LoRA, stacked", "commit", "../out/system-lora", "--stack",
        "-m", "learn systems too", "--kpi", f"system={models.system.score.accuracy}",
    )  # fmt: skip
    story.chapter("Where did it get worse?")
    story.run("log", "-k", "accuracy", "-k", "system")
    story.run("diff", "v1", "v2", "--with-kpis")
    story.chapter(
        "Take back the commit in the middle",
        "v2 learnt from mixed-up labels. v3 came later, was trained without it, and stays.",
    )
    story.commit("v4", "v3 without v2", "revert", "v2")
    story.chapter("Full checkpoints, on branches of their own")
    story.run("switch", "full", "--create", "--start", "root")
    story.commit(
        "full-1", "full fine-tune", "commit", "../out/failure-full",
        "-m", "full fine-tune on failure modes", *_kpi(models.full.score),
    )  # fmt: skip
    story.run("switch", "sre", "--create", "--start", "root")
    story.commit(
        "sre-1", "full fine-tune", "commit", "../out/sre",
        "-m", "somebody's SRE embeddings", *_kpi(models.stranger),
    )  # fmt: skip
    story.run("switch", "main")
    story.run("log", "--all", "--graph", "-k", "accuracy", "-k", "system")
    story.run("show", "v1")


def combine(story: Story, models: Models) -> None:
    """Merges two lines that never met: one task each, on the same layers."""
    story.chapter(
        "Two teams, one base",
        "Another team adapted the base to task system, without v1. Both changed the same layers.",
    )
    story.run("switch", "team-b", "--create", "--start", "root")
    story.commit(
        "b1", "LoRA", "commit", "../out/system-alone", "-m", "systems, from the base",
        "--kpi", f"system={models.alone.score.accuracy}",
    )  # fmt: skip
    story.run("switch", "both", "--create", "--start", "v1")
    story.run("merge", "b1", answer=30)
    story.run("merge", "b1", "-s", "sum", "-n")
    story.commit("m-sum", "v1 + b1, sum", "merge", "b1", "-s", "sum")
    story.run("switch", "both-ties", "--create", "--start", "v1")
    story.commit(
        "m-ties", "v1 + b1, ties", "merge", "b1", "-s", "ties", "--density", "0.5",
    )  # fmt: skip
    story.run("switch", "apart", "--create", "--start", "m-sum")
    story.commit("m-back", "m-sum without b1", "revert", "m-sum", "--mainline", "1")
    story.run("switch", "main")
    story.run("fsck", "--deep")


def _kpi(score: Score) -> tuple[str, str]:
    return "--kpi", f"accuracy={score.accuracy}"


def check_bits(story: Story) -> None:
    """Rebuilds every version and compares bits with what was committed."""
    story.chapter("Old and new, out of the repository again")
    rebuilt = {name: story.rebuild(name) for name in story.versions}
    story.run("checkout", "v1", "--as", "peft", "--to", "../rebuilt/v1-peft")
    out = story.folder / "out"
    story.chapter("The bits")
    story.check(
        "root: the base's files, byte for byte",
        differing_files(story.folder / "minilm", rebuilt["root"]),
    )
    for name, source in (("full-1", "failure-full"), ("sre-1", "sre")):
        wrong = differing_tensors(out / source, rebuilt[name])
        story.check(f"{name}: every tensor of the committed checkpoint, bit for bit", wrong)
    wrong = differing_tensors(out / "failure-lora", story.folder / "rebuilt" / "v1-peft")
    story.check("v1 as PEFT folder: the adapter's tensors, bit for bit", wrong)
    wrong = differing_tensors(rebuilt["v1"], rebuilt["m-back"])
    story.check("m-back, the merge taken back: v1's tensors, bit for bit", wrong)
    differs = differing_tensors(rebuilt["v3"], rebuilt["v4"])
    story.check("v4 is not v3: the taken-back delta is gone", "" if differs else "no difference")


def check_without(story: Story) -> None:
    """Compares with a second repository whose history never had the bad commit."""
    story.chapter("The same history without v2, in a second repository")
    for words in (
        ("init",),
        ("base", "add", "minilm", "../minilm"),
        ("commit", "../minilm", "-m", "MiniLM as it came"),
        ("commit", "../out/failure-lora", "-m", "learn failure modes"),
        ("commit", "../out/system-lora", "--stack", "-m", "learn systems too"),
        ("checkout", "main", "--to", "../rebuilt/without-v2"),
    ):
        story.run(*words, folder="without-v2")
    rebuilt = story.folder / "rebuilt"
    wrong = differing_files(rebuilt / "v4", rebuilt / "without-v2")
    story.check("v4 is the history without v2, byte for byte", wrong)


def check_workspace(story: Story) -> None:
    """Goes there and back in the workspace, where only what differs is rewritten."""
    story.chapter("The workspace, there and back")
    workspace = story.folder / "orders" / "model"
    for name in ("main", "v3", "main"):
        story.run("checkout", name)
        other = story.folder / "rebuilt" / ("v4" if name == "main" else name)
        story.check(f"model/ holds {name}, byte for byte", differing_files(workspace, other))
    story.run("status")
    story.run("fsck")


def check_accuracy(story: Story, models: Models) -> None:
    """Measures every rebuilt model."""
    story.chapter("The models that deltavc rebuilt, measured again")
    for name, expected in (
        ("root", models.before),
        ("v1", models.failure.score),
        ("v2", models.wrong.score),
        ("v3", None),
        ("v4", None),
        ("full-1", models.full.score),
        ("sre-1", models.stranger),
        ("b1", None),
        ("m-sum", None),
        ("m-ties", None),
        ("m-back", models.failure.score),
    ):
        story.measure(name, expected)
    story.measure("v4", models.system.score, SYSTEM)
    story.measure("b1", models.alone.score, SYSTEM)
    for name in ("root", "v1", "m-sum", "m-ties"):
        story.measure(name, None, SYSTEM)
    for name in ("m-sum", "m-ties"):
        version, v1, b1 = (story.versions[key] for key in (name, "v1", "b1"))
        assert version.system is not None
        assert v1.system is not None
        both = version.accuracy > b1.accuracy and version.system > v1.system
        story.check(
            f"{name} is better than b1 on failure and better than v1 on system",
            "" if both else "it is not",
        )
    bad, good = story.versions["v3"].accuracy, story.versions["v4"].accuracy
    story.check(
        f"taking v2 back helps task failure, too: {bad:.4f} -> {good:.4f}",
        "" if good > bad else "it does not",
    )


def summary(story: Story) -> str:
    """Returns the last table."""
    repo = deltavc.open(story.folder / "orders")
    rows = []
    for name, version in story.versions.items():
        stored = repo.log(name, limit=1)[0].stored
        full = sum(
            p.stat().st_size for p in (story.folder / "rebuilt" / name).glob("*.safetensors")
        )
        rows.append(
            (
                name,
                version.what,
                f"{version.accuracy:.4f}",
                "" if version.system is None else f"{version.system:.4f}",
                f"{stored:,}",
                f"{full:,}",
                f"{stored / full:.2%}",
                f"{version.commit_seconds:.1f}",
                f"{version.checkout_seconds:.1f}",
            )
        )
    sizes = ("stored bytes", "full copy", "share")
    return table(("version", "kind", "failure", "system", *sizes, "commit s", "checkout s"), rows)


def main() -> int:
    """Tells the story; returns the exit code."""
    started = time.perf_counter()
    shutil.rmtree(WORK, ignore_errors=True)
    for name in ("orders", "without-v2"):
        (WORK / name).mkdir(parents=True)
    story = Story(WORK)
    models = train(story)
    record(story, models)
    combine(story, models)
    check_bits(story)
    check_without(story)
    check_workspace(story)
    check_accuracy(story, models)
    story.chapter("All versions")
    print(summary(story))
    print("\nAccuracy on the two tasks, of the model that deltavc rebuilt.")
    print("Seconds: the whole command, interpreter and imports included.")
    release(story)
    print(f"\n{story.checked - len(story.failed)} of {story.checked} checks hold; "
          f"{time.perf_counter() - started:.0f} s in all.")  # fmt: skip
    for what in story.failed:
        print(f"FAILED: {what}", file=sys.stderr)
    return 1 if story.failed else 0


if __name__ == "__main__":
    sys.exit(main())
