"""A simulation of both functions and the queues between them, a second at a time, by what Google documents.

Answers are a fluid: so many begin in a second, and they end over the seconds that answers take. Cloud Run's instances
are whole. Nothing is random, so equal input gives equal output.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from scale.demand import FUNCTIONS, World
from scale.limits import Run


@dataclass(frozen=True, kw_only=True, slots=True)
class Service:
    """A function: requests an instance takes, the CPU of a second of one, its vCPU, and its numbers of instances."""

    concurrency: int
    cpu: float
    vcpu: float
    minimum: int
    maximum: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """How many answers are wanted at once: `before` the burst, and `after` it. It grows over `grows` seconds."""

    before: float
    after: float
    begins: int = 300
    grows: int = 60
    seconds: int = 1800

    def wanted(self, second: int) -> float:
        share = min(1.0, max(0.0, (second - self.begins) / self.grows))
        return self.before + share * (self.after - self.before)


@dataclass(frozen=True, kw_only=True, slots=True)
class Moment:
    """The end of a second. `waits` is how long the task that is dispatched next has waited, in seconds."""

    second: int
    wanted: float
    running: float
    waiting: float
    refused: float  # in this second, as `ended` is
    ended: float
    waits: float
    workers: int
    apis: int


class Fleet:
    """The instances of one service."""

    def __init__(self, service: Service, run: Run, startup_seconds: int):
        self.ready = service.minimum
        self._service = service
        self._run = run
        self._startup = startup_seconds
        self._starting: deque[tuple[int, int]] = deque()  # when ready, how many
        self._load: deque[float] = deque(maxlen=run.window_seconds)
        self._wanted: deque[int] = deque(maxlen=run.idle_seconds)

    @property
    def places(self) -> int:
        return self.ready * self._service.concurrency

    @property
    def instances(self) -> int:
        return self.ready + sum(number for _, number in self._starting)

    def tick(self, second: int, running: float, waiting: float) -> None:
        """Starts and ends instances, with so many requests being served, and so many without a place."""
        while self._starting and self._starting[0][0] <= second:
            self.ready += self._starting.popleft()[1]
        self._load.append(running)
        wanted = self._wanted_for(sum(self._load) / len(self._load))
        if waiting > 0:  # requests without a place start instances at once
            wanted = max(wanted, math.ceil((running + waiting) / self._service.concurrency))
        wanted = min(self._service.maximum, max(self._service.minimum, wanted))
        self._wanted.append(wanted)
        if wanted > self.instances:
            self._starting.append((second + self._startup, wanted - self.instances))
        surplus = self.instances - max(self._wanted)
        idle = self.ready - math.ceil(running / self._service.concurrency)
        self.ready -= max(0, min(surplus, idle))

    def _wanted_for(self, load: float) -> int:
        """For a load, averaged over the window: instances at the target of the concurrency, and of the CPU."""
        service, target = self._service, self._run.target
        return math.ceil(max(load / service.concurrency, load * service.cpu / service.vcpu) / target)


def simulate(load: Load, world: World, services: dict[str, Service], queues: int) -> Iterator[Moment]:
    """Yields each second. The run begins settled: with `load.before` answers, and instances for them."""
    answers = _Answers(world.measured.seconds, world.limits.assumed.spread, load.before)
    fleets = {name: Fleet(services[name], world.limits.run, world.limits.assumed.startup_seconds) for name in FUNCTIONS}
    worker, api = (fleets[name] for name in FUNCTIONS)
    for fleet in fleets.values():
        for second in range(-world.limits.run.window_seconds - world.limits.assumed.startup_seconds, 0):
            fleet.tick(second, load.before, 0)
    tasks = world.limits.tasks
    queue = _Queue(rate=queues * tasks.rate, concurrent=queues * tasks.concurrent)
    for second in range(load.seconds):
        ended = answers.end(second)
        wanted = load.wanted(second)
        asked = wanted / world.measured.seconds
        # The api has a stream for each answer that runs or waits. Who finds no place for ten seconds gets a 429.
        free = max(0.0, api.places - answers.running - queue.waiting)
        capacity = services["api"].maximum * services["api"].concurrency
        refused = max(0.0, asked - free) if api.places >= capacity else 0.0
        queue.add(second, asked - refused)
        room = min(worker.places, queue.concurrent) - answers.running
        begun = queue.dispatch(room)
        answers.begin(second, begun)
        worker.tick(second, answers.running, min(queue.waiting, queue.concurrent - answers.running))
        api.tick(second, answers.running + queue.waiting, max(0.0, answers.running + queue.waiting - api.places))
        yield Moment(
            second=second,
            wanted=wanted,
            running=answers.running,
            waiting=queue.waiting,
            refused=refused,
            ended=ended,
            waits=queue.waits(second),
            workers=worker.instances,
            apis=api.instances,
        )


def services(world: World, *, times: float = 1) -> dict[str, Service]:
    """Both functions as deploy.sh deploys them, with so many times the instances at most."""
    found = {}
    for name in FUNCTIONS:
        deployed = world.deployed[name]
        found[name] = Service(
            concurrency=deployed.concurrency,
            cpu=world.cpu(name),
            vcpu=world.instance(name).vcpu,
            minimum=deployed.minimum,
            maximum=math.ceil(times * deployed.maximum),
        )
    return found


def kept_warm(there: dict[str, Service], *, live: float) -> dict[str, Service]:
    """The same, with a minimum of instances that has places for so many answers."""
    return {
        name: replace(service, minimum=min(service.maximum, math.ceil(live / service.concurrency)))
        for name, service in there.items()
    }


class _Answers:
    """Those that run, by the second in which they end. They take the mean, times each share of the spread alike."""

    def __init__(self, mean: float, spread: Sequence[float], running: float):
        self.running = 0.0
        self._ends: dict[int, float] = {}
        self._takes = [max(1, round(share * mean)) for share in spread]
        for begun in range(-max(self._takes), 0):  # the past of a settled load
            self.begin(begun, running / mean)
        for second in range(-max(self._takes), 0):
            self.end(second)

    def begin(self, second: int, number: float) -> None:
        self.running += number
        for takes in self._takes:
            self._ends[second + takes] = self._ends.get(second + takes, 0.0) + number / len(self._takes)

    def end(self, second: int) -> float:
        """Returns how many end."""
        ended = self._ends.pop(second, 0.0)
        self.running -= ended
        return ended


class _Queue:
    """The queues together: the oldest task goes first."""

    def __init__(self, *, rate: float, concurrent: float):
        self.concurrent = concurrent
        self.waiting = 0.0
        self._rate = rate
        self._tasks: deque[tuple[int, float]] = deque()  # since when, how many

    def add(self, second: int, number: float) -> None:
        self.waiting += number
        self._tasks.append((second, number))

    def dispatch(self, room: float) -> float:
        """How many are dispatched into so many free places."""
        left = begun = max(0.0, min(self.waiting, self._rate, room))
        while self._tasks and left > 0:
            since, number = self._tasks.popleft()
            if number > left:
                self._tasks.appendleft((since, number - left))
            left = max(0.0, left - number)
        self.waiting -= begun
        return begun

    def waits(self, second: int) -> float:
        """The age of the task that is dispatched next, in seconds."""
        return second - self._tasks[0][0] if self._tasks and self.waiting > 1e-9 else 0
