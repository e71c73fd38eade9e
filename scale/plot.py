"""Plots the simulated bursts, for the docs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from scale.scenarios import Outcome

_STYLE: dict[Any, Any] = {
    "axes.grid": True,
    "axes.spines.top": False,
    "font.size": 9,
    "grid.alpha": 0.3,
    "svg.fonttype": "none",
    "svg.hashsalt": "scale",
}
_EVERY = 5  # seconds between two points


def draw(outcomes: Sequence[Outcome], file: Path) -> None:
    """Writes an SVG with a panel for each burst. Equal outcomes give equal bytes."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(11, 3 * -(-len(outcomes) // 2)), layout="constrained")
        panels = figure.subplots(-(-len(outcomes) // 2), 2, squeeze=False).flatten()
        lines = [_panel(axes, outcome) for axes, outcome in zip(panels, outcomes, strict=False)]
        figure.legend(handles=lines[0], loc="outside lower center", ncols=len(lines[0]), frameon=False)
        figure.savefig(file, format="svg", metadata={"Date": None}, facecolor="white")


def _panel(axes: Axes, outcome: Outcome) -> list[Line2D]:
    moments = outcome.moments[::_EVERY]
    minutes = [moment.second / 60 for moment in moments]
    beside = axes.twinx()
    lines = []
    for on, name, label, style in (
        (axes, "wanted", "wanted", {"color": "#8a8a8a", "linestyle": ":"}),
        (axes, "running", "running", {"color": "#0b5fbf"}),
        (axes, "waiting", "waiting in the queue", {"color": "#d9541e"}),
        (beside, "workers", "workers (right)", {"color": "#2e8b3d", "linewidth": 1, "drawstyle": "steps-post"}),
        (beside, "apis", "api instances (right)", {"color": "#a9d6a5", "linewidth": 1, "drawstyle": "steps-post"}),
    ):
        lines += on.plot(minutes, [getattr(moment, name) for moment in moments], label=label, **style)
    load = outcome.scenario.load
    axes.set(title=f"{load.before:,.0f} → {load.after:,.0f}, {outcome.scenario.title}", xlabel="minutes")
    beside.grid(visible=False)
    for each in (axes, beside):
        each.set_ylim(0, None)
        each.yaxis.set_major_formatter("{x:,.0f}")
    return lines
