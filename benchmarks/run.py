"""Measures what deltavc promises, in one run, each against a floor or a peer.

``make bench`` runs it. ``--quick`` uses small sizes and few rounds, to see that
everything works; its figures say little. Names choose groups. A target that is
missed is printed as "no", with the value; the exit code is then 1.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module

# Read when the libraries are imported. OMP_NUM_THREADS is left alone: deltavc is to be measured
# as people run it, and the peers get their best setting, whatever a training set before.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from benchmarks.bench_rows import Lab, Row, report
from benchmarks.timing import machine

__all__ = ["GROUPS", "main"]

# Name of the group: where its function is. Start-up first: later groups fill memory.
GROUPS: dict[str, tuple[str, str]] = {
    "startup": ("benchmarks.bench_startup", "startup"),
    "history": ("benchmarks.bench_history", "history"),
    "scale": ("benchmarks.bench_scale", "scale"),
    "commit": ("benchmarks.bench_commit", "commit"),
    "merged": ("benchmarks.bench_size", "merged_loras"),
    "full": ("benchmarks.bench_size", "full_finetunes"),
    "sums": ("benchmarks.bench_merge", "sums"),
    "ties": ("benchmarks.bench_merge", "ties"),
    "rollback": ("benchmarks.bench_rollback", "rollback"),
    "switch": ("benchmarks.bench_checkout", "switch"),
    "checkout": ("benchmarks.bench_checkout", "checkout"),
    "live": ("benchmarks.bench_live", "live"),
}

PACKAGES = ("numpy", "torch", "zstandard", "click", "sqlalchemy", "peft", "deltavc")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the groups and prints one table; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, few rounds")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(GROUPS))
    options = parser.parse_args(argv)
    unknown = [name for name in options.names if name not in GROUPS]
    if unknown:
        parser.error(f"no group is called {unknown[0]}; there are {', '.join(GROUPS)}")
    lab = Lab(quick=options.quick)
    shutil.rmtree(lab.folder, ignore_errors=True)
    lab.folder.mkdir(parents=True)
    before = machine(lab.folder, PACKAGES)
    rows = [row for name in options.names or GROUPS for row in _group(lab, name)]
    shutil.rmtree(lab.folder)
    print(before)
    print("load at the end " + " ".join(f"{value:.1f}" for value in os.getloadavg()))
    if options.quick:
        print("quick: small sizes and few rounds; these are not the figures to quote")
    print("\n" + report(rows))
    return 0 if all(row.ok for row in rows) else 1


def _group(lab: Lab, name: str) -> list[Row]:
    """Runs one group; one that breaks is a row of its own, and the others still run."""
    module, function = GROUPS[name]
    started = time.perf_counter()
    print(f"{name} …", file=sys.stderr, flush=True)
    try:
        measure: Callable[[Lab], list[Row]] = getattr(import_module(module), function)
        rows = measure(lab)
    except Exception as error:
        traceback.print_exc()
        rows = [Row(name, float("nan"), 0, note=f"broke: {type(error).__name__}: {error}"[:200])]
    print(f"{name}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
    return rows


if __name__ == "__main__":
    sys.exit(main())
