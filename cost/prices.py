"""The price table, and the price of what was counted."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields
from datetime import date
from pathlib import Path
from typing import Any, Self

from cost.answers import Counted

TABLE = Path(__file__).with_name("prices.toml")
GIB = 1 << 30
DAYS_A_MONTH = 30


class BadTable(Exception):
    """The price table is invalid. The message has a line for each fault, with the remedy."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Firestore:
    reads_per_100k: float
    writes_per_100k: float
    deletes_per_100k: float
    gib_month: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Tasks:
    operations_per_million: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    vcpu_second: float
    gib_second: float
    requests_per_million: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Network:
    gib_sent: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Instance:
    """A function's instance, and how many requests it serves at once."""

    vcpu: float
    gib: float
    together: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Costs:
    """US dollars for one answer, by service."""

    writes: float
    reads: float
    deletes: float
    storage: float
    tasks: float
    worker: float
    api: float
    network: float

    @property
    def total(self) -> float:
        return float(sum(getattr(self, each.name) for each in fields(self)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Prices:
    """Prices, and how the functions run. Field names are those of the table."""

    date: str
    region: str
    firestore: Firestore
    tasks: Tasks
    run: Run
    network: Network
    api: Instance
    worker: Instance

    @classmethod
    def read(cls, path: Path = TABLE) -> Self:
        """Errors: `BadTable`."""
        try:
            given = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise BadTable(f"{path} can't be read as TOML: {error}") from error
        faults: list[str] = []
        kinds = {"firestore": Firestore, "tasks": Tasks, "run": Run, "network": Network}
        kinds |= {"api": Instance, "worker": Instance}
        read: dict[str, Any] = {name: _table(name, kind, given.get(name), faults) for name, kind in kinds.items()}
        for name in ("date", "region"):
            read[name] = given.get(name)
            if not isinstance(read[name], str) or not read[name]:
                faults.append(f"{name}: it must be there, in quotes")
        if isinstance(read["date"], str) and not _is_date(read["date"]):
            faults.append('date: it must be the day the prices are of, such as "2026-11-22"')
        faults += [f"{name}: it is not known; take it out" for name in given if name not in read]
        if faults:
            raise BadTable("\n".join(f"{path.name}: {fault}" for fault in faults))
        return cls(**read)

    def of(self, counted: Counted, days: float) -> Costs:
        """The cost of one answer, if its generation and journal are stored for `days`, and its message for a month."""
        kept = counted.expiring_bytes * days / DAYS_A_MONTH + counted.lasting_bytes
        per_request = self.run.requests_per_million / 1e6
        return Costs(
            writes=counted.writes * self.firestore.writes_per_100k / 1e5,
            reads=counted.reads * self.firestore.reads_per_100k / 1e5,
            deletes=counted.deletes * self.firestore.deletes_per_100k / 1e5,
            storage=kept * self.firestore.gib_month / GIB,
            tasks=counted.task_operations * self.tasks.operations_per_million / 1e6,
            worker=self._seconds(self.worker, counted.worker_seconds) + counted.worker_requests * per_request,
            api=self._seconds(self.api, counted.api_seconds) + counted.api_requests * per_request,
            network=counted.sent_bytes * self.network.gib_sent / GIB,
        )

    def _seconds(self, instance: Instance, seconds: float) -> float:
        a_second = instance.vcpu * self.run.vcpu_second + instance.gib * self.run.gib_second
        return seconds * a_second / instance.together


def _table(name: str, kind: type, given: Any, faults: list[str]) -> Any:
    if not isinstance(given, dict):
        faults.append(f"[{name}]: there must be such a table")
        return None
    names = [each.name for each in fields(kind)]
    bad = [key for key in names if not _is_price(given.get(key)) or (kind is Instance and not given[key])]
    faults += [f"{name}.{key}: it must be a number, {'above 0' if kind is Instance else '0 or above'}" for key in bad]
    faults += [f"{name}.{key}: it is not known; there is {', '.join(names)}" for key in given if key not in names]
    return kind(**{key: given[key] for key in names}) if not bad else None


def _is_price(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")


def _is_date(value: str) -> bool:
    try:
        date.fromisoformat(value)
    except ValueError:
        return False
    return True
