"""The in-place switch: only the tensors that differ are written, where they lie.

A folder that deltavc wrote has its tensors at the same places in every version
of the base, so going from one version to another rewrites some of them. That
is not atomic, but it can be done again: each tensor is a pure function of the
base and a commit. So the order is

1. a journal, flushed: which folder goes from what to what, which tensors;
2. the seal, which says what the folder is, and the weights get a hidden name, so
   that nobody believes the one or opens a half-written one of the others;
3. the tensors are computed or copied into place, the other files replaced;
4. the weights get their name back, the seal is made anew, and the journal is removed.

A journal that is found (:func:`read_journal`) says that step 4 was not
done. The caller calls :func:`update_folder` again, towards either version:
what the journal names is written again as well. Why, and what other processes
see meanwhile, is told in ``docs/adr/0005-workspace-in-place.md``.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

import msgspec

from deltavc.errors import (
    RepositoryLocked,
    RepositoryUnwritable,
    StateError,
    WorkspaceDirty,
)
from deltavc.formats.writer import Written, note, put_file, same_layout
from deltavc.formats.writer_engine import Sink, Work, perform, unwritable
from deltavc.formats.writer_plan import (
    Copied,
    FolderPlan,
    PlannedFile,
    Seal,
    check_name,
    check_plan,
    layout,
)
from deltavc.formats.writer_stage import sync_file, sync_folder, sync_tree
from deltavc.records import canonical

__all__ = ["Journal", "clear_journal", "read_journal", "update_folder", "why_not_in_place"]


class Journal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A switch that began and, as long as the journal is there, did not end.

    Attributes:
        target: The folder, absolute.
        before: What it held, in the caller's words (a commit's id).
        after: What it was to hold.
        tensors: Names of the tensors that may be either, by file.
        files: Other files that may be either.
    """

    target: str
    before: str
    after: str
    tensors: dict[str, list[str]]
    files: list[str]
    version: int = 1


def read_journal(journal: Path) -> Journal | None:
    """Returns the switch that was cut off, if there is one.

    Args:
        journal: Path of the journal.

    Returns:
        What it says; None when there is none, and the folder is whole.

    Raises:
        ObjectCorrupt: It cannot be read; the folder must be written afresh.
        RepositoryUnwritable: The system would not open it.
    """
    try:
        data = journal.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise unwritable(journal, error) from error
    return canonical.decode(data, Journal)


def clear_journal(journal: Path) -> None:
    """Removes a journal: its folder is whole, or was written afresh.

    Args:
        journal: Path of the journal; it need not be there.

    Raises:
        RepositoryUnwritable: The system would not.
    """
    try:
        journal.unlink(missing_ok=True)
        sync_folder(journal.parent)
    except FileNotFoundError:
        return
    except OSError as error:
        raise unwritable(journal, error) from error


def why_not_in_place(
    target: Path, weights: Sequence[PlannedFile], changed: Mapping[str, Collection[str]]
) -> str | None:
    """Says why a folder's tensors cannot be changed where they lie.

    Args:
        target: The folder.
        weights: The safetensors files as planned, complete.
        changed: Names of the tensors to rewrite, by file.

    Returns:
        A clause for people; None when it can be done.
    """
    if target.is_symlink() or not target.is_dir():
        return f"'{target}' is not a folder"
    planned = {file.name: file for file in weights}
    linked = _linked(target, changed)
    if linked is not None:
        return linked
    for name in changed:
        path = _where(target, check_name(name))
        try:
            found = path.lstat()
        except OSError:
            return f"'{name}' is not there"
        if not stat.S_ISREG(found.st_mode):
            return f"'{name}' is not a regular file"
        if found.st_nlink != 1:
            return f"'{name}' has another name as well, a hard link"
        if not os.access(path, os.W_OK):
            return f"'{name}' is read-only"
        if name not in planned or not same_layout(path, planned[name]):
            return f"'{name}' has another layout"
        unknown = set(changed[name]) - {tensor.name for tensor in planned[name].tensors}
        if unknown:
            return f"'{name}' has no tensor '{min(unknown)}'"
        if _reads(planned[name], found):
            return f"'{name}' is what tensors are to be copied from"
    return None


def _linked(target: Path, names: Collection[str]) -> str | None:
    """Says which of the names would be written through a symbolic link to a folder."""
    for name in names:
        for parent in PurePosixPath(check_name(name)).parents:
            if (target / parent).is_symlink():
                return f"'{parent}' is a symbolic link"
    return None


