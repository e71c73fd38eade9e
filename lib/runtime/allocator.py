"""The C library's allocator, which holds what Python's own does not: buffers, zlib streams, gRPC's calls.

glibc gives threads arenas of their own, eight per CPU. What one thread frees, another one's arena can't use, so a
process in which hundreds of threads take turns holds the free memory of each arena. Python's lock lets one thread
allocate at a time anyway, and gRPC has few threads: two arenas are enough.

It is set here and not by MALLOC_ARENA_MAX, so that it holds however a process is started.
"""

from __future__ import annotations

import ctypes

ARENAS = 2
_M_ARENA_MAX = -8  # malloc.h, of glibc


def limit_arenas() -> None:
    """Limits the arenas of this process and of those that it forks. Call it before threads start.

    Does nothing where the C library has no such limit, as on macOS and with musl.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, ARENAS)
