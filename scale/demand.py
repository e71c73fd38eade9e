"""What live answers take at any moment, each with one viewer. All but the writes of a head grows with their number."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from cost.prices import GIB, Instance, Prices
from lib.cloud.listen import TARGETS_PER_STREAM
from lib.runtime.settings import MAX_QUEUES
from scale.limits import Limit, Limits
from scale.measured import Deployed, Measured

FUNCTIONS = ("worker", "api")
HOUR = 3600


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """Everything that the model goes by."""

    limits: Limits
    measured: Measured
    prices: Prices
    deployed: Mapping[str, Deployed]

    @classmethod
    def read(cls) -> Self:
        limits = Limits.read()
        return cls(
            limits=limits,
            measured=Measured.read(limits.assumed.tokens),
            prices=Prices.read(),
            deployed={name: Deployed.read(name) for name in FUNCTIONS},
        )

    def instance(self, function: str) -> Instance:
        return self.prices.worker if function == "worker" else self.prices.api

    def cpu(self, function: str) -> float:
        """CPU seconds that a second of an open request takes."""
        return self.measured.worker_cpu if function == "worker" else self.measured.api_cpu

    def places(self, function: str) -> Mapping[str, float]:
        """How many requests an instance serves when Cloud Run wants no other, by what bounds them."""
        target, instance, measured = self.limits.run.target, self.instance(function), self.measured
        if function == "worker":
            process, each = measured.worker_bytes, measured.answer_bytes
        else:
            process, each = measured.api_bytes, measured.viewer_bytes
        return {
            "concurrency": target * self.deployed[function].concurrency,
            "CPU": target * instance.vcpu / self.cpu(function),
            "memory": (instance.gib * GIB - process) / each,
        }

    def most(self, limit: Limit) -> float:
        """A limit's number."""
        if limit.most == "deployment_queues":
            return MAX_QUEUES
        if isinstance(limit.most, str):
            if limit.most in self.deployed:
                deployed = self.deployed[limit.most]
                return deployed.concurrency * deployed.maximum
            return float(getattr(self.limits.tasks, limit.most))
        return limit.most


@dataclass(frozen=True, kw_only=True, slots=True)
class Demand:
    """Rates are a second. Instances and queues are fractions, which are rounded up where they are shown."""

    live: float
    streams: float
    starts: float
    workers: float
    apis: float
    vcpus: float
    queues: float
    writes: float
    head_writes: float  # of each head
    reads: float
    deletes: float
    listens: float  # streams to Firestore, of the api
    sent_bytes: float
    tokens: float
    dollars: float  # an hour

    @classmethod
    def of(cls, live: float, world: World) -> Self:
        measured = world.measured
        seconds, tasks = measured.seconds, world.limits.tasks
        workers, apis = (live / min(world.places(name).values()) for name in FUNCTIONS)
        return cls(
            live=live,
            streams=live,
            starts=live / seconds,
            workers=workers,
            apis=apis,
            vcpus=workers * world.prices.worker.vcpu + apis * world.prices.api.vcpu,
            queues=max(live / tasks.concurrent, live / seconds / tasks.rate),
            writes=live * measured.writes / seconds,
            head_writes=measured.writes / seconds,
            reads=live * measured.reads / seconds,
            deletes=live * measured.deletes / seconds,
            listens=max(live / TARGETS_PER_STREAM, apis),
            sent_bytes=live * measured.sent_bytes / seconds,
            tokens=live * measured.rate,
            dollars=live * measured.dollars / seconds * HOUR,
        )


def reached(limit: Limit, world: World) -> float:
    """How many live answers reach a limit. What does not grow with them is reached by the first, or never."""
    one, two = (float(getattr(Demand.of(live, world), limit.of)) for live in (1, 2))
    most = world.most(limit)
    if one == two:
        return 1 if one >= most else math.inf
    return most / one


def ramp_minutes(operations: float, world: World) -> float:
    """How long a cold store or queue should take to reach so many operations a second, by Google's guidance."""
    ramp = world.limits.ramp
    steps = math.log(operations / ramp.first, ramp.growth) if operations > ramp.first else 0.0
    return math.ceil(steps) * ramp.minutes