def _unsealable(target: Path, seal: Seal) -> str | None:
    """Says why a seal cannot be taken away and made anew."""
    if (target / seal.name).is_dir() and not (target / seal.name).is_symlink():
        return f"'{seal.name}' is a folder"
    return _linked(target, {seal.name})


def _reads(planned: PlannedFile, target: os.stat_result) -> bool:
    """Tells whether a planned file copies from the very file that it would change."""
    paths = {t.source.path for t in planned.tensors if isinstance(t.source, Copied)}
    for path in paths:
        with contextlib.suppress(OSError):
            found = path.stat()
            if (found.st_dev, found.st_ino) == (target.st_dev, target.st_ino):
                return True
    return False


def _hidden(path: Path) -> Path:
    return path.with_name(f".{path.name}.deltavc-switch")


def _where(target: Path, name: str) -> Path:
    """Returns where a file of weights is: under its name, or hidden by a switch."""
    path = target / name
    hidden = _hidden(path)
    return hidden if not os.path.lexists(path) and os.path.lexists(hidden) else path


def update_folder(
    target: Path,
    weights: Sequence[PlannedFile],
    changed: Mapping[str, Collection[str]],
    *,
    journal: Path,
    before: str,
    after: str,
    files: Mapping[str, Path | bytes] | None = None,
    removed: Collection[str] = (),
    seal: Seal | None = None,
    threads: int = 2,
    progress: Callable[[int], None] | None = None,
    durable: bool = False,
) -> Written:
    """Changes a folder from one version to another where it lies.

    A switch that was cut off before is taken up: what its journal names is
    written again, whichever version this call goes to.

    Args:
        target: The folder; the caller holds the lock that keeps others away.
        weights: The safetensors files as planned, complete.
        changed: Names of the tensors to rewrite, by file.
        journal: Path of the journal, outside the folder.
        before: What the folder holds, in the caller's words.
        after: What it is to hold.
        files: Other files to write, or to replace.
        removed: Other files to remove.
        seal: The file that is taken away first and made last.
        threads: Workers.
        progress: Is told the number of bytes of weights finished since the last call.
        durable: Flush the folder to disk before the journal is removed. Without it a
            killed process is recovered from, a power cut soon after may not be.

    Returns:
        What was written.

    Raises:
        WorkspaceDirty: It cannot be done in place; :func:`why_not_in_place` says why.
        StateError: The plan lacks what a cut-off switch left undone.
        RepositoryLocked: Another process is changing the folder.
        RepositoryUnwritable: The system would not; the journal may remain.
        BaseUnavailable: A source cannot be read; the journal may remain.
    """
    files = files or {}
    target = Path(os.path.abspath(target))  # noqa: PTH100 - resolve() would follow links
    check_plan(FolderPlan(weights, files, seal))
    with _locked(target):
        cut_off = read_journal(journal)
        todo = _with_cut_off(target, cut_off, changed, {*files, *removed})
        reason = why_not_in_place(target, weights, todo) or _linked(target, {*files, *removed})
        reason = reason or (_unsealable(target, seal) if seal is not None else None)
        if cut_off is None:
            lost = [name for name in todo if os.path.lexists(_hidden(target / name))]
            reason = f"'{lost[0]}' was hidden by a switch without a journal" if lost else reason
        if reason is not None:
            raise WorkspaceDirty(
                f"the folder cannot be changed in place: {reason}",
                hint="write it afresh: deltavc checkout REV --force",
                path=str(target),
            )
        names = {name: sorted(tensors) for name, tensors in todo.items()}
        record = Journal(str(target), before, after, names, sorted({*files, *removed}))
        planned = [file for file in weights if file.name in todo]
        try:
            return _switch(
                target, planned, record, journal, files, seal, threads, progress, durable
            )
        except _Untouched as untouched:
            if cut_off is None:
                _give_up(target, planned, seal, journal)
            raise untouched.cause from untouched.cause.__cause__


