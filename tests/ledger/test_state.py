"""Replaying events into refs, against a plain dictionary."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltavc.errors import AuditChainBroken
from deltavc.ledger.log import EventLog, draft_event
from deltavc.ledger.protocol import GENESIS, START, Entry, Head, Ledger
from deltavc.ledger.state import State, apply, replay
from deltavc.records import canonical
from deltavc.records.model import RefChange

NAMES = ["HEAD", "branch:main", "branch:german", "tag:v1", "base:tiny"]


def draft(*refs):
    return draft_event(time=1, actor="a", command="c", summary="s", tool="t", refs=refs)


class ListLog:
    """A log in memory: what replay needs is the protocol, not the folder."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def head(self) -> Head:
        return Head(self.entries[-1][0].number, self.entries[-1][1]) if self.entries else START

    def append(self, draft, *, expected):
        import hashlib

        import msgspec

        head = self.head()
        assert head == expected
        event = msgspec.structs.replace(draft, number=head.number + 1, prev=head.hash)
        event_hash = hashlib.sha256(canonical.encode(event)).hexdigest()
        self.entries.append((event, event_hash))
        return self.entries[-1]

    def read(self, start=1):
        return iter(self.entries[start - 1 :])


moves = st.lists(
    st.dictionaries(st.sampled_from(NAMES), st.none() | st.sampled_from(["1", "2", "3"])),
    max_size=12,
)


@given(moves)
def test_replay_is_a_dictionary_and_apply_gives_the_same_one_step_at_a_time(history):
    log: Ledger = ListLog()
    refs, states = {}, [State()]
    for step in history:
        changes = tuple(RefChange(n, refs.get(n), v) for n, v in step.items() if refs.get(n) != v)
        event, event_hash = log.append(draft(*changes), expected=log.head())
        refs = {n: v for n, v in (refs | step).items() if v is not None}
        states.append(apply(states[-1], event))
        assert states[-1] == apply(states[-2], event, event_hash)
        assert states[-1].refs == refs
    assert replay(log) == states[-1]
    assert replay(log).head == log.head()
    for number, state in enumerate(states):
        assert replay(log, until=number) == state


def test_apply_leaves_the_given_state_alone():
    log = ListLog()
    first, _ = log.append(draft(RefChange("HEAD", None, "branch:main")), expected=START)
    before = State()
    assert apply(before, first).refs == {"HEAD": "branch:main"}
    assert before.refs == {}


@pytest.mark.parametrize(
    "change",
    [
        RefChange("branch:main", "9", "2"),
        RefChange("branch:main", None, "2"),
        RefChange("branch:other", "1", "2"),
        RefChange("branch:other", "1", None),
    ],
)
def test_a_value_that_the_ref_did_not_have_is_refused(change):
    log = ListLog()
    log.append(draft(RefChange("branch:main", None, "1")), expected=START)
    event, _ = log.append(draft(change), expected=log.head())
    with pytest.raises(AuditChainBroken) as caught:
        replay(log)
    assert caught.value.context["number"] == 2
    with pytest.raises(AuditChainBroken):
        apply(replay(log, until=1), event)


def test_an_event_out_of_turn_is_refused():
    log = ListLog()
    first, _ = log.append(draft(), expected=START)
    second, _ = log.append(draft(), expected=log.head())
    with pytest.raises(AuditChainBroken):
        apply(State(), second)
    with pytest.raises(AuditChainBroken):
        apply(apply(State(), first), first)
    with pytest.raises(AuditChainBroken):
        apply(State({}, 1, GENESIS), second)


def test_ten_thousand_events_replay_fast(tmp_path):
    """The whole of it comes to some 0.05 s; 0.3 s is the promise, on a busy machine too."""
    memory, prev = ListLog(), None
    for number in range(10_000):
        value = f"{number:064x}"
        memory.append(draft(RefChange("branch:main", prev, value)), expected=memory.head())
        prev = value
    log = EventLog.create(tmp_path / "events")
    for first in range(0, 10_000, 1000):
        lines = [canonical.encode(event) for event, _ in memory.entries[first : first + 1000]]
        (log.folder / f"{first + 1:08d}.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    times = []
    for _ in range(3):
        begin = time.perf_counter()
        state = replay(log)
        times.append(time.perf_counter() - begin)
    assert state.number == 10_000
    assert state.refs == {"branch:main": prev}
    assert min(times) < 0.3
