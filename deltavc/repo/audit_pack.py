"""An evidence pack: a zip that can be checked without deltavc.

Everything in it follows from the repository, what was asked for, deltavc's version, and
whether the extra for others' evidence is installed:
members in the order of their names, no dates, nothing compressed (what a compressor
makes differs between its versions), so that the same question gives the same file.
"""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from deltavc.codec.digest import Buffer, sha256_hex
from deltavc.errors import DeltavcError, IntegrityError, NamingError
from deltavc.ids import CommitId, EventHash, ObjectId, is_object_id
from deltavc.ledger.protocol import Entry, Head
from deltavc.ledger.segments import first_of, segment_name
from deltavc.records import canonical, model, ship
from deltavc.records.model import Event
from deltavc.repo.audit import head
from deltavc.repo.audit_export import Wanted, chosen, done, written
from deltavc.repo.change import TOOL
from deltavc.repo.revisions import resolve

if TYPE_CHECKING:
    from deltavc.repo.repository import Repository
    from deltavc.repo.results_audit import Exported

__all__ = ["export_pack"]

_STATIC = Path(__file__).parent / "pack"
_WEIGHTS = ("delta", "blob")
"""Kinds of object that hold weights and files: in a pack only when asked for."""
_RECORDS: dict[str, type[Any]] = {
    "commit": model.Commit,
    "tag": model.Tag,
    "measurement": model.Measurement,
    "manifest": model.Manifest,
    "basesource": model.BaseSource,
    "deployment": ship.Deployment,
    "request": ship.Request,
    "approval": ship.Approval,
    "signature": ship.Signature,
}
"""Kinds of record whose own references go into a pack too."""
_REFERENCES = (
    "manifest", "base", "recipe", "values", "definition", "request", "approvals", "object",
    "commit",
)  # fmt: skip
_DATE = (1980, 1, 1, 0, 0, 0)  # the zero of a zip's calendar


def export_pack(repo: Repository, wanted: Wanted) -> Exported:
    """Writes an evidence pack.

    Args:
        repo: The repository.
        wanted: What is asked for.

    Returns:
        What was written.

    Raises:
        UsageError: No event fits, or no key to sign with is configured.
        AuditChainBroken: The log does not follow from itself.
        OSError: It cannot be written.
    """
    if wanted.sign:
        from deltavc.repo import signing

        signing.ready(repo, asked=True)
    events = chosen(repo, wanted)
    with written(wanted.output) as beside:
        with zipfile.ZipFile(beside, "w", zipfile.ZIP_STORED) as archive:
            pack = _Pack(repo, wanted, archive)
            pack.write(events)
        digest = _file_hash(beside)
    return done(
        repo,
        wanted,
        "pack",
        len(pack.manifest),
        len(events),
        sha256=digest,
        signed_by=pack.signed_by,
        missing=sorted(pack.missing),
    )


