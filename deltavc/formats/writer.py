"""Writes models: a folder or a file, made beside and renamed.

::

    plan = FolderPlan([PlannedFile("model.safetensors", {"format": "pt"}, tensors)], files)
    written = write_folder(Path("serve/model"), plan)

Unchanged tensors are copied by the kernel, changed ones are computed in
blocks by a few threads (:mod:`deltavc.formats.writer_engine`). Memory stays
near the largest tensor, whatever the model's size. To change a folder that
deltavc wrote before, see :mod:`deltavc.formats.inplace`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from deltavc.errors import UnsafeFile
from deltavc.formats.safetensors import SafetensorsFile
from deltavc.formats.writer_engine import (
    Checksums,
    Run,
    Sink,
    Sources,
    Work,
    check_blocks,
    copy_range,
    perform,
    unwritable,
)
from deltavc.formats.writer_plan import (
    Copied,
    FolderPlan,
    Held,
    Layout,
    Planned,
    PlannedFile,
    RowSource,
    check_name,
    check_plan,
    index_files,
    layout,
)
from deltavc.formats.writer_stage import (
    create_file,
    settle,
    stage_folder,
    sync_folder,
    taken,
)

__all__ = [
    "Checksums",
    "Copied",
    "FolderPlan",
    "Held",
    "Planned",
    "PlannedFile",
    "RowSource",
    "Written",
    "damaged",
    "same_layout",
    "settle",
    "write_file",
    "write_folder",
]

_FICLONE = 0x40049409
_NO_FALLOCATE = {errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}


@dataclass
class Written:
    """What was written.

    Attributes:
        path: The folder or file.
        sizes: Bytes of each file that was written, by name.
        copied: Bytes of tensors that were copied.
        computed: Bytes of tensors that were computed.
        checksums: Checksums of each computed tensor, by file and tensor name.
    """

    path: Path
    sizes: dict[str, int] = field(default_factory=dict)
    copied: int = 0
    computed: int = 0
    checksums: dict[str, dict[str, Checksums]] = field(default_factory=dict)


def write_folder(
    target: Path,
    plan: FolderPlan,
    *,
    threads: int = 2,
    progress: Callable[[int], None] | None = None,
    durable: bool = False,
    replace: bool = False,
) -> Written:
    """Writes a folder of weights and its other files.

    The folder is built beside the target and takes its place in one step. On
    any failure it is removed, and the target is as it was.

    Args:
        target: The folder that is to be; folders above it are made.
        plan: What it holds.
        threads: Workers.
        progress: Is told the number of bytes of weights finished since the last call.
        durable: Flush everything to disk before the folder takes its place.
        replace: Take the place of a folder that is there.

    Returns:
        What was written, with checksums of the computed tensors.

    Raises:
        InvalidName: A name in the plan may not be used.
        NameTaken: The target is there and not to be replaced.
        UnsafeFile: The target is a symbolic link, or a given header does not fit.
        BaseUnavailable: A file to copy from cannot be read.
        RepositoryUnwritable: Disk full, read-only, no permission.
    """
    check_plan(plan)
    layouts = {planned.name: layout(planned) for planned in plan.weights}
    written = Written(target)
    with stage_folder(target, replace=replace, durable=durable) as stage:
        _fill_weights(stage.path, plan, layouts, written, threads, progress)
        for name, content in (dict(plan.files) | index_files(plan)).items():
            written.sizes[name] = put_file(stage.path / name, content)
        if plan.seal is not None:
            sealed = plan.seal.content(stage.path)
            written.sizes[plan.seal.name] = put_file(stage.path / plan.seal.name, sealed)
        stage.publish()
    return written


def write_file(
    target: Path,
    planned: PlannedFile,
    *,
    threads: int = 2,
    progress: Callable[[int], None] | None = None,
    durable: bool = False,
    replace: bool = False,
) -> Written:
    """Writes one safetensors file, beside and then renamed.

    Args:
        target: The file that is to be; its name, not the plan's, is used.
        planned: What it holds.
        threads: Workers.
        progress: Is told the number of bytes finished since the last call.
        durable: Flush to disk before the file takes its place.
        replace: Take the place of a file that is there.

    Returns:
        What was written.

    Raises:
        NameTaken: The target is there and not to be replaced.
        UnsafeFile: The target is a symbolic link, or a given header does not fit.
        BaseUnavailable: A file to copy from cannot be read.
        RepositoryUnwritable: Disk full, read-only, no permission.
    """
    check_name(target.name)
    if target.is_symlink():
        raise UnsafeFile(f"'{target}' is a symbolic link, which is not followed for writing")
    if target.is_dir() or (target.exists() and not replace):
        raise taken(target)
    places = layout(planned)
    beside = target.with_name(f".{target.name}.deltavc-{secrets.token_hex(4)}")
    written = Written(target)
    try:
        work = Work()
        fd = _open_new(beside, places, work, written, target.name)
        try:
            perform(work, threads=threads, progress=progress)
            if durable:
                os.fsync(fd)
        finally:
            os.close(fd)
        note(written, target.name, work)
        if replace:
            beside.replace(target)
        else:
            _rename_new(beside, target)
        if durable:
            sync_folder(target.parent)
    except OSError as error:
        raise unwritable(target, error) from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()
    return written


def _rename_new(beside: Path, target: Path) -> None:
    """Gives a file its name unless that is in use by now."""
    try:
        os.link(beside, target)
    except FileExistsError as error:
        raise taken(target) from error
    except OSError:  # no hard links here
        beside.replace(target)


def same_layout(path: Path, planned: PlannedFile) -> bool:
    """Tells whether a file has the header and the length that the plan would give it.

    Args:
        path: The file that is there.
        planned: What would be written.

    Returns:
        True when every tensor lies where the plan would put it.
    """
    places = layout(planned)
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            return size == places.size and file.read(len(places.header)) == places.header
    except OSError:
        return False


def damaged(folder: Path, written: Written) -> list[str]:
    """Reads computed tensors back and names those that are not what was written.

    Args:
        folder: The folder.
        written: What :func:`write_folder` returned for it.

    Returns:
        Names of tensors; empty when all is well.

    Raises:
        UnsafeFile: A file is not a safetensors file any more.
    """
    bad: list[str] = []
    for name, tensors in written.checksums.items():
        with SafetensorsFile(folder / name) as file:
            bad += [
                t for t, sums in tensors.items() if not check_blocks(file.tensor(t).raw(), sums)
            ]
    return bad


def put_file(path: Path, content: Path | bytes) -> int:
    """Creates a file from bytes or as a copy; returns its size.

    Args:
        path: The file that is to be; its folder is made.
        content: Bytes, or the file to copy.

    Returns:
        Number of bytes.

    Raises:
        BaseUnavailable: The file to copy cannot be read.
        RepositoryUnwritable: The file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(path, error) from error
    fd = create_file(path)
    try:
        sink = Sink(path, fd)
        if isinstance(content, bytes):
            sink.write(0, memoryview(content))
            return len(content)
        sources = Sources()
        try:
            source = sources.open(content)
            size = os.fstat(source).st_size
            if not _clone(source, fd):
                copy_range(sources, Run(sink, 0, Copied(content, 0, size)))
            return size
        finally:
            sources.close()
    finally:
        os.close(fd)


