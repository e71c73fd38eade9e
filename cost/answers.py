"""Counts the operations of answers with different lengths and numbers of viewers, in parallel on one local stack.

Every viewer has its own instance, as Cloud Run may distribute them, unless the plan says otherwise. For an unwatched
answer, the client disconnects at once. Reads that only find out whether an answer has ended bypass the counting
proxies.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self

import psutil
from google.auth.credentials import AnonymousCredentials
from google.cloud import firestore

from cost import size
from cost.meter import Doors
from lib.domain.collections import GENERATIONS, JOURNAL, PARTS, REQUEST
from local.client import Client, Stream, question
from local.ports import Ports
from local.stack import Stack
from local.token import PROJECT

DONE = b"data: [DONE]\n\n"
_POLL_SECONDS = 0.5
_PATIENCE_SECONDS = 120.0  # in addition to the time that the answer takes at its rate


class Miscounted(Exception):
    """The counts are not valid. The message says why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """An answer to ask for. `apart`: each viewer is on its own instance."""

    tokens: int
    viewers: int
    apart: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """The answers to ask for, and their rate in tokens per second."""

    answers: tuple[Asked, ...]
    rate: float

    @classmethod
    def of(cls, tokens: Sequence[int], viewers: Sequence[int], rate: float, together: int) -> Self:
        """All lengths with all numbers of viewers, and `together` tokens with all viewers on one instance."""
        answers = [Asked(tokens=length, viewers=number) for length in tokens for number in viewers]
        return cls(answers=(*answers, Asked(tokens=together, viewers=max(viewers), apart=False)), rate=rate)


@dataclass(frozen=True, kw_only=True, slots=True)
class Counted:
    """The counts for one answer. Reads, writes and deletes are Firestore's. Seconds are of open requests.

    Bytes are: stored and expiring, stored permanently, sent to viewers. Deletes include the later ones by TTL.
    """

    asked: Asked
    writes: int
    reads: int
    deletes: int
    task_operations: int
    worker_requests: int
    worker_seconds: float
    api_requests: int
    api_seconds: float
    sent_bytes: int
    expiring_bytes: int
    lasting_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Count:
    """The counts of all answers, and the functions' CPU seconds per second of an open request."""

    rate: float
    answers: tuple[Counted, ...]
    worker_cpu: float
    api_cpu: float


def count(plan: Plan, environ: Mapping[str, str] = os.environ) -> Count:
    """Asks for all answers and counts. Errors: `Miscounted`, and the stack's."""
    ports = Ports.free()
    with Doors(ports) as doors, Stack(ports, doors.settings, environ) as stack:
        apis = [stack.url]
        apis += [stack.add_api(f"api-{n}") for n in range(2, max(asked.viewers for asked in plan.answers) + 1)]
        os.environ["FIRESTORE_EMULATOR_HOST"] = stack.firestore_host  # the only way to configure Google's client
        database: Any = firestore.Client(project=PROJECT, credentials=AnonymousCredentials())

        def had(asked: Asked) -> Counted:
            return _Answer(asked, plan.rate, apis, doors, database).had()

        try:
            had(Asked(tokens=1, viewers=len(apis)))  # so that start-up is not counted
            before = _cpu_seconds(stack)
            with ThreadPoolExecutor(len(plan.answers)) as pool:
                answers = tuple(pool.map(had, plan.answers))
        finally:
            database.close()
        used = {name: seconds - before[name] for name, seconds in _cpu_seconds(stack).items()}
        if strays := dict(doors.tally.counted[None]):
            raise Miscounted(f"this was counted and is no answer's: {strays}")
        doors.close()  # before the stack, whose end gRPC would log here
    return Count(
        rate=plan.rate,
        answers=answers,
        worker_cpu=used["worker"] / sum(answer.worker_seconds for answer in answers),
        api_cpu=used["api"] / sum(answer.api_seconds for answer in answers),
    )


