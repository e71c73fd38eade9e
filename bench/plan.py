"""What to measure, how large and how often: in full, or so small that it only tests the harness."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

DIRECT, HOLDFAST, INSTANT = "direct", "holdfast", "instant"
GENKIT, RESUMABLE = "genkit", "resumable"
ROUNDS = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """`streams` simultaneous answers of `tokens` tokens, at a rate in tokens per second.

    `systems` are the systems to measure, with their numbers of rounds. `token_bytes` is the smallest size of a token.
    """

    name: str
    streams: int
    tokens: int
    rate: float
    systems: Mapping[str, int]
    token_bytes: int = 0

    @property
    def seconds(self) -> float:
        """The seconds that the upstream takes."""
        return self.tokens / self.rate

    def __str__(self) -> str:
        size = f" of {self.token_bytes:,} bytes" if self.token_bytes else ""
        return f"{self.streams} × {self.tokens:,}{size} at {self.rate:,.0f}/s"

    def described(self) -> dict[str, Any]:
        """The case's title in the results."""
        known = {name: getattr(self, name) for name in ("streams", "tokens", "rate", "token_bytes")}
        return {"title": str(self), **known}


@dataclass(frozen=True, kw_only=True, slots=True)
class Growth:
    """Answers whose Firestore operations are counted: their tokens and rate. Each has one viewer."""

    tokens: tuple[int, ...]
    rate: float
    genkit: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Far:
    """The world in which stores are far away: answers as in a case, for each number of simultaneous ones in `streams`.

    `firestore` and `redis` are seconds there and back.
    """

    streams: tuple[int, ...]
    tokens: int
    rounds: int
    rate: float = 50
    firestore: float = 0.04
    redis: float = 0.001


@dataclass(frozen=True, kw_only=True, slots=True)
class Starts:
    """Answers that are asked for one after the other: `each` for each of the `distances` to Firestore, in seconds.

    The CPU of `counted` more, and of `models` lists of models, is counted in each of the `turns`.
    """

    distances: tuple[float, ...]
    each: int
    turns: int
    counted: int
    models: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """`patience` is how many seconds after the upstream's end an answer may arrive. Later tokens count as missing.

    `unwatched` and `replayed` are numbers of tokens. `viewers`, then a `crowd` of them, and `generations` are for
    measuring memory. `capped` viewers share `streams` HTTP/2 streams, and `starts` more answers are started meanwhile.
    `dialects` is the case that is played in each model API. `alone` is how many seconds the machine's steadiness is
    measured before, and `warm` is played before a system is measured.
    """

    alone: float
    warm: Case
    cases: tuple[Case, ...]
    growth: tuple[Growth, ...]
    unwatched: int
    replayed: int
    rounds: int
    patience: float
    viewers: int
    crowd: int
    generations: int
    capped: int
    streams: int
    capped_tokens: int
    capped_rate: float
    starts: int
    far: Far
    one_by_one: Starts
    dialects: Case


def _each(rounds: int, *systems: str) -> dict[str, int]:
    return dict.fromkeys(systems, rounds)


def full(rounds: int) -> Plan:
    """The plan whose results are published. The largest cases are not run for all systems, which would take an hour."""
    names = DIRECT, HOLDFAST, INSTANT, GENKIT, RESUMABLE
    everybody = _each(rounds, *names)
    deployed = _each(rounds, DIRECT, HOLDFAST, GENKIT, RESUMABLE)
    return Plan(
        alone=4.0,
        warm=Case(name="warm", streams=10, tokens=50, rate=50, systems={}),
        cases=(
            # A round has one first token of each system.
            Case(name="1", streams=1, tokens=300, rate=50, systems=_each(max(rounds, ROUNDS), *names)),
            Case(name="10", streams=10, tokens=300, rate=50, systems=deployed),
            Case(name="30", streams=30, tokens=300, rate=50, systems=everybody),
            Case(name="100", streams=100, tokens=300, rate=50, systems=deployed),
            Case(name="2000", streams=1, tokens=2_000, rate=100, systems=everybody),
            Case(
                name="large",
                streams=1,
                tokens=1_500,
                rate=100,
                token_bytes=1_000,
                systems=_each(rounds, HOLDFAST, GENKIT),
            ),
            Case(
                name="16000", streams=1, tokens=16_000, rate=1_000, systems=_each(rounds, DIRECT, HOLDFAST, RESUMABLE)
            ),
            Case(name="64000", streams=1, tokens=64_000, rate=1_000, systems=_each(rounds, HOLDFAST)),
        ),
        growth=(
            Growth(tokens=(300, 1_000, 2_000, 4_000), rate=50, genkit=(300, 1_000, 2_000, 4_000)),
            Growth(tokens=(16_000, 64_000), rate=1_000),
        ),
        unwatched=4_000,
        replayed=16_000,
        rounds=rounds,
        patience=20.0,
        viewers=200,
        crowd=950,  # a thousand with those of the generations: a process of gunicorn takes no more connections
        generations=50,
        capped=300,
        streams=100,
        capped_tokens=12,
        capped_rate=0.5,
        starts=20,
        far=Far(streams=(1, 10, 30), tokens=300, rounds=min(3, rounds)),
        one_by_one=Starts(distances=(0.0, 0.05, 0.1, 0.15), each=10, turns=10, counted=10, models=100),
        dialects=Case(name="dialects", streams=30, tokens=300, rate=50, systems=_each(min(3, rounds), HOLDFAST)),
    )


QUICK = Plan(
    alone=0.1,
    warm=Case(name="warm", streams=2, tokens=10, rate=50, systems={}),
    cases=(
        Case(name="1", streams=1, tokens=40, rate=50, systems=_each(2, DIRECT, HOLDFAST, INSTANT, GENKIT, RESUMABLE)),
        Case(name="3", streams=3, tokens=40, rate=50, systems=_each(1, DIRECT, HOLDFAST, INSTANT, GENKIT, RESUMABLE)),
        Case(name="1000", streams=1, tokens=1_000, rate=1_000, systems=_each(1, HOLDFAST, RESUMABLE)),
    ),
    growth=(Growth(tokens=(40, 120), rate=50, genkit=(40, 120)), Growth(tokens=(1_000,), rate=1_000)),
    unwatched=120,
    replayed=1_600,
    rounds=1,
    patience=20.0,
    viewers=10,
    crowd=30,
    generations=5,
    capped=12,
    streams=8,
    capped_tokens=3,
    capped_rate=1.0,
    starts=2,
    far=Far(streams=(2,), tokens=20, rounds=1),
    one_by_one=Starts(distances=(0.0, 0.2), each=2, turns=1, counted=5, models=50),
    dialects=Case(name="dialects", streams=2, tokens=40, rate=50, systems=_each(1, HOLDFAST)),
)
