"""The stage of a round: the real local stack, and access to its parts from outside."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
import requests
from google.auth.credentials import AnonymousCredentials
from google.cloud import firestore, tasks_v2
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcTransport

from chaos.plan import Plan
from chaos.question import Question
from chaos.upstreams import upstreams
from lib.domain.task import Task
from local.ports import Ports
from local.stack import INVOKER, QUEUE, Stack
from local.strict import Strict
from local.token import PROJECT

WAIT_SECONDS = 30.0


class Stage:
    """A running stack on free ports. Use it as a context manager, from one thread: a part ends with its thread."""

    def __init__(self, plan: Plan, environ: Mapping[str, str] = os.environ):
        self.plan = plan
        self._folder = tempfile.TemporaryDirectory(prefix="chaos-")
        self._upstreams = Path(self._folder.name) / "upstreams.toml"
        settings = {
            "UPSTREAMS_FILE": str(self._upstreams),
            "LEASE_SECONDS": str(plan.lease),
            "RESPONSE_SECONDS": str(plan.response),
            "KEEPALIVE_SECONDS": "1",
            "COUNT_USAGE": "on",
        }
        strict = Strict.from_env(environ, default="1") or Strict()  # the faults of Firestore need its proxy
        self.stack = Stack(Ports.free(), settings, environ, strict)

    def __enter__(self) -> Self:
        self._upstreams.write_text(upstreams(self.stack.upstream_url, self.plan.idle))
        self.stack.start()
        os.environ["FIRESTORE_EMULATOR_HOST"] = self.stack.firestore_host  # the only way to configure Google's client
        self.database: Any = firestore.Client(project=PROJECT, credentials=AnonymousCredentials())
        self._tasks_channel = grpc.insecure_channel(self.stack.tasks_host)
        self._queue = tasks_v2.CloudTasksClient(transport=CloudTasksGrpcTransport(channel=self._tasks_channel))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.database.close()
        self._tasks_channel.close()
        self.stack.stop()
        self._folder.cleanup()

    def fault_queue(self, **faults: float | bool) -> None:
        """Sets the queue's faults, in the format of `local.tasks_emulator`."""
        requests.post(f"{self.stack.tasks_http}/faults", json=faults, timeout=WAIT_SECONDS).raise_for_status()

    def fault_firestore(self, **faults: Any) -> None:
        """Sets Firestore's faults, in the format of `local.firestore_proxy.faults`."""
        requests.post(self.stack.firestore_faults_url, json=faults, timeout=WAIT_SECONDS).raise_for_status()

    def firestore_made(self) -> dict[str, int]:
        """How often each fault of Firestore has struck since they were set."""
        return self._firestore_shows("made")  # type: ignore[no-any-return]

    def wait_for_commits(self) -> None:
        """Waits until no commit is under way. Errors: `TimeoutError`."""
        deadline = time.monotonic() + WAIT_SECONDS
        while self._firestore_shows("committing"):
            if time.monotonic() > deadline:
                raise TimeoutError("a commit does not end")
            time.sleep(0.05)

    def _firestore_shows(self, name: str) -> Any:
        return requests.get(self.stack.firestore_faults_url, timeout=WAIT_SECONDS).json()[name]

    def recorded(self, question: Question) -> list[float]:
        """When each token of a question that is recorded was sent, in seconds on the monotonic clock."""
        times = requests.get(f"{self.stack.upstream_url}/demo/records/{question.name}", timeout=WAIT_SECONDS).json()
        return [nanoseconds / 1e9 for nanoseconds in times]

    def send_task(self, question: Question, generation: str, worker_url: str) -> None:
        """Creates another task for a generation, for any worker, like a queue that delivers twice."""
        task = tasks_v2.Task(
            http_request=tasks_v2.HttpRequest(
                http_method=tasks_v2.HttpMethod.POST,
                url=worker_url,
                headers={"Content-Type": "application/json"},
                body=Task(generation, question.path).encode(),
                oidc_token=tasks_v2.OidcToken(service_account_email=INVOKER, audience=self.stack.worker_url),
            )
        )
        self._queue.create_task(parent=QUEUE, task=task, timeout=WAIT_SECONDS)

    def wait_for_an_empty_queue(self, seconds: float) -> bool:
        """Waits until the queue has no tasks. Returns False on time-out."""
        deadline = time.monotonic() + seconds
        while list(self._queue.list_tasks(parent=QUEUE, timeout=WAIT_SECONDS)):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        return True

    def clear(self) -> None:
        """Deletes what earlier rounds left: the upstream's record of calls, and Firestore's documents."""
        requests.delete(f"{self.stack.upstream_url}/demo/calls", timeout=WAIT_SECONDS).raise_for_status()
        self.stack.empty_firestore()

    def calls(self) -> dict[str, list[dict[str, Any]]]:
        """The upstream's calls, by the answer's seed."""
        every = requests.get(f"{self.stack.upstream_url}/demo/calls", timeout=WAIT_SECONDS).json()
        found: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for call in every:
            found[call["seed"]].append(call)
        return found

    def generated(self, path: str) -> tuple[str, ...]:
        """The events of an answer that the upstream has at `path`."""
        return data_in(requests.get(f"{self.stack.upstream_url}{path}", timeout=WAIT_SECONDS).content)

    def open_calls(self, questions: Iterable[Question], seconds: float) -> dict[str, int]:
        """Waits up to `seconds` until the questions have no open upstream call. Returns how many of each still are."""
        names = {question.name for question in questions}
        deadline = time.monotonic() + seconds
        while True:
            still = {seed: sum(call["ended"] is None for call in calls) for seed, calls in self.calls().items()}
            still = {seed: number for seed, number in still.items() if number and seed in names}
            if not still or time.monotonic() > deadline:
                return still
            time.sleep(0.05)

    def errors(self) -> list[str]:
        """The last lines of level ERROR in each function's log, with their stacks."""
        lines = []
        for name, process in self.stack.processes.items():
            if name == "api" or name.startswith("worker"):
                lines += [f"{name}: {line}" for line in errors(process.log.read_text(errors="replace"))[-20:]]
        return lines


def data_in(stream: bytes) -> tuple[str, ...]:
    """The data of a stream's events, in whatever valid way it is written."""
    blocks = [block.split("\n") for block in stream.decode().replace("\r\n", "\n").split("\n\n")]
    data = [[line[5:].removeprefix(" ") for line in block if line.startswith("data:")] for block in blocks]
    return tuple("\n".join(lines) for lines in data if lines)


def errors(log: str) -> list[str]:
    """The lines of a log of level ERROR or above, with stacks, and everything that is not a log line."""
    found: list[str] = []
    for line in log.splitlines():
        try:
            told = json.loads(line)
            if told["severity"] in ("ERROR", "CRITICAL"):
                found += [f"{told['severity']} {told['message']}", *told.get("stack_trace", "").splitlines()]
        except (ValueError, TypeError, KeyError):
            found.append(line)
    return found
