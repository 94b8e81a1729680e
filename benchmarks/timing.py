"""Timing that can be trusted on a shared virtual machine, and a plain table.

Variants take turns in every round, a floor among them, and each is compared with
the floor of its own round, so slow minutes of the machine hit all alike. Before
each timed call that writes, a scratch file larger than the output is written,
flushed and removed and some anonymous memory is touched: on a virtual machine
whose host takes freed memory back, the first to touch it pays 10 to 20 times as
much, and whoever runs first would look slow.
"""

from __future__ import annotations

import json
import mmap
import os
import platform
import resource
import shutil
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

__all__ = [
    "Finished",
    "Sample",
    "Timed",
    "Touch",
    "Variant",
    "compare",
    "machine",
    "process",
    "results",
    "run_process",
    "table",
]

_STEP = 8 << 20


@dataclass(frozen=True)
class Sample:
    """One timed call.

    Attributes:
        wall: Seconds on the clock.
        cpu: User and system seconds of this process and of children that ended in the call.
    """

    wall: float
    cpu: float


@dataclass(frozen=True)
class Variant:
    """One way to do the job.

    Attributes:
        name: For the table.
        call: What is timed. If it returns a Sample, that counts instead, as when a
            child process times a part of its own run.
        prepare: Runs before each call, untimed, before memory is touched.
        finish: Runs after each call, untimed: checks the output, removes it.
    """

    name: str
    call: Callable[[], Sample | None]
    prepare: Callable[[], object] = lambda: None
    finish: Callable[[], object] = lambda: None


@dataclass
class Timed:
    """What the rounds gave for one variant.

    Attributes:
        name: Of the variant.
        samples: One a round.
        ratios: Wall seconds over those of the floor in the same round.
        floor_best: Wall seconds of the floor's quickest round.
    """

    name: str
    samples: list[Sample] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    floor_best: float = 0.0

    @property
    def wall(self) -> float:
        """Median of the wall seconds."""
        return statistics.median(sample.wall for sample in self.samples)

    @property
    def best(self) -> float:
        """Least wall seconds."""
        return min(sample.wall for sample in self.samples)

    @property
    def worst(self) -> float:
        """Most wall seconds."""
        return max(sample.wall for sample in self.samples)

    @property
    def cpu(self) -> float:
        """Median of the CPU seconds."""
        return statistics.median(sample.cpu for sample in self.samples)

    @property
    def ratio(self) -> float:
        """Median of the paired ratios to the floor."""
        return statistics.median(self.ratios)

    @property
    def best_ratio(self) -> float:
        """Best of this over best of the floor: what is left when nothing else ran."""
        return self.best / self.floor_best


