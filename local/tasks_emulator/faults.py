"""What Cloud Tasks does at times, and the emulator only on request."""

from __future__ import annotations

from dataclasses import dataclass

from local.distribution import Distribution, distribution

MAX_LATE_SECONDS = 3600.0
MAX_RAMP = 500.0
MAX_SPEED = 100_000.0


@dataclass(frozen=True)
class Faults:
    """The faults that are switched on. Without any, a task is delivered once, and as soon as the queue allows.

    `duplicate=N` delivers every attempt N times at once. `late=S` holds every delivery back for S seconds, after the
    queue has launched it. `unavailable` refuses CreateTask as UNAVAILABLE.

    `throttle=S` lowers a queue's rate on 429, 503 and a high rate of errors, and doubles it again every S seconds.
    `ramp=N` lets an idle queue begin with N dispatches a second. 0 switches either off. See `throttle`.

    `delay` makes tasks due later than they say, each by a wait from the distribution: executions "might occasionally
    experience minor delays, usually lasting a few minutes", and these "have no set timeline".
    (https://cloud.google.com/tasks/docs/common-pitfalls#execution_delay)

    `speed=N` lets a queue's clock go N times as fast: its back-offs, and the age at which it gives a task up.
    """

    duplicate: int = 1
    late: float = 0.0
    unavailable: bool = False
    throttle: float = 0.0
    ramp: float = 0.0
    delay: Distribution | None = None
    speed: float = 1.0

    def __post_init__(self) -> None:
        if type(self.duplicate) is not int or self.duplicate < 1 or type(self.unavailable) is not bool:
            raise ValueError("duplicate is a whole number of at least 1, unavailable is true or false")
        if type(self.speed) not in (int, float) or not 1 <= self.speed <= MAX_SPEED:
            raise ValueError(f"speed is a number from 1 to {MAX_SPEED:g}")
        for name, most in (("late", MAX_LATE_SECONDS), ("throttle", MAX_LATE_SECONDS), ("ramp", MAX_RAMP)):
            if type(getattr(self, name)) not in (int, float) or not 0 <= getattr(self, name) <= most:
                raise ValueError(f"{name} is a number from 0 to {most:g}")
        object.__setattr__(self, "delay", distribution(self.delay))
