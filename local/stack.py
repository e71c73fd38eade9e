"""The local stack: the emulators, the demo upstream and both functions, as processes that start and end together.

`python -m local.stack` runs it in the foreground until Ctrl-C or SIGTERM, or until one part dies. Tests and the demo
use `Stack` on free ports. Nothing is left running afterwards.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from local import firestore_emulator, queue
from local.firestore_emulator import EmulatorMissing
from local.ports import HOST, PortFault, Ports, free_port
from local.probe import answers
from local.process import GRACE_SECONDS, Process, ProcessFault
from local.strict import Strict
from local.token import PROJECT
from operations.rules import rules_for

ROOT = Path(__file__).resolve().parent.parent
READY_SECONDS = 60.0
INVOKER = f"invoker@{PROJECT}.iam.gserviceaccount.com"
LOCATION = "us-central1"
QUEUE = f"projects/{PROJECT}/locations/{LOCATION}/queues/holdfast"
THREADS = "320"
_WATCH_SECONDS = 0.2


class Stack:
    """All parts, on `ports`. Start it with `start` or use it as a context manager.

    `settings` are additional variables for both functions. If they include UPSTREAM_BASE_URL, no demo upstream is
    started. With `strict`, the functions reach Firestore through a proxy and are reached through front ends. All but
    Firestore is its own if it is `beside` a running stack, whose Firestore it uses.
    """

    def __init__(
        self,
        ports: Ports,
        settings: Mapping[str, str] | None = None,
        environ: Mapping[str, str] = os.environ,
        strict: Strict | None = None,
        beside: Stack | None = None,
    ):
        self._own_ports = ports
        self._beside = beside
        self.strict = strict
        self._settings = {**(strict.settings if strict else {}), **(settings or {})}
        self._environ = environ
        self._behind: dict[str, str] = {}  # the functions' own URLs, where a front end has the public one
        self._folder = tempfile.TemporaryDirectory(prefix="holdfast-")
        self.processes: dict[str, Process] = {}
        self._urls = {"api": self.url, "worker": self.worker_url}

    @property
    def ports(self) -> Ports:
        if self._beside is None:
            return self._own_ports
        return replace(self._own_ports, firestore_port=self._beside.ports.firestore_port)

    @property
    def worker_url(self) -> str:
        """The private function's URL, which receives tasks."""
        return f"http://{HOST}:{self.ports.worker_port}/"

    @property
    def url(self) -> str:
        """The public function's URL."""
        return f"http://{HOST}:{self.ports.api_port}"

    @property
    def upstream_url(self) -> str:
        return f"http://{HOST}:{self.ports.upstream_port}"

    @property
    def firestore_host(self) -> str:
        return f"{HOST}:{self.ports.firestore_port}"

    @property
    def functions_firestore_host(self) -> str:
        """What the functions use: in a strict stack the proxy before the emulator."""
        return self._side("firestore-proxy", "grpc") if self.strict else self.firestore_host

    @property
    def tasks_host(self) -> str:
        return f"{HOST}:{self.ports.tasks_port}"

    def start(self) -> Self:
        """Starts all parts and waits until each answers. Errors: `PortFault`, `EmulatorMissing`, `ProcessFault`."""
        self._own_ports.check()
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def _start(self) -> None:
        if self._beside is None:
            self._firestore()
        faults = ["--faults", json.dumps(self.strict.tasks)] if self.strict else []
        tasks_port = ["--port", str(self.ports.tasks_port)]
        self._run("tasks", [sys.executable, "-m", "local.tasks_emulator", *tasks_port, *faults])
        if self.strict:
            command = ["-m", "local.firestore_proxy", "--target", self.firestore_host, "--port=0"]
            self._run("firestore-proxy", [sys.executable, *command, "--faults", json.dumps(self.strict.firestore)])
        if "UPSTREAM_BASE_URL" not in self._settings:
            self._run(
                "upstream", [sys.executable, "-m", "local.demo_upstream", "--port", str(self.ports.upstream_port)]
            )
            self._wait("upstream", lambda: answers(f"{self.upstream_url}/v1/models"))
        self.tasks_http = self._side("tasks")
        self._function("api")
        self._function("worker")
        if self._beside is None:
            self.wait_for("firestore")
        self._queues(self._function_settings())
        self.wait_for("api")
        self.wait_for("worker")
        if self.strict:
            self._wait("firestore-proxy", self._has_indexes)

    def wait_for(self, name: str) -> None:
        """Waits until Firestore, or a function, answers. Errors: `ProcessFault`."""
        match name:
            case "firestore":
                self._wait(name, lambda: answers(f"http://{self.firestore_host}/"))
            case _ if _target(name) == "api":
                self._wait(name, lambda: answers(f"{self.own_url(name)}/healthz"))
            case _:
                self._wait(name, lambda: answers(self.own_url(name), refused=401))

    def restart(self, name: str, settings: Mapping[str, str] | None = None) -> None:
        """Starts a function again after it has ended, without waiting. `settings` override the stack's own."""
        self._function(name, settings)

    def add_worker(self, name: str) -> str:
        """Starts another worker, which the queue does not know, and returns its URL.

        It accepts the same tokens as the first one.
        """
        return self._add(name, f"http://{HOST}:{free_port()}/")

    def add_api(self, name: str) -> str:
        """Starts another public function and returns its URL."""
        return self._add(name, f"http://{HOST}:{free_port()}")

    def _add(self, name: str, url: str) -> str:
        self._urls[name] = url
        self._function(name)
        self.wait_for(name)
        return self._urls[name]

    def add_functions(self, name: str, settings: Mapping[str, str]) -> str:
        """Starts another pair of functions with additional settings, on the same emulators. Returns the public URL.

        Their processes are `{name}-api` and `{name}-worker`, and they use only each other.
        """
        api, worker = f"{name}-api", f"{name}-worker"
        self._urls |= {api: f"http://{HOST}:{free_port()}", worker: f"http://{HOST}:{free_port()}/"}
        self._queues({**self._function_settings(), **settings})
        for function in (api, worker):
            self._function(function, {**settings, "WORKER_URL": self._urls[worker]})
        self.wait_for(api)
        self.wait_for(worker)
        return self._urls[api]

    def end(self, *names: str) -> None:
        """Ends parts that were added."""
        fronts = [front for name in names if (front := f"front-{name}") in self.processes]
        ending = [self.processes.pop(name) for name in (*fronts, *names)]
        for process in ending:
            process.terminate()
        deadline = time.monotonic() + GRACE_SECONDS
        for process in ending:
            process.end(deadline)
        for name in names:
            self._behind.pop(name, None)

    def empty_firestore(self) -> None:
        """Deletes all documents in Firestore."""
        firestore_emulator.empty(self.ports.firestore_port, PROJECT)

    def save_firestore(self) -> Path:
        """Saves Firestore's current data, for `start_firestore`."""
        folder = tempfile.mkdtemp(dir=self._folder.name)
        return firestore_emulator.save(self.ports.firestore_port, PROJECT, Path(folder))

    def start_firestore(self, saved: Path | None = None) -> None:
        """Starts Firestore again after it has ended, with the saved data or empty, and waits for it."""
        self._firestore(saved)
        self.wait_for("firestore")

    @property
    def firestore_faults_url(self) -> str:
        """Where a strict stack's Firestore shows its faults, and takes others. See `local.firestore_proxy.faults`."""
        return f"{self._side('firestore-proxy')}/faults"

    def _has_indexes(self) -> bool:
        with urllib.request.urlopen(self.firestore_faults_url, timeout=READY_SECONDS) as shown:
            return not json.load(shown)["building"]

    def _firestore(self, saved: Path | None = None) -> None:
        rules = Path(self._folder.name, "firestore.rules")
        rules.write_text(rules_for({**self._environ, **self._settings}), encoding="utf-8")
        port = self.ports.firestore_port
        self._run("firestore", firestore_emulator.command(port, PROJECT, rules, self._environ, saved))

    def _side(self, name: str, what: str = "http") -> str:
        """The address that a part prints when it is ready."""
        process = self.processes[name]
        self._wait(name, lambda: "\n" in process.printed)
        found = re.search(rf"{what}=(\S+)", process.printed)
        return found.group(1) if found else ""

    def _queues(self, settings: Mapping[str, str]) -> None:
        """Creates the queues that functions with these settings use, unless they exist."""
        parent, _, _ = QUEUE.partition("/locations/")
        place, name = settings.get("TASKS_LOCATION") or LOCATION, settings.get("TASKS_QUEUE") or "holdfast"
        shards = int(settings.get("TASKS_QUEUES") or 1)
        queue.create(self.tasks_host, f"{parent}/locations/{place}/queues/{name}", READY_SECONDS, shards)

    def _function_settings(self) -> dict[str, str]:
        return {
            **self._environ,
            "PYTHONPATH": str(ROOT),
            "THREADS": THREADS,
            "GOOGLE_CLOUD_PROJECT": PROJECT,
            "FIRESTORE_EMULATOR_HOST": self.functions_firestore_host,
            # Nothing has to listen there: it makes the api accept unsigned tokens.
            "FIREBASE_AUTH_EMULATOR_HOST": self._environ.get("FIREBASE_AUTH_EMULATOR_HOST", f"{HOST}:9099"),
            "TASKS_EMULATOR_HOST": self.tasks_host,
            "WORKER_URL": self.worker_url,
            "TASKS_INVOKER": INVOKER,
            "OIDC_CERTS_URL": f"{self.tasks_http}/certs",
            "UPSTREAM_BASE_URL": f"{self.upstream_url}/v1",
            **(
                {}
                if "UPSTREAM_BASE_URL" in self._settings
                else {"UPSTREAM_SPEAKS": "chat_completions,messages,responses,gemini"}
            ),
            "UPSTREAM_MODELS": self._environ.get("UPSTREAM_MODELS") or "*",
            **self._settings,
        }

    def url_of(self, name: str) -> str:
        """A function's URL, as its callers have it."""
        return self._urls[name]

    def own_url(self, name: str) -> str:
        """A function's URL without its front end."""
        return self._behind.get(name, self._urls[name])

    def _function(self, name: str, settings: Mapping[str, str] | None = None) -> None:
        environ = {**self._function_settings(), **(settings or {})}
        if self.strict and name not in self._behind:
            self._front(name, self.strict, environ)
        port = str(urlsplit(self.own_url(name)).port)
        command = ["-m", "functions_framework", "--target", _target(name), "--host", HOST, "--port", port]
        self._run(name, [sys.executable, *command], environ)

    def _front(self, name: str, strict: Strict, environ: Mapping[str, str]) -> None:
        """Starts the front end of a function, which outlives it. The worker is private."""
        self._behind[name] = f"http://{HOST}:{free_port()}"
        limits = dict(strict.front)
        if _target(name) == "worker":
            private = {"invoker": INVOKER, "audience": environ["WORKER_URL"], "certs_url": environ["OIDC_CERTS_URL"]}
            limits |= {**private, **strict.worker_front}
        port = str(urlsplit(self._urls[name]).port)
        command = ["-m", "local.front_end", "--target", self._behind[name], "--port", port]
        self._run(f"front-{name}", [sys.executable, *command, "--limits", json.dumps(limits)])
        self._side(f"front-{name}")

    def _run(self, name: str, command: list[str], environ: Mapping[str, str] | None = None) -> None:
        self.processes[name] = Process(
            name, command, self._environ if environ is None else environ, Path(self._folder.name), ROOT
        )

    def _wait(self, name: str, ready: Callable[[], bool]) -> None:
        self.processes[name].wait_until(ready, READY_SECONDS)

    def dead(self) -> Process | None:
        """The first part that has ended on its own."""
        return next((process for process in self.processes.values() if not process.running), None)

    def stop(self) -> None:
        """Ends all parts and their child processes."""
        # The functions end first, so that they do not log errors about missing parts.
        for process in reversed(self.processes.values()):
            process.terminate()
        deadline = time.monotonic() + GRACE_SECONDS
        for process in self.processes.values():
            process.end(deadline)
        self.processes.clear()
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()


def _target(function: str) -> str:
    return "api" if "api" in function.split("-") else "worker"


def run(environ: Mapping[str, str]) -> int:
    """Runs the stack in the foreground until a signal or until a part dies. Returns the exit code."""
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: ended.set())
    settings = {name: environ[name] for name in ("UPSTREAM_BASE_URL", "UPSTREAM_API_KEY") if environ.get(name)}
    try:
        stack = Stack(Ports.from_env(environ), settings, environ, Strict.from_env(environ)).start()
    except (ValueError, PortFault, EmulatorMissing, ProcessFault) as fault:
        print(fault, file=sys.stderr)
        return 1
    try:
        print(f"ready {stack.url}", flush=True)
        while not ended.wait(_WATCH_SECONDS):
            if (dead := stack.dead()) is not None:
                print(f"{dead.name} ended unexpectedly. {dead.said()}", file=sys.stderr)
                return 1
        return 0
    finally:
        stack.stop()


if __name__ == "__main__":
    sys.exit(run(os.environ))
