"""Many readers or one writer: nobody waits for ever."""

from __future__ import annotations

import threading

import pytest

from deltavc.errors import StateError, UsageError
from deltavc.live.guard import Guard


def test_a_waiting_writer_keeps_new_readers_out_but_not_nested_ones() -> None:
    guard, order = Guard(), []
    inside, nested, wrote = threading.Event(), threading.Event(), threading.Event()

    def reader() -> None:
        with guard.shared():
            inside.set()
            while not guard._waiting:
                pass
            with guard.shared():  # would wait for the writer, who waits for this thread
                order.append("nested")
                nested.set()

    def writer() -> None:
        inside.wait()
        with guard.exclusive():
            order.append("writer")
            wrote.set()

    def newcomer() -> None:
        nested.wait()
        with guard.shared():
            order.append("newcomer")

    threads = [threading.Thread(target=f) for f in (reader, writer, newcomer)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    assert order[0] == "nested"
    assert set(order) == {"nested", "writer", "newcomer"}


def test_writers_take_turns() -> None:
    guard, count, seen = Guard(), [0], set()

    def write() -> None:
        for _ in range(200):
            with guard.exclusive():
                count[0] += 1
                seen.add(count[0])
                count[0] -= 1

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {1}


def test_a_reader_that_writes_is_refused_and_leaves_the_guard_whole() -> None:
    guard = Guard()
    with guard.shared(), pytest.raises(UsageError), guard.exclusive():
        pass
    with guard.exclusive(timeout=1):
        pass


def test_a_writer_that_gives_up_lets_readers_in_again() -> None:
    guard = Guard()
    inside, leave = threading.Event(), threading.Event()

    def reader() -> None:
        with guard.shared():
            inside.set()
            leave.wait()

    thread = threading.Thread(target=reader)
    thread.start()
    inside.wait()
    with pytest.raises(StateError), guard.exclusive(timeout=0.01):
        pass
    with guard.shared():
        pass
    leave.set()
    thread.join()
    with guard.exclusive(timeout=1):
        pass
