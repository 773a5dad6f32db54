"""What the benchmarks share: paired times, and the highest memory of a process.

In a round every way runs once, one after the other, and a ratio is taken
within its round, so that a slow minute of the machine slows both sides.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

Runs = dict[str, Callable[[], object]]


def times(runs: Runs, rounds: int) -> dict[str, np.ndarray]:
    """Seconds of each way in each round, after two rounds of warming up."""
    table = {way: [] for way in runs}
    for _ in range(rounds + 2):
        for way, run in runs.items():
            start = time.perf_counter()
            run()
            table[way].append(time.perf_counter() - start)
    return {way: np.array(seconds[2:]) for way, seconds in table.items()}


def spread(ratios: np.ndarray, digits: int = 2) -> str:
    """The median of the ratios, and the quartiles."""
    low, middle, high = (
        f"{x:.{digits}f}" for x in np.percentile(ratios, [25, 50, 75])
    )
    return f"{middle} ({low} to {high})"


def numbers_of(
    script: str, option: str, ways: Iterable[str], *arguments: str
) -> dict[str, float]:
    """The last number that `script` prints for each way, run by itself."""
    numbers = {}
    for way in ways:
        printed = subprocess.run(
            [sys.executable, script, option, *arguments, way],
            capture_output=True,
            text=True,
            check=True,
        )
        numbers[way] = float(printed.stdout.split()[-1])
    return numbers


def resident(field: str = "VmHWM") -> float:
    """MiB that this process holds ("VmRSS"), or has held at the most."""
    # Not getrusage, whose peak a process inherits from the one that forked it.
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0]) / 1024


def peak_above_now(run: Callable[[], object]) -> float:
    """MiB that `run` takes at its highest, its result included."""
    Path("/proc/self/clear_refs").write_text("5")  # forgets earlier peaks
    before = resident("VmRSS")
    kept = run()
    peak = resident() - before
    del kept
    return peak
