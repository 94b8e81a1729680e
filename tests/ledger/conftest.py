"""Child processes for tests of locks, races and kills."""

import os
import signal
import traceback
import warnings

import pytest


class Child:
    """A forked process that runs one function."""

    def __init__(self, function, args):
        with warnings.catch_warnings():
            # Python 3.12 warns of forks beside threads; the child runs our code alone.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
        self.status = None
        if self.pid == 0:
            code = 1
            try:
                function(*args)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)

    def alive(self):
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.status = status if pid else None
        return self.status is None

    def join(self):
        """Returns the exit code, negative for a signal."""
        if self.status is None:
            _, self.status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(self.status)

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)
        return self.join()


@pytest.fixture
def start():
    """Starts child processes; those still there at the end are killed."""
    children = []

    def begin(function, *args):
        children.append(Child(function, args))
        return children[-1]

    yield begin
    for child in children:
        if child.alive():
            child.kill()
