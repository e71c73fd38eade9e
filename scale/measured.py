"""What was measured elsewhere, from the pages that `make cost` and `make bench` write, and deploy.sh's defaults.

A page that no longer has a number fails here with its name, so that nothing is computed from an old one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

ROOT = Path(__file__).resolve().parents[1]
COST, BENCH, DEPLOYED = ROOT / "docs" / "cost.md", ROOT / "bench" / "results.md", ROOT / "deploy" / "variables.sh"
_SIZES = {"B": 1, "kB": 1e3, "MB": 1e6}


class NotThere(Exception):
    """A page does not have a number that is needed. The message names the page and the number."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """One answer with one viewer: its operations, seconds, bytes, and US dollars. `…_cpu` are CPU seconds a second.

    Bytes of memory are of a warm process, and what each live answer or viewer adds.
    """

    tokens: int
    rate: float  # tokens a second
    seconds: float
    writes: float
    reads: float
    deletes: float
    sent_bytes: float
    dollars: float
    worker_cpu: float
    api_cpu: float
    worker_bytes: float
    api_bytes: float
    answer_bytes: float
    viewer_bytes: float

    @classmethod
    def read(cls, tokens: int, cost: Path = COST, bench: Path = BENCH) -> Self:
        """Errors: `NotThere`."""
        counted, priced = (_row(cost, f"{tokens:,}", "1", having) for having in ("worker s", "total"))
        return cls(
            tokens=tokens,
            rate=_number(cost, r"Counted for one answer, at ([\d.,]+) tokens a second"),
            seconds=counted["worker s"],
            writes=counted["writes"],
            reads=counted["reads"],
            deletes=counted["deletes"],
            sent_bytes=1024 * counted["KiB sent"],
            dollars=priced["total"] / 1000,
            worker_cpu=_number(cost, r"took (\d+) ms of a CPU in the worker") / 1000,
            api_cpu=_number(cost, r"and\s+(\d+) ms in the api") / 1000,
            worker_bytes=_size(bench, r"Holdfast: worker, warm"),
            api_bytes=_size(bench, r"Holdfast: api, warm"),
            answer_bytes=_size(bench, r"Holdfast: worker, each of [\d,]+ live generations"),
            viewer_bytes=_size(bench, r"Holdfast: api, each of their [\d,]+ viewers"),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Deployed:
    """A function as deploy.sh deploys it unless told otherwise."""

    concurrency: int
    minimum: int
    maximum: int

    @classmethod
    def read(cls, function: str, page: Path = DEPLOYED) -> Self:
        """Errors: `NotThere`."""
        concurrency, minimum, maximum = (
            int(_number(page, rf"unless_set {function.upper()}_{name} (\d+)"))
            for name in ("CONCURRENCY", "MIN_INSTANCES", "MAX_INSTANCES")
        )
        return cls(concurrency=concurrency, minimum=minimum, maximum=maximum)


def _row(page: Path, tokens: str, viewers: str, having: str) -> dict[str, float]:
    """The row of an answer in the table that has the column `having`."""
    names: list[str] = []
    for line in page.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[:2] == ["tokens", "viewers"]:
            names = cells
        elif cells[:2] == [tokens, viewers] and having in names:
            return {name: float(cell.replace(",", "")) for name, cell in zip(names, cells, strict=True)}
    raise NotThere(f"{page.name}: there is no answer of {tokens} tokens and {viewers} viewer with '{having}'")


def _number(page: Path, pattern: str) -> float:
    return float(_found(page, pattern)[1].replace(",", ""))


def _size(page: Path, what: str) -> float:
    found = _found(page, rf"\| {what} \| ([\d.,]+) (B|kB|MB) ")
    return float(found[1].replace(",", "")) * _SIZES[found[2]]


def _found(page: Path, pattern: str) -> re.Match[str]:
    found = re.search(pattern, page.read_text(encoding="utf-8"))
    if found is None:
        raise NotThere(f"{page.name}: there is nothing like '{pattern}'")
    return found
