"""The C library's allocator has few arenas, in whatever way the process was started."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from lib.runtime.allocator import ARENAS
from local.stack import ROOT

_ALLOCATE = """
import ctypes, threading
{start}
met = threading.Barrier(20)

def hold():
    kept = bytes(100_000)
    met.wait(30)

threads = [threading.Thread(target=hold) for _ in range(20)]
for each in threads:
    each.start()
for each in threads:
    each.join()
ctypes.CDLL(None).malloc_stats()  # writes a paragraph for each arena to stderr
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_stats"), reason="not glibc")
def test_the_threads_of_a_function_share_few_arenas() -> None:
    assert _arenas("import main") == ARENAS < _arenas("")


def _arenas(start: str) -> int:
    run = [sys.executable, "-c", _ALLOCATE.format(start=start)]
    ended = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    return ended.stderr.count("Arena ")
