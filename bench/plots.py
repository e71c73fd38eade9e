"""The plots of a run, as SVG files. The same results give the same bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from bench.cost import UNWATCHED, WATCHED
from bench.figures import PATHS, Figures

_COLOURS = {
    "direct": "#8a8a8a",
    "holdfast": "#0b5fbf",
    "instant": "#4fa3f7",
    "genkit, live": "#f2b48a",
    "genkit, subscriber": "#d9541e",
    "resumable, live": "#a9d6a5",
    "resumable, resumed": "#2e8b3d",
}
_PIECES = 64
_PIECE_TOKENS = 100  # the smallest piece of an answer; at 1,000 tokens a second, this is one commit
_STYLE: dict[Any, Any] = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 10,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "holdfast",
}


def draw(raw: dict[str, Any], folder: Path) -> list[str]:
    """Writes all plots that have data into the folder. Returns the file names."""
    figures = Figures(raw)
    drawn = []
    with mpl.rc_context(_STYLE):
        for name, plot in (("load.svg", _load), ("length.svg", _length), ("cost.svg", _cost)):
            figure = plot(figures)
            if figure is not None:
                figure.savefig(folder / name, metadata={"Date": None}, bbox_inches="tight", facecolor="white")
                pyplot.close(figure)
                drawn.append(name)
    return drawn


def _load(figures: Figures) -> Figure | None:
    """Lag by the number of simultaneous answers, for cases that differ only in that."""
    alike = [case for case, known in figures.cases.items() if (known["tokens"], known["rate"]) == _first(figures)]
    figure, axes = pyplot.subplots(figsize=(7.5, 4))
    for path, title in PATHS.items():
        points = [
            (figures.cases[case]["streams"], lag)
            for case in alike
            if (lag := figures.lag(case, path, 0.95)) is not None
        ]
        _line(axes, path, title, points, marker="o")
    return _finished(figure, axes, "answers streamed at once", "lag p95 (ms)")


def _first(figures: Figures) -> tuple[int, float]:
    known = next(iter(figures.cases.values()))
    return known["tokens"], known["rate"]


def _length(figures: Figures) -> Figure | None:
    """Lag over the course of each path's longest single answer."""
    figure, axes = pyplot.subplots(figsize=(7.5, 4))
    single = [case for case, known in figures.cases.items() if known["streams"] == 1 and not known["token_bytes"]]
    for path, title in PATHS.items():
        played = [case for case in single if figures.rounds(case, path)]
        if played:
            longest = max(played, key=lambda case: int(figures.cases[case]["tokens"]))
            known = figures.cases[longest]
            pieces = min(_PIECES, max(1, known["tokens"] // _PIECE_TOKENS))
            _line(axes, path, f"{title}, at {known['rate']:,.0f}/s", figures.along(longest, path, pieces))
    return _finished(figure, axes, "token of the answer", "lag p95 (ms)")


def _cost(figures: Figures) -> Figure | None:
    """The cost of an answer in Firestore, by its length."""
    figure, panels = pyplot.subplots(1, 3, figsize=(12, 4))
    drawn = False
    for axes, what, label in zip(
        panels,
        ("writes", "reads", "bytes"),
        ("documents written", "documents read, one viewer", "bytes written and read"),
        strict=True,
    ):
        for system, how, title, style in (
            ("holdfast", WATCHED, "Holdfast, one viewer", "-"),
            ("holdfast", UNWATCHED, "Holdfast, nobody watching", ""),
            ("genkit", WATCHED, "Genkit, one viewer", "-"),
        ):
            for rate in sorted({row["rate"] for row in figures.cost(system, how)}):
                rows = [row for row in figures.cost(system, how) if row["rate"] == rate and row["whole"]]
                values = [row["written"] + row["read"] if what == "bytes" else row[what] for row in rows]
                points = [(row["tokens"], value) for row, value in zip(rows, values, strict=True) if value]
                path = "instant" if how == UNWATCHED else "genkit, subscriber" if system == "genkit" else "holdfast"
                line = "--" if rate > 100 else style
                _line(axes, path, f"{title}, {rate:,.0f}/s", points, marker="o", linestyle=line or "None")
                drawn = drawn or bool(points)
        _scaled(axes, "tokens of the answer", label)
    if not drawn:
        pyplot.close(figure)
        return None
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", bbox_to_anchor=(0.5, 0.02), ncols=4)
    figure.tight_layout()
    return figure


def _line(axes: Axes, path: str, title: str, points: list[tuple[int, float]], **style: Any) -> None:
    if points:
        width = 2.5 if path in ("holdfast", "instant") else 1.5
        xs, ys = zip(*points, strict=True)
        axes.plot(xs, ys, label=title.replace("*", ""), color=_COLOURS[path], linewidth=width, **style)


def _finished(figure: Figure, axes: Axes, x: str, y: str) -> Figure | None:
    if not axes.lines:
        pyplot.close(figure)
        return None
    _scaled(axes, x, y)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def _scaled(axes: Axes, x: str, y: str) -> None:
    axes.set(xscale="log", yscale="log", xlabel=x, ylabel=y)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
