"""Checks an evidence pack with Python's standard library alone.

    python -I verify.py [--head HASH] [FOLDER]

It looks at the files' hashes in MANIFEST, at the chain of the events, and recomputes the
id of every object from its bytes. Exit code 0: all is as it was when the pack was made;
1: something is not; 2: this is no pack. --head is the hash of an event that was noted
somewhere else: the events must contain it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HEX = re.compile(r"[0-9a-f]{64}\Z")
APART = {"MANIFEST", "MANIFEST.sig"}


def main() -> int:
    """Checks a folder and tells what was found."""
    parser = argparse.ArgumentParser(description="Checks an evidence pack.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).parent)
    parser.add_argument("--head", help="hash of an event that was noted somewhere else")
    arguments = parser.parse_args()
    try:
        check = Check(arguments.folder)
        check.run(arguments.head)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        tell(f"this is no evidence pack: {type(error).__name__}: {error}")
        return 2
    for text in check.problems:
        tell(f"PROBLEM  {text}")
    for text in check.facts:
        tell(text)
    tell("not as it was" if check.problems else "all is as it was when the pack was made")
    return 1 if check.problems else 0


class Check:
    """One look at a pack."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.problems: list[str] = []
        self.facts: list[str] = []
        self.pack: dict[str, Any] = json.loads((folder / "pack.json").read_bytes())
        if self.pack["format"] != "deltavc pack 1":
            raise ValueError(f"the format is {self.pack['format']!r}")

    def run(self, head: str | None) -> None:
        """Looks at everything."""
        self.manifest()
        self.objects(self.events(head))

    def manifest(self) -> None:
        """Compares every file with its hash, and looks for files that are not listed."""
        listed = {}
        for line in (self.folder / "MANIFEST").read_text(encoding="utf-8").splitlines():
            digest, _, name = line.partition("  ")
            if not HEX.match(digest) or not name or ".." in name.split("/") or name[0] == "/":
                raise ValueError(f"a line of MANIFEST is {line!r}")
            listed[name] = digest
        for name, digest in listed.items():
            path = self.folder / name
            if not path.is_file() or path.is_symlink():
                self.problems.append(f"{name} is missing")
            elif sha256(path.read_bytes()) != digest:
                self.problems.append(f"{name} was changed")
        for path in sorted(self.folder.rglob("*")):
            name = path.relative_to(self.folder).as_posix()
            if not path.is_dir() and name not in listed and name not in APART:
                self.problems.append(f"{name} is not in MANIFEST")
        self.facts.append(f"{len(listed)} files in MANIFEST")

    def lines(self) -> Iterator[bytes]:
        """Yields the lines of the events."""
        for name in self.pack["segments"]:
            path = self.folder / "events" / Path(str(name)).name
            if not path.is_file():
                self.problems.append(f"segment {name} is missing")
                continue
            yield from path.read_bytes().split(b"\n")[:-1]

    def events(self, head: str | None) -> dict[str, int]:
        """Follows the chain; returns the objects that the chosen events name."""
        number, before = self.pack["before"]["number"], self.pack["before"]["hash"]
        chosen = self.pack["chosen"]
        named: dict[str, int] = {}
        seen_head = head is None or head == before
        count, first = 0, number + 1
        for line in self.lines():
            number, count = number + 1, count + 1
            event = json.loads(line)
            if event["number"] != number:
                self.problems.append(f"event {event['number']} stands where event {number} should")
                number = event["number"]
            if event["prev"] != before:
                self.problems.append(f"event {number} does not follow from the one before it")
            before = sha256(line)
            seen_head = seen_head or before == head
            if any(low <= number <= high for low, high in chosen):
                refs = [str(change.get("after", "")) for change in event.get("refs", [])]
                oids = [*event.get("objects", []), *filter(HEX.match, refs)]
                named.update(dict.fromkeys(oids, number))
        last = self.pack["last"]
        if (number, before) != (last["number"], last["hash"]):
            self.problems.append(
                f"the events end at {number}, {before}; the pack was made with {last['number']}, "
                f"{last['hash']}"
            )
        if not seen_head:
            self.problems.append(f"no event has the hash {head}")
        self.facts.append(f"{count} events, {first} to {number}, the last one {before}")
        return named

    def objects(self, named: dict[str, int]) -> None:
        """Recomputes the ids of the objects, and looks for those that should be there."""
        status: dict[str, str] = {}
        for line in (self.folder / "objects" / "INDEX").read_text(encoding="utf-8").splitlines():
            state, kind, oid = line.split(" ")
            status[oid] = state
            if state != "held":
                continue
            path = self.folder / "objects" / Path(kind).name / Path(oid).name
            if not path.is_file():
                self.problems.append(f"{kind} {oid} is missing")
                continue
            body = path.read_bytes()
            if sha256(f"{kind} {len(body)}\0".encode() + body) != oid:
                self.problems.append(f"{kind} {oid} is not what its id says")
        for oid, number in named.items():
            if oid not in status:
                self.problems.append(f"{oid}, which event {number} names, is not in objects/INDEX")
        counts = {state: list(status.values()).count(state) for state in sorted({*status.values()})}
        self.facts.append(f"objects: {', '.join(f'{n} {state}' for state, n in counts.items())}")


def tell(text: str) -> None:
    """Writes a line; what the pack holds may not reach the terminal as it is."""
    shown = "".join(c if c.isascii() and c.isprintable() else f"\\x{ord(c):02x}" for c in text)
    sys.stdout.write(shown + "\n")


def sha256(data: bytes) -> str:
    """Returns the SHA-256 of bytes in hex."""
    return hashlib.sha256(data).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
