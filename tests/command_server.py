"""Runs command lines in processes of their own, without paying for the imports each time.

Started as a script, it imports everything once and then forks a child for each
request on its socket. The child runs command lines one after the other through
the console script's own ``main`` and can be told to die on the way:

``kill_at`` n
    SIGKILL itself at the n-th step that changes the file system: opening for writing, rename,
    remove, mkdir, link, truncate, fsync, write, and each BEGIN and COMMIT of SQLite. A write is
    done by half first.
``fail_at`` n
    That step, if it is a Python call, fails with ``errno`` instead, and so do all after it.
``hold_at`` n
    Stop there (SIGSTOP) until somebody sends SIGCONT.

A result that was not written belongs to a command that was killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import json
import os
import pkgutil
import resource
import signal
import socket
import sys
from importlib import import_module
from pathlib import Path

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
CHANGES = {
    "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate",
    "os.chmod", "ctypes.dlsym",
}  # fmt: skip
CALLS = ("fsync", "write", "pwrite", "ftruncate", "copy_file_range", "sendfile")
RENAMES = ("rename", "replace", "link", "mkdir", "unlink", "open")


class Steps:
    """Counts the steps of one command line, and acts at one of them."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.count = self.kill_at = self.fail_at = self.hold_at = self.errno = 0
        self.active = False
        sys.addaudithook(self.hook)
        for name in CALLS:
            setattr(os, name, self.counted(getattr(os, name), name))
        import sqlite3

        real = sqlite3.connect

        def connect(*args, **kwargs):
            connection = real(*args, **kwargs)
            connection.set_trace_callback(self.statement)
            return connection

        sqlite3.connect = connect

    def begin(self, step: dict) -> None:
        self.count = 0
        self.kill_at, self.hold_at = step.get("kill_at", 0), step.get("hold_at", 0)
        self.fail_at, self.errno = step.get("fail_at", 0), step.get("errno", 0)
        self.active = True

    def hook(self, event: str, args: tuple) -> None:
        if not self.active:
            return
        if event == "open":
            path, _, flags = args
            if not flags & WRITING or not str(path).startswith(self.root):
                return
        elif event not in CHANGES:
            return
        self.step(None if event == "ctypes.dlsym" else event)

    def statement(self, text: str) -> None:
        if self.active and text.split(None, 1)[0].upper() in ("BEGIN", "COMMIT", "CREATE"):
            self.step(None)

    def counted(self, real, name: str):
        def call(*args, **kwargs):
            if self.active and not (name == "write" and args[0] < 3):
                if self.count + 1 == self.kill_at and name in ("write", "pwrite"):
                    data = memoryview(args[1]).cast("B")
                    real(args[0], data[: len(data) // 2], *args[2:])
                self.step(name)
            return real(*args, **kwargs)

        return call

    def step(self, name: str | None) -> None:
        self.count += 1
        if self.count == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.count == self.hold_at:
            os.kill(os.getpid(), signal.SIGSTOP)
        if name and self.fail_at and self.count >= self.fail_at and not self.is_mending(name):
            raise OSError(self.errno, os.strerror(self.errno))

    @staticmethod
    def is_mending(name: str) -> bool:
        """A full disk still lets one remove and cut off."""
        return name in ("os.remove", "os.rmdir", "ftruncate", "os.truncate")


def run_steps(request: dict, results) -> None:
    from deltavc.cli.main import main

    os.environ.clear()
    os.environ.update(request["env"])
    prepare(request)
    os.chdir(request.get("tmpfs") if request.get("tmpfs_kib") else request["cwd"])
    steps = Steps(request["root"])
    for step in request["steps"]:
        out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
        err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            steps.begin(step)
            limit_files(request.get("largest_file", resource.RLIM_INFINITY))
            try:
                code = main(step["argv"])
            finally:
                steps.active = False
                limit_files(resource.RLIM_INFINITY)
        texts = [stream.buffer.getvalue().decode() for stream in (out, err)]
        results.write(json.dumps([code, *texts, steps.count]) + "\n")
        results.flush()


def limit_files(size: int) -> None:
    """Lets files grow to a size and no further, the results aside."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def prepare(request: dict) -> None:
    """Takes away from the child what the request says: space, file size, powers."""
    libc = ctypes.CDLL(None, use_errno=True)
    if kib := request.get("tmpfs_kib"):
        clone_newns, private = 0x20000, 0x44000  # MS_REC | MS_PRIVATE
        target = os.fsencode(request["tmpfs"])
        option = f"size={kib}k".encode()
        if (
            libc.unshare(clone_newns)
            or libc.mount(None, b"/", None, private, None)
            or libc.mount(b"none", target, b"tmpfs", 0, option)
        ):
            os._exit(77)
        copy_over(Path(request["tmpfs_source"]), Path(request["tmpfs"]))
        if "leave_kib" in request:
            fill_up(request["tmpfs"], request["leave_kib"] * 1024)
        read_only, remount = 1, 32
        if request.get("read_only") and libc.mount(None, target, None, read_only | remount, option):
            os._exit(77)
    if timeout := request.get("lock_timeout"):
        from deltavc.repo.session import Session

        made, given = Session.__init__, Session.__init__.__defaults__
        names = made.__code__.co_varnames[: made.__code__.co_argcount][-len(given) :]
        defaults = dict(zip(names, given, strict=True)) | {"lock_timeout": timeout}
        made.__defaults__ = tuple(defaults.values())
    if request.get("obey_modes") and os.geteuid() == 0:
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)
        no_powers = (ctypes.c_uint32 * 6)()
        if libc.capset(header, no_powers):
            os._exit(77)


def copy_over(source: Path, target: Path) -> None:
    import shutil

    shutil.copytree(source, target, dirs_exist_ok=True, symlinks=True)


def fill_up(folder: str, leave: int) -> None:
    """Fills a disk but for so many bytes."""
    handle = os.open(os.path.join(folder, "filler"), os.O_WRONLY | os.O_CREAT)
    found = os.statvfs(folder)
    os.posix_fallocate(handle, 0, found.f_bavail * found.f_frsize - leave)
    os.close(handle)


def serve(path: str) -> None:
    import_everything()
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen(64)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system reaps the handlers
    print("ready", flush=True)
    while True:
        connection, _ = server.accept()
        if os.fork() == 0:
            server.close()
            handle(connection)
        connection.close()


def handle(connection: socket.socket) -> None:
    """Forks the command, tells its process id, and its status when it has ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    stream = connection.makefile("rw")
    request = json.loads(stream.readline())
    child = os.fork()
    if child == 0:
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        try:
            with open(request["results"], "w") as results:
                run_steps(request, results)
            os._exit(0)
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(99)
    stream.write(f"{child}\n")
    stream.flush()
    status = os.waitpid(child, 0)[1]
    with contextlib.suppress(OSError):
        stream.write(f"{os.waitstatus_to_exitcode(status)}\n")
        stream.flush()
    os._exit(0)


def import_everything() -> None:
    """Imports what commands import, so that a child finds it there."""
    import deltavc

    for module in pkgutil.walk_packages(deltavc.__path__, "deltavc."):
        if ".migrations" not in module.name:
            import_module(module.name)
    for name in ("torch", "sqlalchemy.dialects.sqlite", "alembic.command", "rich.table"):
        import_module(name)


if __name__ == "__main__":
    serve(sys.argv[1])