@dataclass(frozen=True)
class Touch:
    """How memory is made ready before a timed call.

    Attributes:
        folder: Where the scratch file is written: the outputs' file system.
        file_bytes: Size of the scratch file; more than the output.
        memory_bytes: Anonymous memory touched beside it.
    """

    folder: Path
    file_bytes: int = 0
    memory_bytes: int = 0

    def __call__(self) -> None:
        """Writes, flushes and removes the scratch file, and touches the memory."""
        os.sync()
        path = self.folder / ".touch"
        block = b"\xa5" * _STEP
        try:
            with path.open("wb", buffering=0) as stream:
                for _ in range(-(-self.file_bytes // _STEP)):
                    stream.write(block)
                os.fsync(stream.fileno())
        finally:
            path.unlink(missing_ok=True)
        if self.memory_bytes:
            with mmap.mmap(-1, self.memory_bytes) as memory:
                for first in range(0, self.memory_bytes, mmap.PAGESIZE):
                    memory[first] = 1


def compare(
    variants: Sequence[Variant],
    *,
    rounds: int = 5,
    touch: Callable[[], None] | None = None,
    on_round: Callable[[int], object] = lambda _: None,
) -> list[Timed]:
    """Times variants in turns; the first is the floor.

    Args:
        variants: What to time; each runs once a round, in this order.
        rounds: Number of rounds.
        touch: Runs right before each timed call; a :class:`Touch` for calls that write.
        on_round: Told the number of each round that ended.

    Returns:
        One result a variant, in their order.
    """
    timed = [Timed(variant.name) for variant in variants]
    for number in range(rounds):
        for variant, result in zip(variants, timed, strict=True):
            variant.prepare()
            if touch is not None:
                touch()
            result.samples.append(_time(variant.call))
            variant.finish()
        floor = timed[0].samples[-1].wall
        for result in timed:
            result.ratios.append(result.samples[-1].wall / floor)
        on_round(number)
    for result in timed:
        result.floor_best = timed[0].best
    return timed


def _time(call: Callable[[], Sample | None]) -> Sample:
    before = _children()
    cpu, wall = time.process_time(), time.perf_counter()
    own = call()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return own if own is not None else Sample(wall, cpu + _children() - before)


def _children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@dataclass(frozen=True)
class Finished:
    """A child process that ended.

    Attributes:
        sample: Wall and CPU seconds, from start to exit.
        peak_bytes: Most anonymous memory seen (RssAnon); pages of mapped files do
            not count, as they can be dropped at any time.
        stdout: What it printed.
        stderr: What it complained of.
    """

    sample: Sample
    peak_bytes: int
    stdout: str
    stderr: str

    def json(self) -> Any:
        """Returns the last line printed, read as JSON."""
        return json.loads(self.stdout.splitlines()[-1])


def run_process(
    argv: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    sample_every: float = 0.01,
    accept: Collection[int] = (0,),
) -> Finished:
    """Runs a command to its end and watches its memory.

    Args:
        argv: Program and arguments.
        env: Variables to set beside the present ones.
        cwd: Folder to run in.
        sample_every: Seconds between two looks at its memory; 0 does not look, so
            as not to disturb commands of a few milliseconds.
        accept: Exit codes that are no failure.

    Returns:
        Times, peak memory and output.

    Raises:
        RuntimeError: The command failed; its last words are in the message.
    """
    before, started = _children(), time.perf_counter()
    child = subprocess.Popen(
        [str(part) for part in argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(env or {})},
        cwd=cwd,
    )
    peak = [0]
    ended = threading.Event()
    watcher = threading.Thread(target=_watch, args=(child.pid, sample_every, ended, peak))
    if sample_every:
        watcher.start()
    stdout, stderr = child.communicate()
    sample = Sample(time.perf_counter() - started, _children() - before)
    ended.set()
    if sample_every:
        watcher.join()
    if child.returncode not in accept:
        raise RuntimeError(f"{argv[0]} ended with {child.returncode}: {stderr[-2000:]}")
    return Finished(sample, peak[0], stdout, stderr)


def process(
    name: str,
    argv: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    accept: Collection[int] = (0,),
    prepare: Callable[[], object] = lambda: None,
) -> Variant:
    """Returns a variant that runs a command from start to exit."""

    def call() -> Sample:
        return run_process(argv, env=env, cwd=cwd, sample_every=0, accept=accept).sample

    return Variant(name, call, prepare)


def _watch(pid: int, pause: float, ended: threading.Event, peak: list[int]) -> None:
    status = Path(f"/proc/{pid}/status")
    while not ended.wait(pause):
        with suppress(OSError):
            for line in status.read_text().splitlines():
                if line.startswith("RssAnon:"):
                    peak[0] = max(peak[0], int(line.split()[1]) << 10)


def machine(folder: Path, packages: Sequence[str] = ("numpy", "torch", "zstandard")) -> str:
    """Returns one line on the machine: processor, cores, load, file system, versions.

    Args:
        folder: Where the outputs go.
        packages: Distributions whose versions are named, if they are installed.
    """
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    parts = [
        _processor(),
        f"{os.cpu_count()} cores",
        f"load {load}",
        f"{_file_system(folder)}, {shutil.disk_usage(folder).free / 1e9:.0f} GB free",
        f"Linux {platform.release()}",
        f"Python {platform.python_version()}",
    ]
    for name in packages:
        with suppress(PackageNotFoundError):
            parts.append(f"{name} {version(name)}")
    return " · ".join(parts)


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def _file_system(folder: Path) -> str:
    """Returns the type of the file system of the longest mount point above a folder."""
    found, depth = "unknown file system", -1
    with suppress(OSError):
        for line in Path("/proc/mounts").read_text().splitlines():
            _, point, kind, *_ = line.split()
            if folder.resolve().is_relative_to(point) and len(Path(point).parts) >= depth:
                found, depth = kind, len(Path(point).parts)
    return found


def results(timed: Sequence[Timed]) -> str:
    """Returns a table of timings: median, range and CPU seconds, ratios to the floor."""
    rows = [
        (
            row.name,
            f"{row.wall:.3f}",
            f"{row.best:.3f}-{row.worst:.3f}",
            f"{row.cpu:.3f}",
            f"{row.ratio:.2f}",
            f"{row.best_ratio:.2f}",
        )
        for row in timed
    ]
    return table(["", "median s", "range", "cpu s", "x floor", "best/best"], rows)


def table(titles: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Returns rows under their titles, aligned by spaces; all but the first column to the right."""
    cells = [[str(cell) for cell in row] for row in (titles, *rows)]
    widths = [max(len(cell) for cell in column) for column in zip(*cells, strict=True)]
    lines = []
    for row in cells:
        first, *rest = zip(row, widths, strict=True)
        aligned = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in rest)]
        lines.append("  ".join(aligned).rstrip())
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)
