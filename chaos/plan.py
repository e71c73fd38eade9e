"""The size of a run and the length of its faults: full, or short enough for a test."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Times are in seconds, `rate` is in tokens per second, and `tokens` is the range of an answer's length.

    `frozen` is how long a part is paused, which is longer than `lease` and a takeover. `refused` is how long Firestore
    refuses commits. `grace` is the time between SIGTERM and SIGKILL. `patience` is how long after a fault a generation
    may take before it counts as stuck. `first` is what another user's first token may always take while a worker is
    lost, and `others` how many ask. `hogged` is how long one user hogs, with `hog_answers` answers, `hog_viewers`
    viewers, `hog_uploads` uploads that do not end and `hog_bodies` posts of `hog_bytes` at a time. `lag` is always
    allowed then: who hogs, who watches and the other lanes share one machine.
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
    first: float = 5.0
    others: int = 10
    hogged: float = 8.0
    hog_answers: int = 10
    hog_viewers: int = 40
    hog_uploads: int = 10
    hog_bodies: int = 4
    hog_bytes: int = 9 << 20
    lag: float = 3.0


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
    others=4,
    hogged=3.0,
    hog_viewers=20,
)
