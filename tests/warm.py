"""A Python that has imported the libraries of the local stack's parts, and forks where one would start anew.

Imports are most of what a start costs, and the tests start hundreds of parts. Before the fork nothing of this project
is imported, and nothing that starts a thread. Folder, variables, arguments, output, session, exit code and the end with
this process are those of a process of its own.

Run as `python -m tests.warm LIBRARY…` this is that Python: it ends when its stdin, a socket, does.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import runpy
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parent.parent
GOOGLE = ("google.cloud.firestore_v1", "google.cloud.tasks_v2", "grpc.aio")
PARTS = (*GOOGLE, "aiohttp.web", "google.cloud.firestore_admin_v1", "jwt")
FUNCTIONS = (*GOOGLE, "functions_framework._cli", "functions_framework._http.gunicorn", "gunicorn.workers.gthread")
# gRPC reads this when it is imported: main.py sets it just before.
EXPERIMENTS = {"GRPC_EXPERIMENTS": "-event_engine_client"}
# So begin the names of the variables that the libraries read when they are imported, and those for Python itself.
EARLY = ("PYTHON", "GRPC_", "CLOUDSDK_", "GOOGLE_API_", "HOME", "PORT", "WEB_CONCURRENCY", "FORWARDED_ALLOW_IPS")


class Fork:
    """A fork, with what `Process` uses of a Popen."""

    def __init__(self, told: socket.socket):
        self._told = told
        self._reading = threading.Lock()
        self.pid = int(told.recv(16))
        self.returncode: int | None = None

    def poll(self) -> int | None:
        return self._ended(0.0)

    def wait(self, timeout: float | None = None) -> int:
        if (code := self._ended(timeout)) is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
        return code

    def _ended(self, seconds: float | None) -> int | None:
        with self._reading:
            if self.returncode is None:
                self._told.settimeout(seconds)
                try:
                    code = self._told.recv(16)
                except (BlockingIOError, TimeoutError):
                    return None
                self._told.close()
                self.returncode = int(code)
            return self.returncode


class WarmPython:
    """The running Python, from the first fork on. Its forks end when it is closed or this process is killed."""

    def __init__(self, libraries: Sequence[str], variables: Mapping[str, str] | None = None):
        self._command = [sys.executable, "-m", "tests.warm", *libraries]
        self._environ = {**os.environ, **(variables or {})}
        self._asking, self._asked = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._running: subprocess.Popen[bytes] | None = None
        self._starting = threading.Lock()

    def fork(self, command: Sequence[str], environ: Mapping[str, str], cwd: Path, output: IO[bytes]) -> Fork:
        """Runs `python -m …` in a fork."""
        with self._starting:
            self._running = self._running or subprocess.Popen(
                self._command, cwd=ROOT, env=self._environ, stdin=self._asked, stdout=subprocess.DEVNULL
            )
        told, telling = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with telling:
            asked = json.dumps([[*command[2:]], dict(environ), str(cwd)]).encode()
            socket.send_fds(self._asking, [asked], [output.fileno(), telling.fileno()])
        return Fork(told)

    def close(self) -> None:
        self._asking.close()
        self._asked.close()
        if self._running is not None:
            self._running.wait()


class WarmStart:
    """Starts what `python -m …` is in a fork, and what is something else, or reads other variables early, as usual."""

    def __init__(self, usual: Callable[..., Any]):
        self._usual = usual
        self._parts, self._functions = WarmPython(PARTS), WarmPython(FUNCTIONS, EXPERIMENTS)

    def __call__(self, command: Sequence[str], environ: Mapping[str, str], cwd: Path, output: IO[bytes]) -> Any:
        if [*command[:2]] != [sys.executable, "-m"] or _early(environ) != _early(os.environ):
            return self._usual(command, environ, cwd, output)
        python = self._functions if command[2] == "functions_framework" else self._parts
        return python.fork(command, environ, cwd, output)

    def close(self) -> None:
        self._parts.close()
        self._functions.close()


def _early(environ: Mapping[str, str]) -> dict[str, str]:
    """Without the path of this project, which a module that runs in its folder has anyway."""
    return {
        name: value
        for name, value in environ.items()
        if name.startswith(EARLY) and (name, value) != ("PYTHONPATH", str(ROOT))
    }


def _forking() -> list[Any]:
    """Forks whenever it is asked to. Returns in a fork, with what it was asked for."""
    asking = socket.socket(fileno=0)
    forks: dict[int, tuple[int, int]] = {}
    while True:
        for ready in select.select([0, *forks], [], [])[0]:
            if ready:
                pid, telling = forks.pop(ready)
                os.write(telling, b"%d" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
                os.close(telling)
                os.close(ready)
                continue
            asked, fds, *_ = socket.recv_fds(asking, 1 << 20, 2)
            if not asked:
                sys.exit()
            output, telling = fds
            if (pid := os.fork()) == 0:
                asking.detach()
                os.setsid()
                os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
                os.dup2(output, 1)
                os.dup2(output, 2)
                os.closerange(3, 1 << 16)  # those of the other forks too
                return list(json.loads(asked))
            os.close(output)
            os.write(telling, b"%d" % pid)
            forks[os.pidfd_open(pid)] = pid, telling


if __name__ == "__main__":
    for library in sys.argv[1:]:
        import_module(library)
    libc = ctypes.CDLL(None)
    gc.freeze()  # so that no fork copies what it only looks through
    arguments, environ, folder = _forking()
    libc.prctl(1, 9)  # PR_SET_PDEATHSIG, as local.process sets it
    os.environ.clear()
    os.environ.update(environ)
    os.chdir(folder)
    sys.path[0] = folder
    sys.argv = arguments
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
