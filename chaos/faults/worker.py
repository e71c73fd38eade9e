"""Faults of the worker: it is lost, told to end, frozen, or has bugs."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from chaos.dialects import DIALECTS
from chaos.fault import Fault, WorkerFault
from chaos.plan import Plan
from chaos.promise import Promise
from chaos.question import Question
from chaos.round import Asked, Round
from chaos.stage import Stage

DEAD_ANSWERS = 40
DRAIN_SECONDS = 0.3  # until messages between two parts have arrived
RIVAL_SECONDS = 10.0  # more for a rival to take over, on a slow machine
QUIET_SECONDS = 3.0  # enough for a worker that has lost its generations to write, if it were to
RAISING = Path(__file__).parents[1] / "raising.py"


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


class WorkerKilledInBackground(WorkerKilled):
    """The same while the upstream generates all answers in the background. Each is paid once, and is the upstream's."""

    key = "background-killed"
    title = "worker killed over a background upstream"
    dialects = tuple(dialect for dialect in DIALECTS if dialect.background)

    def tokens(self, plan: Plan) -> tuple[int, int]:
        return plan.tokens[1], round(1.5 * plan.tokens[1])

    def question(self, on: Round, usual: Question, place: int) -> Question:
        """Slow enough for the first to be under way still when the last has begun."""
        return replace(usual, resumable=True, streamed=True, rate=usual.rate / 3)

    def settle(self, on: Round) -> None:
        calls = [call for calls in on.stage.calls().values() for call in calls]
        if not any(call["method"] == "GET" for call in calls):
            on.broken.append("expected answers to be read on at the upstream, none was: the round shows nothing")


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

    def tokens(self, plan: Plan) -> tuple[int, int]:
        return plan.tokens[0], self._longest(plan)

    def question(self, on: Round, usual: Question, place: int) -> Question:
        """In the background, long enough for the rival to be at work when the first one wakes, which may not end it."""
        enough = round(self._longest(on.plan) * 0.8)
        low, high = (enough, self._longest(on.plan)) if usual.background else on.plan.tokens
        return replace(usual, tokens=on.chance.randint(low, high))

    def _longest(self, plan: Plan) -> int:
        return round(1.9 * plan.rate * plan.frozen)

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
        self._wait_for_the_rival(on, wakes + RIVAL_SECONDS)
        on.read(on.ended())
        frozen.resume()
        self._woken = time.monotonic()

    def _wait_for_the_rival(self, on: Round, deadline: float) -> None:
        """Waits until it has ended what nobody can go on with: who wakes before that still has its lease."""
        lost = [asked for asked in on.asked if asked.question.streamed and not asked.question.continues]
        while time.monotonic() < deadline and not set(lost) <= set(on.ended()):
            time.sleep(0.2)

    def settle(self, on: Round) -> None:
        time.sleep(max(0.0, self._woken + QUIET_SECONDS - time.monotonic()))

    def restore(self, stage: Stage) -> None:
        stage.stack.processes["worker"].resume()
        if self.rival in stage.stack.processes:
            stage.stack.end(self.rival)


class WorkerDiesWithForty(WorkerFault):
    """A worker is lost with forty answers, and while nobody may take them over yet, others ask.

    What is reported is the others' first token, which may take twice as long as the forty's did. Google's queue slows
    down for all of its tasks if those that wait for the lost worker's leases are answered with errors.
    """

    key = "worker-dies-with-40"
    title = "worker lost with 40 answers"
    recovery = "others' questions"
    native = True

    def __init__(self) -> None:
        self._others: set[str] = set()
        self._usual = 0.0

    def load(self, plan: Plan) -> int:
        return DEAD_ANSWERS + self.later(plan)

    def later(self, plan: Plan) -> int:
        return plan.others

    def question(self, on: Round, usual: Question, place: int) -> Question:
        if place >= DEAD_ANSWERS:
            self._others.add(usual.name)
        return usual

    def strike(self, on: Round) -> None:
        on.wait_until_streaming()
        self._usual = max((_first_token(asked) or 0.0 for asked in on.asked), default=0.0)
        on.stage.stack.processes["worker"].kill()
        on.stage.stack.restart("worker")
        on.stage.stack.wait_for("worker")
        every = on.plan.lease / len(on.later)
        for asked in on.later:
            asked.ask()
            time.sleep(every)

    def recovered(self, on: Round, asked: Asked) -> float | None:
        return _first_token(asked) if asked.question.name in self._others else None

    def promise(self, plan: Plan, question: Question) -> Promise:
        if question.name in self._others:
            return Promise(calls=1, recover=max(plan.first, 2 * self._usual))
        if question.continues:
            return Promise()
        return super().promise(plan, question)


def _first_token(asked: Asked) -> float | None:
    """The seconds from its question to what its viewer saw first."""
    if asked.asked_at is None or not asked.viewers[0].seen:
        return None
    return asked.viewers[0].seen[0].at - asked.asked_at


class WorkerRaises(Fault):
    """Bugs in the worker: some attempts raise, somewhere between the claim and the end."""

    key = "worker-raises"
    title = "worker raises"

    def begin(self, on: Round) -> None:
        _start_functions(on.stage, {"FUNCTION_SOURCE": str(RAISING), "CHAOS_SEED": str(on.chance.randrange(1 << 30))})

    def restore(self, stage: Stage) -> None:
        _start_functions(stage)

    def promise(self, plan: Plan, question: Question) -> Promise:
        return Promise(states=frozenset({"completed", "incomplete", "failed"}), calls=3)


def _start_functions(stage: Stage, settings: dict[str, str] | None = None) -> None:
    """Starts both functions again, and waits for them."""
    for name in ("api", "worker"):
        stage.stack.processes[name].kill()
        stage.stack.restart(name, settings)
    for name in ("api", "worker"):
        stage.stack.wait_for(name)
