"""The table of documented limits and assumptions, limits.toml."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Self

TABLE = Path(__file__).with_name("limits.toml")


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """How Cloud Run scales: `target` is a share of the concurrency and of the CPU."""

    target: float
    window_seconds: int
    pending_seconds: int
    idle_seconds: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Tasks:
    concurrent: int
    rate: int
    queues: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Ramp:
    """How fast a cold store or queue may be asked for more: `first` a second, times `growth` every `minutes`."""

    first: float
    growth: float
    minutes: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Assumed:
    tokens: int
    startup_seconds: int
    spread: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Limit:
    """`of` is a field of `Demand`. `most` is a number, or the name of one."""

    what: str
    of: str
    most: float | str
    source: str
    then: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    run: Run
    tasks: Tasks
    ramp: Ramp
    assumed: Assumed
    limits: tuple[Limit, ...]

    @classmethod
    def read(cls, path: Path = TABLE) -> Self:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
        assumed = given["assumed"]
        return cls(
            run=Run(**given["run"]),
            tasks=Tasks(**given["tasks"]),
            ramp=Ramp(**given["ramp"]),
            assumed=Assumed(**{**assumed, "spread": tuple(assumed["spread"])}),
            limits=tuple(Limit(**each) for each in given["limit"]),
        )
