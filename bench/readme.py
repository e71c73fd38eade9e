"""The README's numbers are those of `bench/results.md`: its summary, put where the README has room for it."""

from __future__ import annotations

from pathlib import Path

from bench.report import SUMMARY, SUMMARY_END

BEGIN = "<!-- performance: made from bench/results.md -->\n"
END = "<!-- end of performance -->"


def block(results: str) -> str:
    """The summary of a page of results, with links that hold from the folder above."""
    _, _, rest = results.partition(f"{SUMMARY}\n")
    summary, _, _ = rest.partition(SUMMARY_END)
    return summary.replace("](", "](bench/")


def shown(readme: str) -> str:
    """What the README has there now."""
    return readme.partition(BEGIN)[2].partition(END)[0]


def update(readme: Path, results: str) -> None:
    """Puts the summary into the README."""
    before, begin, rest = readme.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    readme.write_text(f"{before}{begin}{block(results)}{end}{after}", encoding="utf-8")