class _Untouched(Exception):
    """A switch failed before it wrote a byte."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__()
        self.cause = cause


def _with_cut_off(
    target: Path,
    cut_off: Journal | None,
    changed: Mapping[str, Collection[str]],
    files: Collection[str],
) -> dict[str, set[str]]:
    """Returns the tensors to write: those asked for and those a cut-off switch names."""
    todo = {name: set(tensors) for name, tensors in changed.items()}
    if cut_off is None:
        return todo
    missing = sorted(set(cut_off.files) - set(files))
    if cut_off.target != str(target) or missing:
        raise StateError(
            f"an earlier switch of '{cut_off.target}' was cut off and is not done again here",
            hint="write the folder afresh: deltavc checkout REV --force",
            target=cut_off.target,
            before=cut_off.before,
            after=cut_off.after,
            files=missing,
        )
    for name, tensors in cut_off.tensors.items():
        todo.setdefault(name, set()).update(tensors)
    return todo


def _switch(
    target: Path,
    weights: Sequence[PlannedFile],
    record: Journal,
    journal: Path,
    files: Mapping[str, Path | bytes],
    seal: Seal | None,
    threads: int,
    progress: Callable[[int], None] | None,
    durable: bool,
) -> Written:
    written, work, parts = Written(target), Work(), {}
    try:
        write_journal(journal, record)
        if seal is not None:
            _hide(target / seal.name)
        with contextlib.ExitStack() as closing:
            for planned in weights:
                hidden = _hide(target / planned.name)
                part = _plan_work(closing, hidden, planned, record.tensors[planned.name])
                work.runs += part.runs
                work.computed += part.computed
                parts[planned.name] = part
            try:
                perform(work, threads=threads, progress=progress)
            except BaseException as error:
                if work.touched:
                    raise
                raise _Untouched(error) from error
        for name, part in parts.items():
            note(written, name, part)
        for name in record.files:
            _replace(target / check_name(name), files.get(name), written, name)
        if durable:
            sync_tree(target)
        for planned in weights:
            _hidden(target / planned.name).rename(target / planned.name)
        if seal is not None:
            _replace(target / seal.name, seal.content(target), written, seal.name, durable=durable)
        if durable:
            for folder in {(target / planned.name).parent for planned in weights} | {target}:
                sync_folder(folder)
    except OSError as error:
        raise unwritable(target, error) from error
    clear_journal(journal)
    return written


def _plan_work(
    closing: contextlib.ExitStack, path: Path, planned: PlannedFile, names: Collection[str]
) -> Work:
    """Opens a file and returns the work on those of its tensors that change."""
    wanted, part = set(names), Work()
    slots = [slot for slot in layout(planned).slots if slot.tensor.name in wanted]
    fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    closing.callback(os.close, fd)
    part.add(Sink(path, fd), slots)
    return part


def write_journal(journal: Path, record: Journal) -> None:
    """Writes a journal, flushed to disk, in one step.

    Args:
        journal: Its path; the folder must be there.
        record: What it says.

    Raises:
        RepositoryUnwritable: The system would not.
    """
    beside = journal.with_name(journal.name + ".new")
    try:
        with beside.open("wb") as file:
            file.write(canonical.encode(record))
            file.flush()
            os.fsync(file.fileno())
        beside.replace(journal)
        sync_folder(journal.parent)
    except OSError as error:
        raise unwritable(journal, error) from error


def _hide(path: Path) -> Path:
    """Gives a file of weights its hidden name, unless a cut-off switch did."""
    hidden = _hidden(path)
    if os.path.lexists(path):
        path.rename(hidden)
    return hidden


def _give_up(
    target: Path, weights: Sequence[PlannedFile], seal: Seal | None, journal: Path
) -> None:
    """Takes a switch back that has not written a byte yet."""
    with contextlib.suppress(OSError, RepositoryUnwritable):
        for planned in weights:
            _hidden(target / planned.name).rename(target / planned.name)
        if seal is not None and os.path.lexists(_hidden(target / seal.name)):
            _hidden(target / seal.name).rename(target / seal.name)
        clear_journal(journal)


def _replace(
    path: Path, content: Path | bytes | None, written: Written, name: str, *, durable: bool = False
) -> None:
    """Replaces another file of the folder, written beside, or removes it."""
    if content is None:
        path.unlink(missing_ok=True)
        return
    beside = _hidden(path)
    beside.unlink(missing_ok=True)  # of a switch that was cut off
    try:
        written.sizes[name] = put_file(beside, content)
        if durable:
            sync_file(beside)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(target: Path) -> Iterator[None]:
    try:
        fd = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise unwritable(target, error) from error
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RepositoryLocked(f"'{target}' is being changed by another process") from error
        yield
    finally:
        os.close(fd)
