"""The faults of the service's parts and of its upstream, one class each, and what is promised nevertheless."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import requests
from google.cloud.firestore_v1.base_query import FieldFilter

from chaos.fault import Fault, WorkerFault
from chaos.neighbours import UserHogs, WorkerDiesWithForty
from chaos.plan import Plan
from chaos.promise import Promise
from chaos.question import CHAT, Question
from chaos.round import Round
from chaos.stage import WAIT_SECONDS, Stage
from lib.domain.collections import GENERATIONS, JOURNAL
from local.client import Client
from local.ports import HOST
from local.token import id_token

DRAIN_SECONDS = 0.3  # until messages between two parts have arrived
CLOSE_SECONDS = 5.0  # for the upstream to notice that a call was closed
RAISING = Path(__file__).with_name("raising.py")
QUIET_SECONDS = 3.0  # enough for a worker that has lost its generations to write, if it were to


class WorkerKilled(WorkerFault):
    """The worker's machine is lost, and is replaced at once."""

    key = "worker-killed"
    title = "worker killed"
    recovery = "the kill"

    def strike(self, on: Round) -> None:
        on.wait_until_streaming()
        worker = on.stage.stack.processes["worker"]
        worker.kill()
        on.recovers_from_now()
        on.stage.stack.restart("worker")
        time.sleep(DRAIN_SECONDS)
        on.keep()


class WorkerEnds(WorkerFault):
    """The worker gets SIGTERM, as from the platform, and is started again after it has ended."""

    key = "worker-ends"
    title = "worker told to end"
    no_more = False
    recovery = "the signal"

    def tokens(self, plan: Plan) -> tuple[int, int]:
        return plan.tokens[0], round(1.5 * plan.tokens[1])

    def strike(self, on: Round) -> None:
        on.wait_until_streaming()
        on.keep()
        worker = on.stage.stack.processes["worker"]
        worker.terminate()
        on.recovers_from_now()
        worker.end(time.monotonic() + on.plan.grace)
        on.stage.stack.restart("worker")
        on.keep()


class WorkerFrozen(WorkerFault):
    """The worker is paused for longer than its lease, another one takes over, and then the first one resumes."""

    key = "worker-frozen"
    title = "worker frozen past its lease"
    recovery = "its lease's end"
    rival = "worker-2"

    def begin(self, on: Round) -> None:
        self._rival_url = on.stage.stack.add_worker(self.rival)

    def strike(self, on: Round) -> None:
        on.wait_until_streaming()
        frozen = on.stage.stack.processes["worker"]
        frozen.pause()
        wakes = time.monotonic() + on.plan.frozen
        time.sleep(DRAIN_SECONDS)
        on.keep()
        time.sleep(on.plan.lease)
        on.recovers_from_now()
        for asked in on.asked:
            if asked.generation is not None:
                on.stage.send_task(asked.question, asked.generation, self._rival_url)
        time.sleep(max(0.0, wakes - time.monotonic()))
        on.read(on.ended())
        frozen.resume()
        self._woken = time.monotonic()

    def settle(self, on: Round) -> None:
        time.sleep(max(0.0, self._woken + QUIET_SECONDS - time.monotonic()))

    def restore(self, stage: Stage) -> None:
        stage.stack.processes["worker"].resume()
        if self.rival in stage.stack.processes:
            stage.stack.end(self.rival)


class ApiKilled(Fault):
    """All viewers lose their connections at once, and a new instance has to serve them all."""

    key = "api-killed"
    title = "api killed"
    recovery = "the kill"

    def strike(self, on: Round) -> None:
        on.wait_until_streaming()
        on.keep()
        on.stage.stack.processes["api"].kill()
        on.recovers_from_now(reopened=True)
        on.stage.stack.restart("api")


class FirestoreFrozen(Fault):
    """Firestore accepts calls but does not respond, for longer than a lease."""

    key = "firestore-frozen"
    title = "Firestore frozen"
    recovery = "the thaw"

    def tokens(self, plan: Plan) -> tuple[int, int]:
        return round(plan.rate * plan.frozen * 0.3), round(plan.rate * (plan.frozen + 2))

    def strike(self, on: Round) -> None:
        on.wait_until_streaming()
        on.keep()
        firestore = on.stage.stack.processes["firestore"]
        firestore.pause()
        time.sleep(on.plan.frozen)
        firestore.resume()
        on.recovers_from_now()

    def restore(self, stage: Stage) -> None:
        stage.stack.processes["firestore"].resume()