def _fill_weights(
    folder: Path,
    plan: FolderPlan,
    layouts: dict[str, Layout],
    written: Written,
    threads: int,
    progress: Callable[[int], None] | None,
) -> None:
    """Writes all safetensors files of a plan off one queue."""
    work, parts, fds = Work(), {}, []
    try:
        for planned in plan.weights:
            part = Work()
            path = folder / planned.name
            path.parent.mkdir(parents=True, exist_ok=True)
            places = layouts[planned.name]
            fds.append(_open_new(path, places, part, written, planned.name))
            work.runs += part.runs
            work.computed += part.computed
            parts[planned.name] = part
        perform(work, threads=threads, progress=progress)
    finally:
        for fd in fds:
            os.close(fd)
    for name, part in parts.items():
        note(written, name, part)


def _open_new(path: Path, places: Layout, work: Work, written: Written, name: str) -> int:
    """Creates a file, writes its header and adds its work; returns the descriptor."""
    fd = create_file(path)
    try:
        sink = Sink(path, fd)
        written.sizes[name] = places.size
        work.add(sink, places.slots)
        original = _unchanged(work, places)
        if original is not None and _clone_whole(fd, original):
            written.copied += places.size - len(places.header)
            work.runs.clear()
            return fd
        _allocate(path, fd, places.size)
        sink.write(0, memoryview(places.header))
    except BaseException:
        os.close(fd)
        raise
    return fd


def _unchanged(work: Work, places: Layout) -> Path | None:
    """Returns the file that the planned one equals as a whole, if there is one."""
    if work.computed or len(work.runs) != 1:
        return None
    run = work.runs[0]
    source = run.source
    if run.offset != source.offset or source.offset + source.nbytes != places.size:
        return None
    with contextlib.suppress(OSError), source.path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size == places.size and file.read(len(places.header)) == places.header:
            return source.path
    return None


def _clone_whole(fd: int, original: Path) -> bool:
    sources = Sources()
    try:
        return _clone(sources.open(original), fd)
    finally:
        sources.close()


def _clone(source: int, fd: int) -> bool:
    """Shares a file's blocks where the file system can; False where it cannot."""
    try:
        fcntl.ioctl(fd, _FICLONE, source)
    except OSError:
        return False
    return True


def _allocate(path: Path, fd: int, size: int) -> None:
    """Reserves the file's space, so that a full disk is known before any work."""
    try:
        if size:
            os.posix_fallocate(fd, 0, size)
    except OSError as error:
        if error.errno not in _NO_FALLOCATE:
            raise unwritable(path, error) from error
        os.ftruncate(fd, size)


def note(written: Written, name: str, work: Work) -> None:
    written.copied += sum(run.source.nbytes for run in work.runs)
    written.computed += sum(item.tensor.nbytes for item in work.computed)
    if work.computed:
        written.checksums[name] = {item.tensor.name: item.checksums() for item in work.computed}
