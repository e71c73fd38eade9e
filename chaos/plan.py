"""How large a run is and how long its faults last: in full, or short enough to be one of the tests."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Times are in seconds, `rate` in tokens a second, `tokens` the least and the most that an answer has.

    `frozen` is how long a part stands still, longer than `lease` and a takeover; `refused` for how long Firestore takes
    no commits; `grace` what a platform gives a process that is told to end; `patience` how long after a fault a
    generation may take before it counts as stuck.
    """

    load: int = 20
    rate: float = 60.0
    tokens: tuple[int, int] = (150, 500)
    lease: float = 15.0
    idle: float = 5.0
    frozen: float = 24.0
    refused: float = 240.0
    down: float = 3.0
    late: float = 3.0
    grace: float = 10.0
    response: float = 10.0
    patience: float = 90.0
    recover: float = 30.0


FULL = Plan()
SHORT = Plan(
    load=6,
    tokens=(80, 200),
    lease=4.0,
    idle=3.0,
    frozen=9.0,
    refused=12.0,
    down=1.0,
    late=1.0,
    response=4.0,
    patience=45.0,
)
