"""The numbers to show: medians over rounds, and ratios. Nothing here may measure or format."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import linear_regression, median
from typing import Any

Row = dict[str, Any]
LAST, FIRST = "last", "first"


@dataclass(frozen=True, slots=True)
class Memory:
    """The bytes of a live generation in the worker, of its viewer in the api, and there of each in a crowd of idle
    viewers of one generation, by how many they are.
    """

    generation: float
    viewer: float
    crowds: dict[int, float]


class Figures:
    """The figures of one run. Times are in milliseconds unless a name says otherwise. None means not measured."""

    def __init__(self, raw: Row):
        self.raw = raw
        self.cases: dict[str, Row] = raw["cases"]

    def paths(self, case: str) -> list[str]:
        """The paths that were measured in a case, in the plan's order."""
        return sorted({row["path"] for row in self._all(case)}, key=_order)

    def title(self, case: str) -> str:
        """The case's title."""
        return str(self.cases[case]["title"])

    def rounds(self, case: str, path: str) -> int:
        return len(self._rows(case, path))

    def lag(self, case: str, path: str, share: float) -> float | None:
        """The lag's percentile for `share`: the median over rounds."""
        return self._median(case, path, lambda row: percentile(_flat(row["lags"]), share))

    def worst_lag(self, case: str, path: str) -> float | None:
        """The largest lag of all rounds."""
        rows = self._rows(case, path)
        found = [lag for row in rows for lag in _flat(row["lags"])]
        return max(found) / 1000 if found else None

    def lag_of_tenth(self, case: str, path: str, which: str) -> float | None:
        """The lag p95 of the first or the last tenth of an answer."""

        def tenth(row: Row) -> float | None:
            pieces = []
            for lags in row["lags"]:
                size = max(1, len(lags) // 10)
                pieces.append(lags[-size:] if which == LAST else lags[:size])
            return percentile(_flat(pieces), 0.95)

        return self._median(case, path, tenth)

    def first_token(self, case: str, path: str) -> float | None:
        return self._median(case, path, lambda row: percentile(_known(row["ttft"]), 0.5))

    def end(self, case: str, path: str) -> float | None:
        return self._median(case, path, lambda row: percentile(_known(row["end"]), 0.5))

    def whole(self, case: str, path: str) -> tuple[int, int]:
        """The number of complete answers, and of all answers."""
        rows = self._rows(case, path)
        return sum(row["whole"] for row in rows), len(rows) * self.cases[case]["streams"]

    def missing(self, case: str, path: str) -> int:
        return sum(row["lost"] for row in self._rows(case, path))

    def disordered(self, case: str, path: str) -> int:
        return sum(row["disordered"] for row in self._rows(case, path))

    def cpu(self, case: str, path: str, whose: str) -> float | None:
        """CPU seconds per 1,000 tokens."""
        tokens = self.cases[case]["tokens"] * self.cases[case]["streams"]
        seconds = [row["spent"][whose] for row in self._rows(case, path)]
        return median(seconds) / tokens * 1000 if seconds else None

    def busy(self, case: str, path: str, whose: str) -> float | None:
        """The average number of busy cores."""
        shares = [row["spent"][whose] / row["spent"]["wall"] for row in self._rows(case, path)]
        return median(shares) if shares else None

    def along(self, case: str, path: str, pieces: int) -> list[tuple[int, float]]:
        """The lag p95 of each piece of the answer, with the number of the piece's last token."""
        tokens = int(self.cases[case]["tokens"])
        found = []
        for piece in range(pieces):
            start, end = tokens * piece // pieces, tokens * (piece + 1) // pieces
            rounds = [percentile(_flat(row["lags"], start, end), 0.95) for row in self._rows(case, path)]
            known = _known(rounds)
            if known and end > start:
                found.append((end, median(known) / 1000))
        return found

    def cost(self, system: str, how: str) -> list[Row]:
        """The cost of answers in Firestore, shortest first."""
        rows = [row for row in self.raw.get("cost", ()) if (row["system"], row["how"]) == (system, how)]
        return sorted(rows, key=lambda row: int(row["tokens"]))

    def cost_of(self, system: str, how: str, tokens: int) -> Row | None:
        return next((row for row in self.cost(system, how) if row["tokens"] == tokens), None)

    def trips(self) -> float | None:
        """Firestore round trips before the first token: how much later it comes for each second of distance."""
        measured = [
            (each["seconds"], median(each["first"]) / 1e6) for each in self.raw.get("starts", {}).get("trips", ())
        ]
        if len(measured) < 2:
            return None
        distances, firsts = zip(*measured, strict=True)
        return linear_regression(distances, firsts).slope

    def start_over_list(self) -> float | None:
        """The CPU of a start, over that of a list of models."""
        counted = self.raw.get("starts", {}).get("cpu")
        if not counted or not counted["list"]:
            return None
        return float((counted["start"] / counted["starts"]) / (counted["list"] / counted["models"]))

    def memory(self, how: str) -> Memory | None:
        """`how` many documents a listen stream has is said in `bench.memory`."""
        found = self.raw.get("memory", {}).get(how)
        if not found:
            return None
        warm, live, number = found["warm"], found["live"], found["generations"]
        return Memory(
            generation=(live["worker"] - warm["worker"]) / number,
            viewer=(live["api"] - warm["api"]) / number,
            crowds={each["viewers"]: (each["api"] - live["api"]) / each["viewers"] for each in found["watched"]},
        )

    def dialect_cpu(self, dialect: str) -> float | None:
        """CPU seconds per 1,000 tokens."""
        known = self.raw["dialect_case"]
        rounds = [each["own"] for each in self.raw.get("dialects", ()) if each["dialect"] == dialect]
        return median(rounds) / (known["tokens"] * known["streams"]) * 1000 if rounds else None

    def _all(self, case: str) -> list[Row]:
        return [row for row in self.raw.get("lag", ()) if row["case"] == case]

    def _rows(self, case: str, path: str) -> list[Row]:
        return [row for row in self._all(case) if row["path"] == path]

    def _median(self, case: str, path: str, figure: Callable[[Row], float | None]) -> float | None:
        known = _known(map(figure, self._rows(case, path)))
        return median(known) / 1000 if known else None


PATHS = {
    "direct": "direct",
    "holdfast": "**Holdfast**",
    "instant": "**Holdfast**, interval 0",
    "genkit, live": "Genkit, live path",
    "genkit, subscriber": "Genkit, subscriber",
    "resumable, live": "resumable-stream, live path",
    "resumable, resumed": "resumable-stream, resumed",
}


def percentile(values: Iterable[float], share: float) -> float | None:
    """The smallest value that at least `share` of the values do not exceed. None if there are no values."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None


def _order(path: str) -> int:
    return list(PATHS).index(path)


def _flat(lags: Sequence[Sequence[float | None]], start: int = 0, end: int | None = None) -> list[float]:
    return [lag for each in lags for lag in each[start:end] if lag is not None]


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]
