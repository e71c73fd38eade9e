"""The waterfall of a start, as a command: `python -m bench.waterfall`, and `make waterfall`.

Asks for short answers, one after the other, with Firestore far away, and draws the one whose first token took the
median time into docs/waterfall.svg, with its rows as a table in docs/performance.md.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from requests import RequestException

from bench.markdown import ms, table
from bench.watched import Seen, Watched
from local.client import Client, question
from local.firestore_emulator import EmulatorMissing
from local.ports import PortFault, Ports
from local.process import ProcessFault
from local.stack import ROOT, Stack
from operations import generated

AWAY_SECONDS = 0.04
STARTS = 11
WARM = 3
WARM_SECONDS = 120.0
SPANS = {"POST /v1/chat/completions", "enqueue", "POST /", "attempt", "upstream"}
CLIENT = "client"
_COLOURS = {
    CLIENT: "#c4c4c4",
    "api": "#6ea8e8",
    "worker": "#6cc07a",
    "api, Firestore": "#bcd7f7",
    "worker, Firestore": "#cbe8c9",
}
_LATE = 0.75  # of the width: from here on a label is before its bar
_STYLE: dict[Any, Any] = {"font.size": 9, "svg.fonttype": "none", "svg.hashsalt": "waterfall"}


@dataclass(frozen=True, slots=True)
class Row:
    """Who does what, from when until when, in milliseconds since the request. It may go on after the first token."""

    who: str
    what: str
    begins: float
    ends: float


def rows(asked: float, first: float, seen: Sequence[Seen], trace: str, away: float) -> list[Row]:
    """What was begun before the client had its first token, in order.

    Calls to Firestore are as their callers see them, half of the distance longer on either side. A snapshot is sent.
    """
    half = away / 2
    found = [Row(CLIENT, "request to first token", 0.0, 1000 * (first - asked))]
    for each in seen:
        if each.trace:
            who, began, ended = each.who, each.began, each.ended
        else:
            who, began, ended = f"{each.who}, Firestore", each.began - half, each.ended + half
            began = each.began if each.what == "snapshot" else began
        if each.trace in (trace, "") and asked <= began < first:
            found.append(Row(who, each.what, 1000 * (began - asked), 1000 * (ended - asked)))
    return sorted(found, key=lambda row: row.begins)


def measure(starts: int, away: float, environ: Mapping[str, str] = os.environ) -> list[Row]:
    """The rows of the start with the median time to the first token. Errors: the stack's, `TimeoutError`."""
    ports = Ports.free()
    with Watched(ports, away) as watched:
        settings = {**watched.settings, "FIRESTORE_EMULATOR_HOST": watched.hosts["api"]}
        with Stack(ports, settings, environ) as stack:
            stack.processes["worker"].kill()
            stack.restart("worker", {"FIRESTORE_EMULATOR_HOST": watched.hosts["worker"]})
            stack.wait_for("worker")
            client = Client(stack.url, "alice")
            _warm_up(client)
            found = sorted(
                (_started(client, watched, f"start {number}", away) for number in range(starts)),
                key=lambda start: start[0].ends,
            )
            client.session.close()
    return found[len(found) // 2]


def _warm_up(client: Client) -> None:
    """Until some answers in a row were whole. Errors: `TimeoutError`."""
    deadline, whole = time.monotonic() + WARM_SECONDS, 0
    while whole < WARM:
        if time.monotonic() > deadline:
            raise TimeoutError("the stack did not answer in time")
        whole = whole + 1 if client.complete(question(f"warm {whole}", 3, rate=1_000)).status_code == 200 else 0


def _started(client: Client, watched: Watched, words: str, away: float) -> list[Row]:
    asked = time.time()
    with client.stream(question(words, 3, rate=1_000)) as stream:
        stream.response.raise_for_status()
        frames = stream.frames()
        next(frame for frame in frames if frame.data != "[DONE]" and frame.text)
        first = time.time()
        generation = stream.generation
        for _ in frames:
            pass
    spans = watched.until(lambda seen: {span.what for span in _trace(seen, generation)} >= SPANS)
    return rows(asked, first, spans, _trace(spans, generation)[0].trace, away)


def _trace(seen: Sequence[Seen], generation: str) -> list[Seen]:
    """The spans of a generation's trace."""
    traces = {each.trace for each in seen if each.generation == generation}
    return [each for each in seen if each.trace and each.trace in traces]


def said(found: Sequence[Row], starts: int, away: float) -> str:
    """The rows as a table, with a caption."""
    first = next(row.ends for row in found if row.who == CLIENT)
    lines = [(row.who, row.what, ms(row.begins), ms(row.ends) if row.ends <= first else "later") for row in found]
    words = (
        f"The first token came after {ms(first)} ms with Firestore {1000 * away:.0f} ms away, there and back: "
        f"{first / (1000 * away):.1f} times the distance. It is the median of {starts}. Times are in "
        "ms since the request."
    )
    return f"{words}\n\n{table(('who', 'what', 'begins', 'ends'), lines)}"


def draw(found: Sequence[Row], file: Path) -> None:
    """Writes an SVG. Equal rows give equal bytes."""
    first = next(row.ends for row in found if row.who == CLIENT)
    edge = 1.05 * first
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(10, 0.6 + 0.28 * len(found)), layout="constrained")
        axes = figure.subplots()
        for place, row in enumerate(found):
            width = max(min(row.ends, edge) - row.begins, edge / 400)
            axes.barh(place, width, left=row.begins, height=0.7, color=_COLOURS[row.who])
            where: dict[str, Any] = {"xytext": (3, 0), "ha": "left"}
            if row.begins > _LATE * edge:
                where = {"xytext": (-3, 0), "ha": "right"}
            axes.annotate(row.what, (row.begins, place), textcoords="offset points", va="center", **where)
        axes.axvline(first, color=_COLOURS[CLIENT], linestyle=":")
        axes.set(xlim=(0, edge), xlabel="ms since the request", yticks=range(len(found)))
        axes.set_yticklabels([row.who for row in found])
        axes.invert_yaxis()
        axes.grid(axis="x", alpha=0.3)
        figure.savefig(file, format="svg", metadata={"Date": None}, facecolor="white")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.waterfall", description="The waterfall of a start.")
    parser.add_argument("--starts", type=int, default=STARTS, help="of which the median one is drawn (%(default)s)")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="the folder of performance.md")
    options = parser.parse_args(argv)
    try:
        found = measure(max(1, options.starts), AWAY_SECONDS)
    except (EmulatorMissing, PortFault, ProcessFault, RequestException, TimeoutError) as fault:
        print(fault, file=sys.stderr)
        return 1
    text = said(found, options.starts, AWAY_SECONDS)
    generated.put(options.docs / "performance.md", "waterfall", text)
    draw(found, options.docs / "waterfall.svg")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
