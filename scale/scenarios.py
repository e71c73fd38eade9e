"""The bursts that are simulated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scale.autoscaling import Load, Moment, Service, kept_warm, services, simulate
from scale.demand import FUNCTIONS, Demand, World

NOTICED_SECONDS = 1.0  # a wait that a user notices


@dataclass(frozen=True, kw_only=True, slots=True)
class Scenario:
    title: str
    load: Load
    services: dict[str, Service]
    queues: int

    def played(self, world: World) -> Outcome:
        return Outcome(scenario=self, moments=tuple(simulate(self.load, world, self.services, self.queues)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """A simulated scenario."""

    scenario: Scenario
    moments: tuple[Moment, ...]

    @property
    def longest_wait(self) -> float:
        """In seconds, of a task in the queue."""
        return max(moment.waits for moment in self.moments)

    @property
    def noticed(self) -> float:
        """The seconds in which a user would notice the wait."""
        return sum(moment.waits > NOTICED_SECONDS for moment in self.moments)

    @property
    def refused(self) -> float:
        return sum(moment.refused for moment in self.moments)

    @property
    def workers(self) -> int:
        return max(moment.workers for moment in self.moments)

    @property
    def apis(self) -> int:
        return max(moment.apis for moment in self.moments)


def scenarios(world: World) -> Sequence[Scenario]:
    """From what the defaults serve to what they don't, and what to change for it."""
    defaults = services(world)
    small, large = Load(before=50, after=1_000), Load(before=1_000, after=20_000)
    enough = services(world, times=_times(small, world))
    many = services(world, times=_times(large, world))
    queues = math.floor(Demand.of(large.after, world).queues) + 1  # some dispatches are left, to catch up
    return (
        Scenario(title="the defaults", load=Load(before=50, after=400), services=defaults, queues=1),
        Scenario(title="the defaults", load=small, services=defaults, queues=1),
        Scenario(title="instances enough", load=small, services=enough, queues=1),
        Scenario(
            title="instances enough, with places for all kept warm",
            load=small,
            services=kept_warm(enough, live=1_000),
            queues=1,
        ),
        Scenario(title="instances enough, one queue", load=large, services=many, queues=1),
        Scenario(title=f"instances enough, {queues} queues", load=large, services=many, queues=queues),
    )


def _times(load: Load, world: World) -> float:
    """How many times the default instances a load takes, at the target of the concurrency."""
    demand = Demand.of(load.after, world)
    wanted = dict(zip(FUNCTIONS, (demand.workers, demand.apis), strict=True))
    return math.ceil(max(wanted[name] / world.deployed[name].maximum for name in FUNCTIONS))
