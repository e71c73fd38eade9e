"""The CPU seconds and memory of processes, including their child processes."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import psutil

from local.process import Process

Group = Mapping[str, Sequence[Process]]


class Spent:
    """CPU seconds of named groups of processes, and of this process as `client`, since construction.

    A process that ends in between is not counted.
    """

    def __init__(self, groups: Group):
        self._trees = {name: [each for process in group for each in tree(process)] for name, group in groups.items()}
        self._before = self._now()
        self._began = time.monotonic()

    def since(self) -> dict[str, float]:
        """The CPU seconds of each group since construction, and the elapsed seconds as `wall`."""
        now = self._now()
        return {
            **{name: now[name] - self._before[name] for name in now},
            "wall": time.monotonic() - self._began,
        }

    def _now(self) -> dict[str, float]:
        used = {name: sum(map(_cpu, tree)) for name, tree in self._trees.items()}
        return {**used, "client": time.process_time()}


def resident(*processes: Process) -> int:
    """The total bytes of memory in use."""
    return sum(int(each.memory_info().rss) for process in processes for each in tree(process))


def tree(process: Process) -> list[psutil.Process]:
    """The process and its child processes."""
    root = psutil.Process(process.pid)
    return [root, *root.children(recursive=True)]


def _cpu(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)
