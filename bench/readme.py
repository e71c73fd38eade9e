"""Copies the summary of `bench/results.md` into the README, so that their numbers are the same."""

from __future__ import annotations

from pathlib import Path

from bench.report import SUMMARY, SUMMARY_END

BEGIN = "<!-- performance: made from bench/results.md -->\n"
END = "<!-- end of performance -->"


def block(results: str) -> str:
    """The summary of a page of results, with links relative to the parent folder."""
    _, _, rest = results.partition(f"{SUMMARY}\n")
    summary, _, _ = rest.partition(SUMMARY_END)
    return summary.replace("](", "](bench/")


def shown(readme: str) -> str:
    """The summary that is in the README."""
    return readme.partition(BEGIN)[2].partition(END)[0]


def update(readme: Path, results: str) -> None:
    """Puts the summary into the README."""
    before, begin, rest = readme.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    readme.write_text(f"{before}{begin}{block(results)}{end}{after}", encoding="utf-8")
