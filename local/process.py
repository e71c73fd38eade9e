"""One process of the local stack: started in its own process group, and ended with all its child processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Protocol

GRACE_SECONDS = 3.0
_POLL_SECONDS = 0.02
# Linux ends the process when its parent is killed (prctl's PR_SET_PDEATHSIG), so that a killed stack leaves nothing
# behind. An intermediate command sets this, because with a `preexec_fn` Python forks instead of spawning, and the
# threads of an open gRPC channel make the fork abort.
_DIE_WITH_PARENT = (
    [
        sys.executable,
        *("-I", "-S", "-c"),
        "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.execvp(sys.argv[1], sys.argv[1:])",
    ]
    if sys.platform == "linux"
    else []
)


class ProcessFault(Exception):
    """A process did not start, or ended unexpectedly. The message has the end of its output."""


class Started(Protocol):
    """What `Process` uses of a Popen."""

    @property
    def pid(self) -> int: ...

    @property
    def returncode(self) -> int | None: ...

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int:
        """Errors: `subprocess.TimeoutExpired`."""
        ...


def spawn(command: Sequence[str], environ: Mapping[str, str], cwd: Path, output: IO[bytes]) -> Started:
    """Starts a command in a session of its own."""
    return subprocess.Popen(
        [*_DIE_WITH_PARENT, *command],
        env=dict(environ),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


class Process:
    """A running command. Its output is appended to `{folder}/{name}.log`."""

    start = staticmethod(spawn)  # the tests have a cheaper one

    def __init__(self, name: str, command: Sequence[str], environ: Mapping[str, str], folder: Path, cwd: Path):
        self.name = name
        self._waker: subprocess.Popen[bytes] | None = None
        self.log = folder / f"{name}.log"
        self._log_start = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as output:
            self._process = self.start(command, environ, cwd, output)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def wait_until(self, ready: Callable[[], bool], seconds: float) -> None:
        """Errors: `ProcessFault`, if it ends or is not ready in time."""
        deadline = time.monotonic() + seconds
        while not ready():
            if not self.running:
                raise ProcessFault(f"{self.name} ended with code {self._process.returncode}. {self.said()}")
            if time.monotonic() > deadline:
                raise ProcessFault(f"{self.name} was not ready within {seconds:.0f} s. {self.said()}")
            time.sleep(_POLL_SECONDS)

    @property
    def printed(self) -> str:
        """Its output so far, without that of earlier processes with the same name."""
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace")

    def said(self) -> str:
        """The last lines of its output."""
        lines = self.printed.strip().splitlines()
        return "Its last lines:\n  " + "\n  ".join(lines[-8:]) if lines else "It printed nothing."

    def terminate(self) -> None:
        """Sends SIGTERM to the whole group."""
        self._signal(signal.SIGTERM)

    def end(self, deadline: float) -> bool:
        """Waits until `deadline`, then kills what is left of the group. Returns whether the process ended in time."""
        try:
            self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            pass
        ended = not self.running
        self._signal(signal.SIGKILL)
        self._process.wait()
        self.resume()
        return ended

    def kill(self) -> None:
        """Kills the whole group at once, like the loss of a machine."""
        self.end(0.0)

    def pause(self) -> None:
        """Pauses the whole group: its connections stay open, and nothing is read or written."""
        self._signal(signal.SIGSTOP)
        # A paused process can't notice that it is orphaned, so another process ends it if this one is killed.
        self._waker = subprocess.Popen(
            ["/bin/sh", "-c", f"read _ && kill -s CONT -- -{self.pid} || kill -s KILL -- -{self.pid}"],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def resume(self) -> None:
        """Resumes the group. Does nothing if it is not paused."""
        if self._waker is not None:
            self._waker.communicate(b"\n")
            self._waker = None

    def _signal(self, number: signal.Signals) -> None:
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            pass
