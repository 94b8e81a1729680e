"""Histories to make catalogs from."""

import pytest

from deltavc.codec.digest import object_id, sha256_hex
from deltavc.errors import ObjectMissing
from deltavc.records import canonical
from deltavc.records.model import Commit, Event, Measurement, RefChange


class History:
    """Objects and events in memory: what a catalog is made from."""

    def __init__(self):
        self.objects = {}
        self.entries = []
        self.refs = {}

    # the two arguments of the catalog

    def read(self, start=1):
        return iter(self.entries[start - 1 :])

    def load(self, kind, oid):
        try:
            return self.objects[kind, oid]
        except KeyError:
            raise ObjectMissing(f"object '{oid}' is missing", id=oid) from None

    # making history

    def put(self, kind, record):
        body = canonical.encode(record)
        oid = object_id(kind, [body])
        self.objects[kind, oid] = body
        return oid

    def event(self, refs=None, *, command="test", time=None, objects=(), **detail):
        number = len(self.entries) + 1
        changes = tuple(
            RefChange(name, self.refs.get(name), value) for name, value in (refs or {}).items()
        )
        event = Event(
            number=number,
            time=number if time is None else time,
            actor="Ada <ada@example.org>",
            command=command,
            summary=f"{command} {number}",
            prev=self.entries[-1][1] if self.entries else "0" * 64,
            tool="deltavc test",
            refs=changes,
            objects=tuple(objects),
            detail={key: value for key, value in detail.items() if value},
        )
        self.refs |= refs or {}
        self.refs = {name: value for name, value in self.refs.items() if value is not None}
        self.entries.append((event, sha256_hex(canonical.encode(event))))
        return self.entries[-1]

    def make_commit(self, parents=(), message="change", time=0, **fields):
        """Stores a commit that no event has brought yet."""
        commit = Commit(
            manifest="a" * 64,
            base="b" * 64,
            author="Ada",
            time=time,
            message=message,
            tool="deltavc test",
            parents=tuple(parents),
            **fields,
        )
        return self.put("commit", commit)

    def commit(self, parents=(), *, branch="main", kpis=None, stats=None, **fields):
        """Stores a commit, measured or not, and the event that brings it."""
        fields.setdefault("message", f"change {len(self.entries)}")
        oid = self.make_commit(parents, **fields)
        measured = [self.make_measurement(oid, k, v) for k, v in (kpis or {}).items()]
        self.event(
            {f"branch:{branch}": oid},
            command="commit",
            objects=[oid, *measured],
            commits=[oid],
            measurements=measured,
            stats={oid: stats} if stats else None,
        )
        return oid

    def make_measurement(self, commit, kpi, value, **fields):
        fields = {"actor": "Ada", "time": len(self.objects)} | fields
        return self.put("measurement", Measurement(commit=commit, kpi=kpi, value=value, **fields))


@pytest.fixture
def history():
    return History()


@pytest.fixture(scope="session")
def new_history():
    """For tests that need more than one."""
    return History