class _Pack:
    """A pack that is being written."""

    def __init__(self, repo: Repository, wanted: Wanted, archive: zipfile.ZipFile) -> None:
        self.repo = repo
        self.wanted = wanted
        self.archive = archive
        self.manifest: list[tuple[str, str]] = []
        self.missing: list[ObjectId] = []
        self.versions: set[CommitId] = set()
        self.signed_by: str | None = None

    def write(self, events: Sequence[Entry]) -> None:
        """Writes all of it."""
        self._add("README.md", (_STATIC / "README.md").read_bytes())
        segments, before, last = self._events(events[0][0].number, events[-1][0].number)
        self._keys()
        self._objects(event for event, _ in events)
        self._evidence()
        self._add("pack.json", _json(self._about(events, segments, before, last)))
        self._add("schema/records.json", _json(_schema()))
        self._add("verify.py", (_STATIC / "verify.py").read_bytes())
        listed = "".join(f"{digest}  {name}\n" for name, digest in sorted(self.manifest)).encode()
        self._write("MANIFEST", listed)
        if self.wanted.sign:
            self._sign(listed)

    def _events(self, first: int, last: int) -> tuple[list[str], Head, Head]:
        """Writes the segments from that of the first event to that of the last, whole."""
        start, end = first_of(first), first_of(last) + 999
        before = end_head = Head(0, EventHash("0" * 64))
        names: list[str] = []
        entries = self.repo.log.read(max(1, start - 1))
        found = (entry for entry in entries if entry[0].number <= end)
        for at, group in groupby(found, lambda entry: first_of(entry[0].number)):
            lines = []
            for event, event_hash in group:
                end_head = Head(event.number, event_hash)
                lines.append(canonical.encode(event) + b"\n")
            if at < start:
                before = end_head
                continue
            names.append(segment_name(at))
            self._add(f"events/{names[-1]}", b"".join(lines))
        return names, before, end_head

    def _keys(self) -> None:
        from deltavc.repo import signing

        try:
            trust = signing.trust(self.repo)
        except DeltavcError:
            return  # the signatures are there, and whose keys are believed is the reader's matter
        for name, path in (("allowed_signers", trust.allowed), ("revoked_keys", trust.revoked)):
            if path is not None:
                self._add(f"keys/{name}", path.read_bytes())

    def _objects(self, events: Iterable[Event]) -> None:
        """Writes what the events name and what that refers to, with a list of what is where."""
        states: dict[ObjectId, tuple[str, str]] = {}
        todo = [oid for event in events for oid in _named(event)]
        bodies: list[tuple[str, ObjectId]] = []
        while todo:
            oid = todo.pop()
            if oid in states:
                continue
            try:
                kind = self.repo.store.stat(oid).kind
                if kind in _WEIGHTS and not self.wanted.deep:
                    states[oid] = ("left-out", kind)
                    continue
                body = self.repo.store.get(oid, kind)
            except IntegrityError:
                states[oid] = ("missing", "unknown")
                self.missing.append(oid)
                continue
            states[oid] = ("held", kind)
            bodies.append((kind, oid))
            if kind == "deployment":
                served = canonical.decode(body, ship.Deployment).commit
                if served is not None:
                    self.versions.add(served)
            todo.extend(_references(kind, body, deep=self.wanted.deep))
        lines = [f"{state} {kind} {oid}\n" for oid, (state, kind) in sorted(states.items())]
        self._add("objects/INDEX", "".join(lines).encode())
        for done_, (kind, oid) in enumerate(sorted(bodies)):
            self.repo.session.progress("export", done_, len(bodies))
            self._add(f"objects/{kind}/{oid}", self.repo.store.get(oid, kind))

    def _evidence(self) -> None:
        """Writes documents about the versions that were deployed, or asked about by name."""
        if self.wanted.evidence is None:
            return
        for name in self.wanted.about:
            with suppress(NamingError):  # a ref or an environment, which is no version
                self.versions.add(resolve(self.repo, name))
        documents = self.wanted.evidence(self.repo, sorted(self.versions))
        for path, data in sorted(documents.items()):
            self._add(path, data)

    def _about(
        self, events: Sequence[Entry], segments: list[str], before: Head, last: Head
    ) -> dict[str, Any]:
        numbers = [event.number for event, _ in events]
        now = head(self.repo)
        return {
            "format": "deltavc pack 1",
            "tool": TOOL,
            "since": self.wanted.since,
            "until": self.wanted.until,
            "about": list(self.wanted.about),
            "weights": self.wanted.deep,
            "chosen": list(_ranges(numbers)),
            "segments": segments,
            "before": before._asdict(),
            "last": last._asdict(),
            "head": {"number": now.number, "hash": now.hash},
        }

    def _sign(self, listed: bytes) -> None:
        from deltavc.repo import signing

        with tempfile.TemporaryDirectory(prefix="deltavc-") as folder:
            path = Path(folder) / "MANIFEST"
            path.write_bytes(listed)
            self._write("MANIFEST.sig", signing.sign_file(self.repo, path).read_bytes())
        self.signed_by = signing.principal(self.repo.session.actor)

    def _add(self, name: str, data: Buffer) -> None:
        self.manifest.append((name, sha256_hex(data)))
        self._write(name, data)

    def _write(self, name: str, data: Buffer) -> None:
        info = zipfile.ZipInfo(name, _DATE)
        info.create_system = 3
        info.external_attr = 0o100644 << 16
        with self.archive.open(info, "w", force_zip64=len(data) >= 1 << 31) as member:
            member.write(data)


def _named(event: Event) -> Iterator[ObjectId]:
    """Yields the ids that an event names: its objects, and what its refs stand for."""
    yield from event.objects
    for change in event.refs:
        if change.after is not None and is_object_id(change.after):
            yield ObjectId(change.after)


def _references(kind: str, body: Buffer, *, deep: bool) -> Iterator[ObjectId]:
    """Yields what a record refers to and cannot be understood without; not its ancestors."""
    if kind == "delta" and deep:
        from deltavc.delta.body import blobs_of

        yield from map(ObjectId, blobs_of(bytes(body)))
    record_type = _RECORDS.get(kind)
    if record_type is None:
        return
    record = canonical.decode(bytes(body), record_type)
    for name in _REFERENCES:
        value = getattr(record, name, None)
        for oid in value if isinstance(value, tuple) else (value,):
            if isinstance(oid, str) and is_object_id(oid):
                yield ObjectId(oid)
    if deep and kind == "manifest":
        yield from _weights(record)


def _weights(manifest: model.Manifest) -> Iterator[ObjectId]:
    yield from (ObjectId(oid) for terms in manifest.params.values() for oid in terms)
    yield from manifest.attachments.values()
    yield from (ObjectId(oid) for oid in manifest.files.values() if oid)


def _ranges(numbers: Sequence[int]) -> Iterator[list[int]]:
    """Yields first and last of each run of numbers."""
    start = end = numbers[0]
    for number in numbers[1:]:
        if number != end + 1:
            yield [start, end]
            start = number
        end = number
    yield [start, end]


def _schema() -> dict[str, Any]:
    kinds = [Event, *_RECORDS.values(), model.Base, model.Kpi, model.Gate, model.Recipe]
    kinds += [ship.Environment, ship.Marks]
    _, components = msgspec.json.schema_components(kinds, ref_template="#/$defs/{name}")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$defs": components}


def _json(value: Any) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value, order="sorted"), indent=2) + b"\n"


def _file_hash(path: Path) -> str:
    import hashlib

    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
