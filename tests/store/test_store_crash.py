"""Killed at any moment, a store is whole and has all that it acknowledged."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from deltavc.ids import ObjectId
from deltavc.store import ObjectStore

# Writes packs and loose objects, and prints the ids of each once it is durable. STOP_AT counts
# calls that change the file system; the process kills itself before or after the one it names.
CHILD = """
import os, signal, sys
from pathlib import Path
from deltavc.store import ObjectStore, Part

root, seed, stop_at, after = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
calls = 0

def counted(real):
    def call(*args, **kwargs):
        global calls
        calls += 1
        if calls == stop_at and after == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = real(*args, **kwargs)
        if calls == stop_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return call

for name in ("fsync", "rename", "open"):
    setattr(os, name, counted(getattr(os, name)))

store = ObjectStore.create(root)
number = 0
while True:
    number += 1
    body = b"%d %d " % (seed, number) * 20_000
    with store.pack() as pack:
        ids = [pack.add("delta", [body, Part(body[::-1], 2)]), pack.add("commit", [body[:50]])]
        pack.finish()
    ids.append(store.put("tag", [body[:40]]))
    sys.stdout.write(" ".join(ids) + "\\n")
    sys.stdout.flush()
"""


def run_child(store: ObjectStore, seed: int, stop_at: int, after: str, seconds: float) -> list[str]:
    """Runs the child until it kills itself or time is up; returns what it acknowledged."""
    command = [sys.executable, "-c", CHILD, str(store.root), str(seed), str(stop_at), after]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        first = ""
        try:
            if not stop_at:
                first = child.stdout.readline()
                time.sleep(seconds)
                child.kill()
            lines = (first + child.stdout.read()).splitlines()
        finally:
            child.kill()
    assert child.returncode == -signal.SIGKILL
    return [oid for line in lines if line.count(" ") == 2 for oid in line.split()]


def is_whole(root, acknowledged: list[str]) -> None:
    store = ObjectStore(root)
    assert list(store.check()) == []
    for oid in acknowledged:
        assert store.verify(ObjectId(oid)) is None
    oid = store.put("tag", [b"the next command works"])
    assert store.get(oid, "tag") == b"the next command works"
    for path in store.staging.iterdir():
        os.utime(path, (0, 0))
    store.sweep(60)
    assert list(store.staging.iterdir()) == []


def test_killed_at_random_moments(store):
    rng = random.Random(0)
    acknowledged: list[str] = []
    for seed in range(6):
        seconds = rng.uniform(0, 0.12)
        acknowledged += run_child(store, seed, 0, "", seconds)
    assert acknowledged
    is_whole(store.root, acknowledged)


@pytest.mark.parametrize("after", ["before", "after"])
@pytest.mark.parametrize("stop_at", [3, 8])
def test_killed_at_a_call(store, stop_at, after):
    is_whole(store.root, run_child(store, 0, stop_at, after, 0))


@pytest.mark.slow
def test_killed_before_every_call_of_two_rounds(store):
    acknowledged: list[str] = []
    for stop_at in range(1, 40):
        acknowledged += run_child(store, stop_at, stop_at, "before", 0)
    assert acknowledged
    is_whole(store.root, acknowledged)