class _Answer:
    """One answer, with its own user."""

    def __init__(self, asked: Asked, rate: float, apis: Sequence[str], doors: Doors, database: Any):
        self._asked = asked
        self._rate = rate
        self._apis = apis
        self._tally = doors.tally
        self._database = database
        self._user = f"cost-{uuid.uuid4().hex}"

    def had(self) -> Counted:
        self._tally.know(self._user)
        began = time.monotonic()
        stream = self._client(0).stream(question("What does this cost?", self._asked.tokens, rate=self._rate))
        stream.response.raise_for_status()
        generation = stream.generation
        if self._asked.viewers:
            with ThreadPoolExecutor(self._asked.viewers) as pool:
                others = [pool.submit(self._come_later, n, generation) for n in range(1, self._asked.viewers)]
                watched = [_watch(stream, began), *(other.result() for other in others)]
        else:
            stream.leave()
            watched = [(time.monotonic() - began, 0)]
        self._wait_until_ended(generation)
        return self._counted(generation, watched)

    def _client(self, instance: int) -> Client:
        return Client(self._apis[instance if self._asked.apart else 0], self._user)

    def _come_later(self, n: int, generation: str) -> tuple[float, int]:
        began = time.monotonic()
        return _watch(self._client(n).resume(generation, 0), began)

    def _wait_until_ended(self, generation: str) -> None:
        deadline = time.monotonic() + self._asked.tokens / self._rate + _PATIENCE_SECONDS
        while not (self._generation(generation)["finishedAt"] and self._tally.counted[self._user]["worker requests"]):
            if time.monotonic() > deadline:
                raise Miscounted(f"{self._asked}: the answer did not end in time")
            time.sleep(_POLL_SECONDS)
        if (state := self._generation(generation)["state"]) != "completed":
            raise Miscounted(f"{self._asked}: the answer is {state}, and not completed")

    def _generation(self, generation: str) -> dict[str, Any]:
        return dict(self._database.document(f"{GENERATIONS}/{generation}").get().to_dict())

    def _counted(self, generation: str, watched: Sequence[tuple[float, int]]) -> Counted:
        message = self._generation(generation)["messagePath"]
        kept = [self._database.document(f"{GENERATIONS}/{generation}").get(), self._database.document(message).get()]
        for collection in (f"{GENERATIONS}/{generation}/{REQUEST}", f"{message}/{JOURNAL}", f"{message}/{PARTS}"):
            kept += self._database.collection(collection).stream()
        sizes = [(size.of_document(each.reference.path, each.to_dict()), "expireAt" in each.to_dict()) for each in kept]
        tally = self._tally.counted[self._user]
        return Counted(
            asked=self._asked,
            writes=int(tally["writes"]),
            reads=int(tally["reads"]),
            deletes=int(tally["deletes"]) + sum(1 for _, expires in sizes if expires),
            task_operations=int(tally["task operations"]),
            worker_requests=int(tally["worker requests"]),
            worker_seconds=tally["worker seconds"],
            api_requests=len(watched),
            api_seconds=sum(seconds for seconds, _ in watched),
            sent_bytes=sum(sent for _, sent in watched),
            expiring_bytes=sum(each for each, expires in sizes if expires),
            lasting_bytes=sum(each for each, expires in sizes if not expires),
        )


def _watch(stream: Stream, began: float) -> tuple[float, int]:
    """Reads a stream to its end. Returns how long its request was open, and how many bytes arrived."""
    with stream:
        stream.response.raise_for_status()
        sent, last = 0, b""
        for piece in stream.response.iter_content(None):
            sent += len(piece)
            last = (last + piece)[-len(DONE) :]
    if last != DONE:
        raise Miscounted(f"a viewer of generation {stream.generation} did not see the end")
    return time.monotonic() - began, sent


def _cpu_seconds(stack: Stack) -> dict[str, float]:
    """The CPU seconds that each function has used so far, including all its processes."""
    used = {"api": 0.0, "worker": 0.0}
    for name, process in stack.processes.items():
        if (function := name.partition("-")[0]) in used:
            parent = psutil.Process(process.pid)
            times = [each.cpu_times() for each in (parent, *parent.children(recursive=True))]
            used[function] += sum(each.user + each.system for each in times)
    return used
