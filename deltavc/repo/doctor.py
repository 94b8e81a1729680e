"""The verb ``doctor``: is the installation sound, and is the repository in order?"""

from __future__ import annotations

import os
import platform
import sqlite3
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from deltavc.catalog.errors import CatalogUnusable
from deltavc.errors import DeltavcError
from deltavc.repo.layout import FORMAT
from deltavc.repo.results import DoctorReport, Finding
from deltavc.version import __version__

if TYPE_CHECKING:
    from deltavc.repo.repository import Repository

__all__ = ["doctor"]

EXTRAS = {
    "adapt": ("transformers", "peft"),
    "attest": ("cyclonedx", "in_toto_attestation", "model_signing", "OpenSSL"),
    "cloud": ("obstore",),
    "postgres": ("psycopg",),
    "report": ("matplotlib",),
}
NETWORK = {"nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "afs", "ceph", "glusterfs"}
CLOCK_SLACK_MS = 1000


def doctor(
    repo: Repository | None, *, fix: bool = False, rebuild_catalog: bool = False
) -> DoctorReport:
    """Looks the installation and the repository over.

    Args:
        repo: The repository; None looks at the installation alone.
        fix: Repair what is safe to repair: left-over files, the catalog.
        rebuild_catalog: Build the catalog anew from objects and event log.

    Returns:
        What was found and what was mended; ``ok`` when there is no problem.
    """
    findings = list(_installation())
    fixed: list[str] = []
    if repo is not None:
        if rebuild_catalog or (fix and _catalog_trouble(repo)):
            repo.rebuild_catalog()
            fixed.append("catalog rebuilt from objects and event log")
        if fix:
            fixed += [f"removed the left-over file {path.name}" for path in repo.sweep()]
        findings += _repository(repo)
    return DoctorReport(
        ok=not any(f.level == "problem" for f in findings), findings=findings, fixed=fixed
    )


def _native() -> Finding:
    """Tells which inner loops run in C; without them everything is the same, but slower."""
    from deltavc.delta.native import states

    found = states()
    missing = sorted(name for name, reason in found.items() if reason)
    if not missing:
        return Finding(level="ok", code="native", message=f"native code: {', '.join(found)}")
    return Finding(
        level="warn",
        code="native-missing",
        message=f"no native code for {', '.join(missing)}, so they are slower: {found[missing[0]]}",
    )


def _installation() -> Iterator[Finding]:
    try:
        torch = version("torch")
    except PackageNotFoundError:
        torch = "missing"
    yield Finding(
        level="ok" if torch != "missing" else "problem",
        code="versions",
        message=f"deltavc {__version__}, Python {platform.python_version()}, "
        f"SQLite {sqlite3.sqlite_version}, torch {torch}",
    )
    yield _native()
    for extra, modules in EXTRAS.items():
        absent = [module for module in modules if find_spec(module) is None]
        if absent:
            yield Finding(
                level="warn",
                code="extra-missing",
                message=f"extra '{extra}' is not installed ({', '.join(absent)})",
                subject=extra,
            )


def _repository(repo: Repository) -> Iterator[Finding]:
    trouble = _catalog_trouble(repo)
    objects = sum(1 for _ in repo.store.iter())
    head = repo.log.head()
    yield Finding(
        level="problem" if trouble else "ok",
        code="catalog",
        message=trouble
        or f"repository format {FORMAT}, {objects:,} objects, {head.number:,} events, "
        "catalog in step with the log",
    )
    yield from _clock(repo)
    yield from _file_system(repo.layout.folder)
    for name, source in repo.base_names(repo.state()).items():
        path = repo.root / source.path
        if not path.exists():
            yield Finding(
                level="warn",
                code="base-unavailable",
                message=f"base '{name}' is not at '{path}' any more",
                subject=name,
            )
    if repo.layout.journal.exists():
        yield Finding(
            level="warn",
            code="switch-interrupted",
            message="a rewrite of the workspace was cut off; deltavc checkout HEAD does it again",
        )


def _catalog_trouble(repo: Repository) -> str | None:
    try:
        repo.kept_reader()
    except CatalogUnusable as error:
        return error.message
    except DeltavcError as error:
        return f"the catalog cannot be brought in step: {error.message}"
    return None


def _clock(repo: Repository) -> Iterator[Finding]:
    for event, _ in repo.log.read_back(1):
        ahead = event.time - repo.session.clock()
        if ahead > CLOCK_SLACK_MS:
            yield Finding(
                level="warn",
                code="clock-behind",
                message=f"the clock is {ahead / 1000:.0f} s behind the newest operation",
            )
        else:
            yield Finding(level="ok", code="clock", message="clock not behind the newest operation")


def _file_system(folder: Path) -> Iterator[Finding]:
    kind = _mount_type(folder)
    if kind in NETWORK:
        yield Finding(
            level="warn",
            code="network-file-system",
            message=f"'{folder}' is on a network file system ({kind}): "
            "SQLite's write-ahead log is not safe there",
        )


def _mount_type(folder: Path) -> str:
    """Returns the type of the file system that holds a folder; "" where the system does not say."""
    try:
        lines = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    where, best, kind = os.fspath(folder.resolve()), "", ""
    for line in lines:
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        mount = fields[1].replace("\\040", " ")
        inside = where == mount or where.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best):
            best, kind = mount, fields[2]
    return kind
