"""One process of the local stack: started in a group of its own, and ended with everything it started."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

GRACE_SECONDS = 3.0
_POLL_SECONDS = 0.02
_PR_SET_PDEATHSIG = 1


class ProcessFault(Exception):
    """A process did not start, or ended by itself; the message says which, with the end of what it printed."""


class Process:
    """A running command. What it prints goes to `{folder}/{name}.log`."""

    def __init__(self, name: str, command: Sequence[str], environ: Mapping[str, str], folder: Path, cwd: Path):
        self.name = name
        self.log = folder / f"{name}.log"
        with self.log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                env=dict(environ),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def wait_until(self, ready: Callable[[], bool], seconds: float) -> None:
        """Errors: `ProcessFault`, where it ended, or is not ready in time."""
        deadline = time.monotonic() + seconds
        while not ready():
            if not self.running:
                raise ProcessFault(f"{self.name} ended with code {self._process.returncode}. {self.said()}")
            if time.monotonic() > deadline:
                raise ProcessFault(f"{self.name} was not ready within {seconds:.0f} s. {self.said()}")
            time.sleep(_POLL_SECONDS)

    def said(self) -> str:
        """The last lines it printed."""
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return "Its last lines:\n  " + "\n  ".join(lines[-8:]) if lines else "It printed nothing."

    def terminate(self) -> None:
        """Asks the whole group to end."""
        self._signal(signal.SIGTERM)

    def end(self, deadline: float) -> None:
        """Waits for it until `deadline`, then kills what is left of its group."""
        try:
            self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            pass
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            pass


def _die_with_parent() -> None:
    """Linux ends the process when its parent is killed, so that even a killed stack leaves nothing behind."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
