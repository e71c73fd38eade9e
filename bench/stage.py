"""The systems to measure: the local stack, the peers on the same Firestore emulator, and Redis.

Everything that is started ends with the `with` block, even if the bench is interrupted or killed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from bench.plan import HOLDFAST, INSTANT
from bench.system import Direct, Genkit, Holdfast, Resumable
from bench.usage import tree
from local.ports import HOST, Ports, free_port
from local.process import GRACE_SECONDS, Process
from local.stack import ROOT, Stack
from local.token import PROJECT

NODE = ROOT / "bench" / "node"
MULTIPLEXED = {"FUNCTION_SOURCE": str(ROOT / "bench" / "multiplexed.py")}  # the setting of such functions
READY_SECONDS = 60.0


class Stage:
    """All systems, on free ports. Use it as a context manager, from one thread: a part ends with its thread."""

    def __init__(self, environ: Mapping[str, str] = os.environ):
        self._environ = environ
        self._folder = tempfile.TemporaryDirectory(prefix="bench-")
        self._parts: list[Process] = []
        # All viewers of an answer belong to one user, and how many one process can serve is what is measured.
        self.stack = Stack(Ports.free(), {"MAX_USER_VIEWERS": "2000", "MAX_VIEWERS": "2000"}, environ)

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _start(self) -> None:
        self.stack.start()
        self.direct = Direct(self.stack.upstream_url)
        self.holdfast = self._holdfast(HOLDFAST, self.stack.url, "api", "worker")
        url = self.stack.add_functions(INSTANT, {"FLUSH_SECONDS": "0"})
        self.instant = self._holdfast(INSTANT, url, f"{INSTANT}-api", f"{INSTANT}-worker")
        self.redis = self._redis()
        self.resumable = self._resumable()
        self.genkit = self._genkit_server()

    def _stop(self) -> None:
        for part in reversed(self._parts):
            part.terminate()
        deadline = time.monotonic() + GRACE_SECONDS
        for part in self._parts:
            part.end(deadline)
        self._parts.clear()
        self.stack.stop()
        self._folder.cleanup()

    @property
    def upstream(self) -> Process:
        return self.stack.processes["upstream"]

    @property
    def firestore(self) -> Process:
        return self.stack.processes["firestore"]

    @contextmanager
    def functions(self, name: str, settings: Mapping[str, str] | None = None) -> Iterator[Holdfast]:
        """Another pair of functions, while the block lasts."""
        url = self.stack.add_functions(name, settings or {})
        names = f"{name}-api", f"{name}-worker"
        try:
            yield self._holdfast(name, url, *names)
        finally:
            self.stack.end(*names)

    @contextmanager
    def part(self, name: str, command: Sequence[str], ready: str) -> Iterator[Process]:
        """Another process, while the block lasts. It prints `ready` when it is ready."""
        process = self._run(name, command)
        try:
            process.wait_until(lambda: ready in process.printed, READY_SECONDS)
            yield process
        finally:
            self._end(process)

    @contextmanager
    def other_genkit(self, firestore: str) -> Iterator[Genkit]:
        """Another Genkit server, which uses another Firestore host."""
        genkit = self._genkit_server(firestore)
        try:
            yield genkit
        finally:
            self._end(*genkit.own)

    @contextmanager
    def other_resumable(self, redis: str) -> Iterator[Resumable]:
        """Another server of resumable-stream, which uses another Redis host."""
        resumable = self._resumable(f"redis://{redis}")
        try:
            yield resumable
        finally:
            self._end(*resumable.own)

    @contextmanager
    def distant(self, target: str, seconds: float) -> Iterator[Distant]:
        """A way to a host that is so many seconds away, there and back, while the block lasts."""
        command = [sys.executable, "-m", "bench.distance", "--target", target, "--seconds", str(seconds)]
        with self.part(f"distance-{target.replace(':', '-')}", command, "ready") as process:
            host, url = (re.search(rf"{what}=(\S+)", process.printed) for what in ("tcp", "http"))
            assert host is not None
            assert url is not None
            yield Distant(host[1], url[1])

    def kill_holdfast(self) -> None:
        """Kills the two functions, and waits until nothing listens on their ports."""
        everything = [each for process in self.holdfast.own for each in tree(process)]
        for process in self.holdfast.own:
            process.kill()
        psutil.wait_procs(everything, READY_SECONDS)

    def start_holdfast(self) -> None:
        """Starts the two functions after they were killed, without waiting."""
        for name in ("api", "worker"):
            self.stack.restart(name)
        self.holdfast = self._holdfast(HOLDFAST, self.stack.url, "api", "worker")

    def restart_genkit(self) -> None:
        """Restarts Genkit's server, which discards its pending writes."""
        self._end(*self.genkit.own)
        self.genkit = self._genkit_server()

    def renew_firestore(self) -> None:
        """Restarts Firestore's emulator and Genkit's server.

        After three or four rounds, the emulator sometimes answers every request to delete its data with 500.
        """
        self.firestore.kill()
        self.stack.start_firestore()
        self.holdfast = replace(self.holdfast, store=[self.firestore])
        self.instant = replace(self.instant, store=[self.firestore])
        self.restart_genkit()

    def empty_firestore(self) -> None:
        """Deletes all documents, so that every round starts in the same state."""
        self.stack.empty_firestore()

    def written(self, seed: str) -> list[int]:
        """When the upstream wrote each token of an answer."""
        with urllib.request.urlopen(f"{self.stack.upstream_url}/demo/records/{seed}", timeout=READY_SECONDS) as answer:
            written: list[int] = json.load(answer)
            return written

    def _holdfast(self, name: str, url: str, api: str, worker: str) -> Holdfast:
        parts = self.stack.processes
        return Holdfast(url, name, own=[parts[api], parts[worker]], queue=[parts["tasks"]], store=[parts["firestore"]])

    def _genkit_server(self, firestore: str | None = None) -> Genkit:
        host = firestore or self.stack.firestore_host
        process, url = self._node("genkit", {"FIRESTORE_EMULATOR_HOST": host, "GOOGLE_CLOUD_PROJECT": PROJECT})
        return Genkit(url, own=[process], store=[self.firestore])

    def _redis(self) -> Process:
        port = str(free_port())
        command = ["--port", port, "--bind", HOST, "--save", "", "--appendonly", "no", "--dir", self._folder.name]
        process = self._run("redis", [program("redis-server"), *command])
        process.wait_until(lambda: "Ready to accept connections" in process.printed, READY_SECONDS)
        self.redis_host = f"{HOST}:{port}"
        return process

    def _resumable(self, url: str | None = None) -> Resumable:
        process, url = self._node("resumable", {"REDIS_URL": url or f"redis://{self.redis_host}"})
        return Resumable(url, own=[process], store=[self.redis])

    def _node(self, name: str, settings: Mapping[str, str]) -> tuple[Process, str]:
        port = str(free_port())
        environ = {
            **self._environ,
            "NODE_ENV": "production",
            "PORT": port,
            "UPSTREAM_URL": self.stack.upstream_url,
            **settings,
        }
        process = self._run(name, [program("node"), str(NODE / f"{name}.mjs")], environ)
        process.wait_until(lambda: "ready" in process.printed, READY_SECONDS)
        return process, f"http://{HOST}:{port}"

    def _run(self, name: str, command: Sequence[str], environ: Mapping[str, str] | None = None) -> Process:
        process = Process(name, command, environ or self._environ, Path(self._folder.name), ROOT)
        self._parts.append(process)
        return process

    def _end(self, *processes: Process) -> None:
        for process in processes:
            self._parts.remove(process)
            process.terminate()
            process.end(time.monotonic() + GRACE_SECONDS)


@dataclass(frozen=True, slots=True)
class Distant:
    """A way to a host, and where its distance is set."""

    host: str
    _url: str

    def put(self, seconds: float) -> None:
        """How many seconds it is away from now on, there and back."""
        body = json.dumps({"seconds": seconds}).encode()
        with urllib.request.urlopen(urllib.request.Request(self._url, body), timeout=READY_SECONDS):
            pass


class Missing(Exception):
    """A program that the bench needs is missing. The message is one line with the remedy."""


def program(name: str) -> str:
    """The path of a program. Debian has some in folders that are only in root's PATH. Errors: `Missing`."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        raise Missing(f"There is no {name}: run './local/setup.sh bench'.")
    return found


def text_of(url: str) -> Any:
    """The JSON at a URL."""
    with urllib.request.urlopen(url, timeout=READY_SECONDS) as answer:
        return json.load(answer)