class FirestoreRestarted(Fault):
    """Firestore goes down with all its connections, and comes back with what was committed."""

    key = "firestore-restarted"
    title = "Firestore restarted"
    recovery = "its return"

    def strike(self, on: Round) -> None:
        on.wait_until_streaming()
        stack = on.stage.stack
        functions = [stack.processes[name] for name in ("api", "worker")]
        # Nobody may commit between saving the data and the end: the commit would be acknowledged but not saved.
        for function in functions:
            function.pause()
        time.sleep(DRAIN_SECONDS)
        on.keep()
        saved = stack.save_firestore()
        stack.processes["firestore"].kill()
        for function in functions:
            function.resume()
        time.sleep(on.plan.down)
        stack.start_firestore(saved)
        on.recovers_from_now()

    def restore(self, stage: Stage) -> None:
        for name in ("api", "worker"):
            stage.stack.processes[name].resume()


class CommitsFail(Fault):
    """A fifth of all commits fail, and half of those take effect nevertheless."""

    key = "commits-fail"
    title = "commits that fail"
    share = 0.2

    def begin(self, on: Round) -> None:
        on.stage.fault_firestore(share=self.share, done=0.5, seed=on.chance.randrange(1 << 30))

    def settle(self, on: Round) -> None:
        if not on.stage.firestore_made().keys() - {"reads", "contention", "unindexed"}:
            on.broken.append("expected commits to fail, none did: the round shows nothing")

    def restore(self, stage: Stage) -> None:
        stage.fault_firestore(share=0)


class ReadsFail(Fault):
    """A twentieth of all reads fail: documents, queries and counts."""

    key = "reads-fail"
    title = "reads that fail"
    share = 0.05

    def begin(self, on: Round) -> None:
        usual = on.stage.stack.strict
        self._usual = usual.firestore.get("reads", 0) if usual else 0
        on.stage.fault_firestore(reads=self.share, seed=on.chance.randrange(1 << 30))

    def settle(self, on: Round) -> None:
        if not on.stage.firestore_made().get("reads"):
            on.broken.append("expected reads to fail, none did: the round shows nothing")

    def restore(self, stage: Stage) -> None:
        stage.fault_firestore(reads=self._usual)


class CommitsRefused(Fault):
    """No commit succeeds for minutes, while reads work and a page lists generations. None may be given up."""

    key = "commits-refused"
    title = "commits refused, reads working"
    recovery = "the first commit taken"
    list_seconds = 4.0

    def tokens(self, plan: Plan) -> tuple[int, int]:
        return plan.tokens[0], round(plan.rate * plan.refused * 1.05)

    def strike(self, on: Round) -> None:
        on.wait_until_streaming()
        on.keep()
        on.stage.fault_firestore(share=1, done=0)
        until = time.monotonic() + on.plan.refused
        clients = [Client(on.stage.stack.url, asked.question.user) for asked in on.asked]
        while (left := until - time.monotonic()) > 0:
            for client in clients:
                list(client.list())
            time.sleep(min(self.list_seconds, left))
        on.stage.fault_firestore(share=0)
        on.recovers_from_now()
        for client in clients:
            client.session.close()

    def restore(self, stage: Stage) -> None:
        stage.fault_firestore(share=0, done=0.5)


class TasksTwice(Fault):
    """Every task is delivered twice, at the same time."""

    key = "tasks-twice"
    title = "tasks delivered twice"

    def begin(self, on: Round) -> None:
        on.stage.fault_queue(duplicate=2)

    def restore(self, stage: Stage) -> None:
        stage.fault_queue(duplicate=1)


class TasksLate(Fault):
    """Every task is delivered late, and again after its generation has ended."""

    key = "tasks-late"
    title = "tasks delivered late"

    def begin(self, on: Round) -> None:
        on.stage.fault_queue(late=on.plan.late)

    def settle(self, on: Round) -> None:
        on.read(on.asked)
        for asked in on.asked:
            if asked.generation is not None:
                on.stage.send_task(asked.question, asked.generation, on.stage.stack.worker_url)
        if not on.stage.wait_for_an_empty_queue(on.plan.late + WAIT_SECONDS):
            on.broken.append("expected a task of a generation that has ended to be done with, it is tried again")

    def restore(self, stage: Stage) -> None:
        stage.fault_queue(late=0)


