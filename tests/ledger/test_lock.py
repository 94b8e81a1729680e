"""One holder at a time, whatever happens to it."""

import os
import signal
import threading
import time

import pytest

from deltavc.errors import InternalError, RepositoryLocked, RepositoryUnwritable
from deltavc.ledger.lock import RepositoryLock


def hold(path, ready):
    with RepositoryLock(path, "commit by Ada"):
        os.write(ready, b".")
        time.sleep(60)


@pytest.fixture
def holder(tmp_path, start):
    """Another process that holds the lock."""
    read, write = os.pipe()
    child = start(hold, tmp_path / "lock", write)
    assert os.read(read, 1) == b"."
    os.close(read)
    os.close(write)
    return child


def test_a_second_process_is_told_who_holds_it(tmp_path, holder):
    with pytest.raises(RepositoryLocked) as caught:
        RepositoryLock(tmp_path / "lock", "tag", timeout=0.1).acquire()
    assert caught.value.exit_code == 12
    assert caught.value.context["pid"] == holder.pid
    assert caught.value.context["command"] == "commit by Ada"
    assert caught.value.context["since"].endswith("Z")
    assert str(holder.pid) in caught.value.message


def test_a_killed_holder_frees_it_at_once_and_the_file_stays(tmp_path, holder):
    holder.kill()
    with RepositoryLock(tmp_path / "lock", "tag", timeout=0):
        pass
    assert (tmp_path / "lock").is_file()


def test_a_stopped_holder_is_waited_for_until_the_timeout(tmp_path, holder):
    os.kill(holder.pid, signal.SIGSTOP)
    try:
        begin = time.monotonic()
        with pytest.raises(RepositoryLocked):
            RepositoryLock(tmp_path / "lock", "tag", timeout=0.3).acquire()
        assert time.monotonic() - begin >= 0.3
    finally:
        os.kill(holder.pid, signal.SIGCONT)


def test_taking_it_twice_in_one_thread_is_a_bug_of_ours(tmp_path):
    with (
        RepositoryLock(tmp_path / "lock", "outer"),
        pytest.raises(InternalError),
        RepositoryLock(tmp_path / "lock", "inner", timeout=5),
    ):
        pass
    with RepositoryLock(tmp_path / "lock", "afterwards", timeout=0):
        pass


def test_threads_take_turns(tmp_path):
    inside, most = [], []

    def work():
        for _ in range(20):
            with RepositoryLock(tmp_path / "lock", "thread"):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.0005)
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1
    assert len(most) == 80


def wait_for(ready, end):
    os.write(ready, b".")
    os.read(end, 1)


@pytest.mark.parametrize("killed", [False, True])
def test_a_forked_child_does_not_keep_its_parents_lock(tmp_path, start, killed):
    path = tmp_path / "lock"
    born, birth = os.pipe()
    end, finish = os.pipe()

    def parent():
        RepositoryLock(path, "parent").acquire()
        start(wait_for, birth, end)
        os.read(finish_parent, 1)

    finish_parent, tell_parent = os.pipe()
    holder = start(parent)
    assert os.read(born, 1) == b"."
    if killed:
        holder.kill()
    else:
        os.write(tell_parent, b".")
        assert holder.join() == 0
    with RepositoryLock(path, "next", timeout=0):
        pass
    os.write(finish, b".")
    for handle in (born, birth, end, finish, finish_parent, tell_parent):
        os.close(handle)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("elsewhere", path)])
def test_what_is_not_a_file_is_refused(tmp_path, make):
    make(tmp_path / "lock")
    with pytest.raises(RepositoryUnwritable):
        RepositoryLock(tmp_path / "lock", "commit", timeout=0).acquire()


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(RepositoryUnwritable):
        RepositoryLock(tmp_path / "nowhere" / "lock", "commit", timeout=0).acquire()


def test_releasing_what_is_not_held_does_nothing(tmp_path):
    RepositoryLock(tmp_path / "lock", "commit").release()
    assert not (tmp_path / "lock").exists()
