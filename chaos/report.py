"""The output of a run: a line per round, then a table of the faults, one of the dialects, and every broken promise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from chaos.promise import Verdict

_COUNTS = {
    "sent": "sent",
    "saved": "saved",
    "lost": "lost",
    "duplicated": "duplicated",
    "disordered": "out of order",
    "stuck": "stuck",
    "left_open": "left open",
}
_BY_FAULT = ("fault", "rounds", *_COUNTS.values(), "recover (s)", "from")
_BY_DIALECT = ("dialect", "asked", *_COUNTS.values())
NOTES = (
    "sent, saved: tokens, by the upstream in all its calls, and in Firestore at the end.",
    "lost, duplicated, out of order: of what was committed or seen, in Firestore and at the viewers; must be 0.",
    "stuck: generations that did not end. left open: upstream calls that outlived their answer.",
    "recover: median seconds until an answer that was under way went on, from what the last column says.",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Played:
    """One round of one fault. `broken` are broken promises that do not belong to a single generation."""

    title: str
    recovery: str | None
    number: int
    seconds: float
    verdicts: tuple[Verdict, ...]
    broken: tuple[str, ...] = ()

    @property
    def sentences(self) -> list[str]:
        """Every broken promise, with its generation."""
        of_generations = [
            f"generation {verdict.generation or '-'} ({verdict.name}, {verdict.dialect}): {sentence}"
            for verdict in self.verdicts
            for sentence in verdict.broken
        ]
        return [f"{self.title}, round {self.number}: {sentence}" for sentence in (*self.broken, *of_generations)]


def progress(played: Played, rounds: int) -> str:
    """A round as one line."""
    recovered = _recovered([played])
    parts = [
        f"round {played.number}/{rounds}",
        f"{played.title:<40}",
        f"{len(played.verdicts)} generations in {played.seconds:.0f} s",
        f"recovered in {recovered:.1f} s" if recovered is not None else "",
        f"{len(played.sentences)} PROMISES BROKEN" if played.sentences else "",
    ]
    return "  ".join(part for part in parts if part)


def table(every: Sequence[Played]) -> str:
    """A table with one row per fault, in the order of their first rounds."""
    rows = []
    for title in dict.fromkeys(played.title for played in every):
        of_fault = [played for played in every if played.title == title]
        recovered = _recovered(of_fault)
        rows.append(
            (
                title,
                str(len(of_fault)),
                *_counts([verdict for played in of_fault for verdict in played.verdicts]),
                f"{recovered:.1f}" if recovered is not None else "-",
                of_fault[0].recovery or "",
            )
        )
    return _aligned(_BY_FAULT, rows)


def table_of_dialects(every: Sequence[Played]) -> str:
    """A table with one row per dialect, of all faults together."""
    verdicts = [verdict for played in every for verdict in played.verdicts]
    rows = []
    for dialect in sorted({verdict.dialect for verdict in verdicts}):
        mine = [verdict for verdict in verdicts if verdict.dialect == dialect]
        rows.append((dialect, str(len(mine)), *_counts(mine)))
    return _aligned(_BY_DIALECT, rows)


def _counts(verdicts: Sequence[Verdict]) -> list[str]:
    return [f"{sum(getattr(verdict, name) for verdict in verdicts):,}" for name in _COUNTS]


def _aligned(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Numbers to the right, and what is in the first and a last column of words to the left."""
    every = [headings, *rows]
    words = {0, *(column for column, heading in enumerate(headings) if heading == "from")}
    widths = [max(len(row[column]) for row in every) for column in range(len(headings))]
    lines = [
        "  ".join(
            cell.ljust(width) if column in words else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in every
    ]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def _recovered(every: Sequence[Played]) -> float | None:
    seconds = [verdict.recovered for played in every for verdict in played.verdicts if verdict.recovered is not None]
    return median(seconds) if seconds else None


def conclusion(every: Sequence[Played]) -> tuple[str, int]:
    """The last lines, with every broken promise, and the exit status: 1 if there is any."""
    broken = [sentence for played in every for sentence in played.sentences]
    if not broken:
        return "Every promise was kept.", 0
    return "\n".join([f"{len(broken)} promises were broken:", *broken]), 1