class QueueUnreachable(Fault):
    """No task can be created, so requests are refused with a clear error and leave nothing. Later ones work."""

    key = "queue-unreachable"
    title = "task queue unreachable"
    recovery = "its return"

    def begin(self, on: Round) -> None:
        on.stage.fault_queue(unavailable=True)
        with ThreadPoolExecutor(len(on.asked)) as pool:
            for sentences in pool.map(lambda asked: self._refused(on, asked.question), on.asked):
                on.broken += sentences
        on.stage.fault_queue(unavailable=False)
        on.recovers_from_now()

    def _refused(self, on: Round, question: Question) -> list[str]:
        """The broken promises for a request that can't be enqueued."""
        client = Client(on.stage.stack.url, question.user)
        answer = client.complete(question.body, X_Chat_Id=CHAT, X_Message_Id=question.name)
        broken = []
        said = (answer.status_code, _error_code(answer))
        if said != (503, "queue_unavailable"):
            broken.append(f"{question.name}: expected status 503 with the code queue_unavailable, got {said}")
        database = on.stage.database
        message = database.document(question.path)
        mine = FieldFilter("owner", "==", question.user)
        left = [
            *([message] if message.get(timeout=WAIT_SECONDS).exists else []),
            *(document.reference for document in message.collection(JOURNAL).stream(timeout=WAIT_SECONDS)),
            *(each.reference for each in database.collection(GENERATIONS).where(filter=mine).stream()),
        ]
        if left:
            broken.append(f"{question.name}: expected nothing to be left, found {[each.path for each in left]}")
        if listed := list(client.list()):
            broken.append(f"{question.name}: expected an empty list, found {listed}")
        client.session.close()
        return broken

    def restore(self, stage: Stage) -> None:
        stage.fault_queue(unavailable=False)


class UpstreamFaults(Fault):
    """Each upstream call has a random fault. Half of the upstreams support continuation."""

    key = "upstream-faults"
    title = "upstream faults"

    # The kinds, by whether the fault is transient.
    passing = ("break", "reset", "close", "stall", "error_event")
    lasting = ("malformed_json",)
    harmless = ("no_done", "split", "gzip", "crlf", "no_space", "multi_line", "comments", "null_error")
    before = ("refuse twice", "rate limit", "refuse for good")

    def question(self, on: Round, name: str, place: int) -> Question:
        kinds = (*self.passing, *self.lasting, on.chance.choice(self.harmless), "no_done", *self.before)
        kind = kinds[place % len(kinds)] if on.plan.load >= 2 * len(kinds) else on.chance.choice(kinds)
        tokens = on.chance.randint(*self.tokens(on.plan))
        return Question(
            name=name,
            tokens=tokens,
            rate=on.plan.rate,
            prefill=on.chance.random() < 0.5,
            fault=self._fault(kind, on.chance, tokens),
        )

    def _fault(self, kind: str, chance: random.Random, tokens: int) -> dict[str, Any]:
        at = chance.randint(1, tokens - 1)
        match kind:
            case "reset":
                return {"kind": "break", "at": at, "reset": True, "times": 1}
            case "refuse twice":
                return {"kind": "refuse", "status": chance.choice((500, 503, 529)), "times": 2}
            case "rate limit":
                return {"kind": "refuse", "status": 429, "retry_after": 1, "times": 1}
            case "refuse for good":
                return {"kind": "refuse", "status": chance.choice((400, 401, 404, 422))}
            case "split":
                return {"kind": "split", "bytes": chance.randint(1, 40)}
            case _ if kind in self.harmless:
                return {"kind": kind}
            case _:
                return {"kind": kind, "at": at, "times": 1}

    def promise(self, plan: Plan, question: Question) -> Promise:
        fault = question.fault or {}
        kind, times = fault["kind"], fault.get("times")
        if kind == "refuse":
            return Promise(calls=times + 1) if times else Promise(states=frozenset({"failed"}), tokens=0, calls=1)
        if kind in self.harmless:
            return Promise(calls=1)
        if question.prefill and kind not in self.lasting:
            return Promise(calls=2)
        return Promise(states=frozenset({"incomplete"}), tokens=fault["at"], calls=1)


