"""A catalog that is missing beside a long log is made in bulk, by whoever needs it first."""

import threading

import pytest

from deltavc.ledger.lock import RepositoryLock, is_held
from deltavc.repo import repository
from deltavc.repo.initialise import init
from deltavc.repo.session import Session


@pytest.fixture
def repo(tmp_path, monkeypatch):
    """A repository with a catalog that is behind, and every log taken for a long one."""
    monkeypatch.setattr(repository, "MANY_EVENTS", 0)
    session = Session("Ada <ada@example.org>", lambda: 1, lock_timeout=0.5)
    found, _ = init(tmp_path, session)
    for path in tmp_path.glob(".deltavc/catalog.db*"):
        path.unlink()
    return found


@pytest.fixture
def made(monkeypatch):
    """Counts the catalogs that are made anew."""
    calls, before = [], repository.Repository.rebuild_catalog

    def rebuild(self, **more):
        before(self, **more)
        calls.append(more)

    monkeypatch.setattr(repository.Repository, "rebuild_catalog", rebuild)
    return calls


def test_asking_makes_it(repo, made):
    with repo.reader() as reader:
        assert reader.applied()[0] == repo.log.head().number
    assert len(made) == 1
    repo.catch_up()
    assert len(made) == 1


def test_asking_under_the_lock_makes_it(repo, made):
    with repo.change("tag"), repo.reader() as reader:
        assert is_held(repo.layout.lock)
        assert reader.refs() == {"HEAD": "branch:main"}
    assert not is_held(repo.layout.lock)
    assert len(made) == 1


def test_while_another_holds_the_lock_it_grows(repo, made, start_holder):
    start_holder(repo.layout.lock)
    with repo.reader() as reader:
        assert reader.applied()[0] == repo.log.head().number
    assert made == []


@pytest.fixture
def start_holder():
    """Takes a lock in another thread until the test ends."""
    done, threads = threading.Event(), []

    def hold(path, taken):
        with RepositoryLock(path, "holder", 5.0):
            taken.set()
            done.wait(30)

    def start(path):
        taken = threading.Event()
        threads.append(threading.Thread(target=hold, args=(path, taken)))
        threads[-1].start()
        assert taken.wait(10)
        assert not is_held(path)

    yield start
    done.set()
    for thread in threads:
        thread.join(10)
