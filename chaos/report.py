"""The output of a run: one line per round, then a table with one row per fault, and a line per broken promise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from chaos.promise import Verdict

_HEADINGS = (
    "fault",
    "rounds",
    "sent",
    "saved",
    "lost",
    "duplicated",
    "out of order",
    "stuck",
    "recover (s)",
    "from",
)
NOTES = (
    "sent, saved: tokens, by the upstream in all its calls, and in Firestore at the end.",
    "lost, duplicated, out of order: of what was committed or seen, in Firestore and at the viewers; must be 0.",
    "stuck: generations that did not end.",
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
            f"generation {verdict.generation or '-'} ({verdict.name}): {sentence}"
            for verdict in self.verdicts
            for sentence in verdict.broken
        ]
        return [f"{self.title}, round {self.number}: {sentence}" for sentence in (*self.broken, *of_generations)]


def progress(played: Played, rounds: int) -> str:
    """A round as one line."""
    recovered = _recovered([played])
    parts = [
        f"round {played.number}/{rounds}",
        f"{played.title:<33}",
        f"{len(played.verdicts)} generations in {played.seconds:.0f} s",
        f"recovered in {recovered:.1f} s" if recovered is not None else "",
        f"{len(played.sentences)} PROMISES BROKEN" if played.sentences else "",
    ]
    return "  ".join(part for part in parts if part)


def table(every: Sequence[Played]) -> str:
    """A table with one row per fault, in the order of their first rounds."""
    rows: list[tuple[str, ...]] = [_HEADINGS]
    for title in dict.fromkeys(played.title for played in every):
        rows.append(_row(title, [played for played in every if played.title == title]))
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    lines = ["  ".join(_cell(row, column, widths[column]) for column in range(len(row))).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def _row(title: str, every: Sequence[Played]) -> tuple[str, ...]:
    verdicts = [verdict for played in every for verdict in played.verdicts]
    recovered = _recovered(every)
    sums = [
        sum(getattr(verdict, name) for verdict in verdicts)
        for name in ("sent", "saved", "lost", "duplicated", "disordered", "stuck")
    ]
    return (
        title,
        str(len(every)),
        *(f"{number:,}" for number in sums),
        f"{recovered:.1f}" if recovered is not None else "-",
        every[0].recovery or "",
    )


def _recovered(every: Sequence[Played]) -> float | None:
    seconds = [verdict.recovered for played in every for verdict in played.verdicts if verdict.recovered is not None]
    return median(seconds) if seconds else None


def _cell(row: Sequence[str], column: int, width: int) -> str:
    return row[column].ljust(width) if column in (0, len(_HEADINGS) - 1) else row[column].rjust(width)


def conclusion(every: Sequence[Played]) -> tuple[str, int]:
    """The last lines, with every broken promise, and the exit status: 1 if there is any."""
    broken = [sentence for played in every for sentence in played.sentences]
    if not broken:
        return "Every promise was kept.", 0
    return "\n".join([f"{len(broken)} promises were broken:", *broken]), 1