class StoppedWhileMute(Fault):
    """Users stop answers whose upstream has not sent its status line. No call may stay open: each costs money."""

    key = "stopped-mute"
    title = "stopped while the upstream is mute"
    leaves = 0

    def question(self, on: Round, name: str, place: int) -> Question:
        return Question(name=name, tokens=on.chance.randint(*self.tokens(on.plan)), rate=on.plan.rate, mute=3600.0)

    def strike(self, on: Round) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while len(on.stage.calls()) < len(on.asked) and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(on.chance.uniform(0.0, 0.5))
        with ThreadPoolExecutor(len(on.asked)) as pool:
            list(pool.map(lambda asked: self._stop(on, asked.question), on.asked))
        if still := on.stage.open_calls(CLOSE_SECONDS):
            on.broken.append(f"expected no upstream call to stay open, {still} did")

    def _stop(self, on: Round, question: Question) -> None:
        client = Client(on.stage.stack.url, question.user)
        for generation in client.list():
            client.request("POST", f"/v1/generations/{generation['id']}/stop")
        client.session.close()

    def promise(self, plan: Plan, question: Question) -> Promise:
        return Promise(states=frozenset({"stopped"}), tokens=0, calls=1)


class WorkerRaises(Fault):
    """Bugs in the worker: some attempts raise, somewhere between the claim and the end."""

    key = "worker-raises"
    title = "worker raises"

    def begin(self, on: Round) -> None:
        _start_functions(on.stage, {"FUNCTION_SOURCE": str(RAISING), "CHAOS_SEED": str(on.chance.randrange(1 << 30))})

    def settle(self, on: Round) -> None:
        if still := on.stage.open_calls(CLOSE_SECONDS):
            on.broken.append(f"expected no upstream call to stay open, {still} did")

    def restore(self, stage: Stage) -> None:
        _start_functions(stage)

    def promise(self, plan: Plan, question: Question) -> Promise:
        return Promise(states=frozenset({"completed", "incomplete", "failed"}), calls=3)


class ViewersLeave(Fault):
    """Viewers keep leaving and returning, and some ask for the whole stream but read nothing."""

    key = "viewers-leave"
    title = "viewers that leave or never read"
    viewers = (2, 4)
    leaves = 6
    unread = (400, 12_000)  # tokens, and bytes per token: more than the 3 MB that fit into the sockets' buffers

    def __init__(self) -> None:
        self._deaf: list[socket.socket] = []

    def question(self, on: Round, name: str, place: int) -> Question:
        question = super().question(on, name, place)
        if place:
            return question
        tokens, token_bytes = self.unread
        return Question(name=name, tokens=tokens, rate=2 * on.plan.rate, token_bytes=token_bytes)

    def strike(self, on: Round) -> None:
        on.wait_until_streaming()
        watched = on.asked[0]
        for _ in range(max(2, on.plan.load // 4)):
            self._deaf.append(_deaf(on.stage, watched.question, watched.generation or ""))

    def restore(self, stage: Stage) -> None:
        while self._deaf:
            self._deaf.pop().close()


def _deaf(stage: Stage, question: Question, generation: str) -> socket.socket:
    """A viewer that asks for the stream with a small receive buffer, and reads nothing."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(WAIT_SECONDS)
    connection.connect((HOST, stage.stack.ports.api_port))
    connection.sendall(
        f"GET /v1/generations/{generation} HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n"
        f"Authorization: Bearer {id_token(question.user)}\r\n\r\n".encode()
    )
    return connection


def _start_functions(stage: Stage, settings: dict[str, str] | None = None) -> None:
    """Starts both functions again, and waits for them."""
    for name in ("api", "worker"):
        stage.stack.processes[name].kill()
        stage.stack.restart(name, settings)
    for name in ("api", "worker"):
        stage.stack.wait_for(name)


def _error_code(answer: requests.Response) -> str | None:
    try:
        return str(answer.json()["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return None


FAULTS: Sequence[type[Fault]] = (
    WorkerKilled,
    WorkerEnds,
    WorkerFrozen,
    ApiKilled,
    FirestoreFrozen,
    FirestoreRestarted,
    CommitsFail,
    CommitsRefused,
    ReadsFail,
    TasksTwice,
    TasksLate,
    QueueUnreachable,
    UpstreamFaults,
    StoppedWhileMute,
    WorkerRaises,
    ViewersLeave,
    WorkerDiesWithForty,
    UserHogs,
)
