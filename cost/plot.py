"""Plots the cost of an answer by its length, for the docs."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from cost.answers import Count
from cost.prices import Prices


def draw(count: Count, prices: Prices, days: float, file: Path) -> None:
    """Writes an SVG. Equal numbers give equal bytes."""
    mpl.rcParams["svg.hashsalt"] = "cost"
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    apart = [counted for counted in count.answers if counted.asked.apart]
    for viewers in sorted({counted.asked.viewers for counted in apart}, reverse=True):
        points = [
            (counted.asked.tokens, 1000 * prices.of(counted, days).total)
            for counted in apart
            if counted.asked.viewers == viewers
        ]
        label = "nobody watches" if not viewers else f"{viewers} viewer{'s' if viewers > 1 else ''}"
        axes.plot(*zip(*sorted(points), strict=True), marker="o", label=label)
    axes.set(xlim=0, ylim=0, xlabel=f"tokens, at {count.rate:g} a second", ylabel="US$ for 1,000 answers")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(file, format="svg", metadata={"Date": None})
