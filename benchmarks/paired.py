"""Compares the times and the memory of several ways to do the same.

Every way runs once in each round, one after the other. A ratio of times is
taken within a round, so that another load on the machine slows both sides.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

# The name of each way, and the function that runs it once.
Runs = dict[str, Callable[[], object]]


def times(
    runs: Runs,
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, np.ndarray]:
    """Returns the seconds of each way in each round.

    Two more rounds run first and are not counted.

    Args:
        runs: dict. The ways.
        rounds: int. How many rounds are counted.
        clock: Returns the present time in seconds. With `time.process_time`
            the load of the machine counts less. Defaults to the wall clock.
    """
    table: dict[str, list[float]] = {way: [] for way in runs}
    for _ in range(rounds + 2):
        for way, run in runs.items():
            start = clock()
            run()
            table[way].append(clock() - start)
    return {way: np.array(seconds[2:]) for way, seconds in table.items()}


def median_and_quartiles(ratios: np.ndarray, digits: int = 2) -> str:
    """Returns a text: the median of the ratios, and the quartiles."""
    low, middle, high = (
        f"{x:.{digits}f}" for x in np.percentile(ratios, [25, 50, 75])
    )
    return f"{middle} ({low} to {high})"


def printed_numbers(
    script: str, option: str, ways: Iterable[str], *arguments: str
) -> dict[str, float]:
    """Runs a script once for each way, and returns the last number it prints.

    Args:
        script: str. Path of the script.
        option: str. The option that makes it print a number.
        ways: Iterable of str. The last argument of each run.
        *arguments: str. Arguments between the option and the way.
    """
    numbers = {}
    for way in ways:
        finished = subprocess.run(
            [sys.executable, script, option, *arguments, way],
            capture_output=True,
            text=True,
            check=True,
        )
        numbers[way] = float(finished.stdout.split()[-1])
    return numbers


def resident_memory(field: str = "VmHWM") -> float:
    """Returns this process's resident memory in MiB.

    Args:
        field: str. "VmHWM" is the highest value so far, "VmRSS" the present
            one. Defaults to "VmHWM".
    """
    # Not getrusage, whose peak a process inherits from its parent.
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0]) / 1024


def memory_peak(run: Callable[[], object]) -> float:
    """Returns the MiB that `run` adds at its peak, its result included."""
    # This resets VmHWM to the present size.
    Path("/proc/self/clear_refs").write_text("5")
    before = resident_memory("VmRSS")
    result = run()
    peak = resident_memory() - before
    del result
    return peak
