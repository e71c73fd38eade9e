"""Writes the page of a run. All numbers on it must come from the raw results.

The part between `SUMMARY` and `SUMMARY_END` is copied into the README.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any

from bench import sections
from bench.bar import bars
from bench.cost import REPLAYED, UNWATCHED, WATCHED
from bench.figures import FIRST, LAST, PATHS, Figures, percentile
from bench.markdown import NONE, cell, hundredths, ms, seconds, size, spread, table, whole_number, with_ms

SUMMARY = "<!-- summary: made by make bench -->"
SUMMARY_END = "<!-- end of the summary -->"
PLOTS = {
    "load.svg": "Lag p95 by the number of streams",
    "length.svg": "Lag p95 along an answer",
    "cost.svg": "Firestore's cost of an answer by its length",
}


def page(raw: dict[str, Any], plots: Sequence[str]) -> str:
    """The results as Markdown. `plots` are files in the same folder."""
    figures = Figures(raw)
    parts = [
        _opening(raw),
        _bars(figures) if raw["full"] else "",
        _summary(figures, plots),
        _lags(figures),
        _growing(figures),
        sections.far(raw),
        sections.starts(raw),
        sections.dialects(raw),
        _costs(figures),
        _rest(figures),
        _cap(raw),
        _method(raw),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _opening(raw: dict[str, Any]) -> str:
    words = "Made by `make bench`; every number is measured, in one run, on one machine and one Firestore emulator."
    if not raw["full"]:
        words = "A run in part, or of tiny sizes: it shows that the harness works, and its numbers say nothing."
    rows = [(name, value) for name, value in raw["machine"].items()]
    if paces := [1000 * shown["pace"] for shown in raw.get("lag", ())]:
        took = f"{min(paces):.0f} to {max(paces):.0f} ms, median {median(paces):.0f}"
        rows.append(("speed", f"the same loop of Python, before each case, took {took}"))
    parts = " ".join(f"{name} {spent:,.0f} s" for name, spent in raw["seconds"].items())
    rows.append(("time taken", f"{sum(raw['seconds'].values()) / 60:.1f} minutes: {parts}"))
    return f"# Measured\n\n{words}\n\n{table(('', ''), rows)}"


def _bars(figures: Figures) -> str:
    rows = []
    for bar in bars(figures):
        verdict = {None: "not measured", True: "yes", False: "**no**"}[bar.reached]
        rows.append(
            (
                bar.what,
                f"≤ {cell(bar.shown, bar.limit)}",
                cell(bar.shown, bar.measured),
                cell(bar.shown, bar.peer),
                verdict,
            )
        )
    return "## What must be reached\n\n" + table(("", "to reach", "measured", "Genkit, this run", "reached"), rows)


def _summary(figures: Figures, plots: Sequence[str]) -> str:
    parts = [_lag_summary(figures), _cost_summary(figures)]
    parts += [f"![{title}]({name})" for name, title in PLOTS.items() if name in plots]
    body = "\n\n".join(part for part in parts if part)
    return f"## Summary\n\n{SUMMARY}\n{body}\n{SUMMARY_END}" if body else ""


def _lag_summary(figures: Figures) -> str:
    cases = [case for case in figures.cases if figures.paths(case)]
    if not cases:
        return ""
    rows = []
    for path in PATHS:
        lags = [_lag_cell(figures, case, path) for case in cases]
        if any(lag != NONE for lag in lags):
            rows.append((PATHS[path], *lags))
    titles = [figures.title(case) for case in cases]
    return (
        "Lag of a token, from the upstream's write to the reader's read, p95 in ms "
        "(streams × tokens at tokens a second; ✗ where tokens are missing):\n\n" + table(("", *titles), rows)
    )


def _lag_cell(figures: Figures, case: str, path: str) -> str:
    lag = figures.lag(case, path, 0.95)
    wrong = figures.missing(case, path) + figures.disordered(case, path)
    if lag is None:
        return f"✗ {wrong:,} missing" if wrong else NONE
    return f"{ms(lag)} ✗" if wrong else ms(lag)


def _cost_summary(figures: Figures) -> str:
    wanted = [("holdfast", UNWATCHED), ("holdfast", WATCHED), ("genkit", WATCHED)]
    longest = max((int(row["tokens"]) for row in figures.cost("holdfast", UNWATCHED)), default=0)
    rows = []
    for system, how in wanted:
        row, again = figures.cost_of(system, how, longest), figures.cost_of(system, REPLAYED, longest)
        if row is not None:
            name = f"{PATHS.get(system, 'Genkit')}, {how}" + ("" if row["whole"] else " ✗")
            rows.append((name, *_operations(row), f"{again['reads']:,}" if again else NONE))
    if not rows:
        return ""
    heads = ("", "written", "bytes", "read", "bytes", "read to replay it")
    what = f"Firestore documents for an answer of {longest:,} tokens, in one run (✗ where not all of it came in time)"
    return f"{what}:\n\n" + table(heads, rows)


def _lags(figures: Figures) -> str:
    heads = (
        "",
        "rounds",
        "whole",
        "missing",
        "first token",
        "lag p50",
        "p95",
        "max",
        "end",
        "CPU: its own",
        "its store's",
        "its queue's",
        "upstream",
        "client",
    )
    parts = []
    for case in figures.cases:
        rows = [tuple(_lag_row(figures, case, path)) for path in figures.paths(case)]
        if rows:
            parts.append(f"### {figures.title(case)}\n\n{table(heads, rows)}")
    if not parts:
        return ""
    words = (
        "Times are in ms: of the first token from the request on, of the end from the upstream's last token on. "
        "A p50 or p95 is the median of the rounds', a max the largest of all rounds. "
        "CPU is in seconds per 1,000 tokens; the upstream's and the client's is in cores."
    )
    return "\n\n".join(["## Lag", words, *parts])


def _lag_row(figures: Figures, case: str, path: str) -> Iterator[str]:
    whole, of = figures.whole(case, path)
    yield PATHS[path]
    yield str(figures.rounds(case, path))
    yield f"{whole:,} of {of:,}"
    yield f"{figures.missing(case, path):,}"
    yield cell(ms, figures.first_token(case, path))
    yield cell(ms, figures.lag(case, path, 0.5))
    yield cell(ms, figures.lag(case, path, 0.95))
    yield cell(ms, figures.worst_lag(case, path))
    yield cell(ms, figures.end(case, path))
    for whose in ("own", "store", "queue"):
        yield cell(hundredths, figures.cpu(case, path, whose))
    for whose in ("upstream", "client"):
        yield cell(hundredths, figures.busy(case, path, whose))


def _growing(figures: Figures) -> str:
    rows = []
    for case, known in figures.cases.items():
        for path in figures.paths(case) if known["streams"] == 1 else ():
            first, last = (figures.lag_of_tenth(case, path, which) for which in (FIRST, LAST))
            ratio = NONE if not first or last is None else f"{last / first:.2f}"
            rows.append((figures.title(case), PATHS[path], cell(ms, first), cell(ms, last), ratio))
    heads = ("", "", "first tenth", "last tenth", "last / first")
    return f"## Lag p95 along an answer (ms)\n\n{table(heads, rows)}" if rows else ""


def _costs(figures: Figures) -> str:
    rows = [
        (
            PATHS.get(row["system"], "Genkit"),
            row["how"],
            f"{row['tokens']:,} at {row['rate']:,.0f}/s",
            f"{row['commits']:,}",
            *_operations(row),
            "yes" if row["whole"] else "**no**",
        )
        for system in ("holdfast", "genkit")
        for how in (UNWATCHED, WATCHED, REPLAYED)
        for row in figures.cost(system, how)
    ]
    if not rows:
        return ""
    heads = ("", "", "tokens", "commits", "documents written", "bytes", "documents read", "bytes", "came whole")
    words = (
        "Counted at the wire, as Firestore bills them, from the start's request to the end, in a pass of its own. "
        "Genkit has no way to stream without writing each token, watched or not."
    )
    return f"## Firestore\n\n{words}\n\n{table(heads, rows)}"


def _operations(row: dict[str, Any]) -> tuple[str, str, str, str]:
    return f"{row['writes']:,}", size(row["written"]), f"{row['reads']:,}", size(row["read"])


def _rest(figures: Figures) -> str:
    rows = [*_replay(figures.raw), *_stop(figures.raw), *_cold(figures.raw), *_memory(figures)]
    return "## Replay, stop, start, memory\n\n" + table(("", "median", "least", "most"), rows) if rows else ""


def _replay(raw: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    found = raw.get("replay")
    if not found:
        return
    peers = found["peers"]
    for name, tokens, replays in (
        ("Holdfast", found["tokens"], found["holdfast"]),
        ("Genkit", peers["tokens"], peers["genkit"]),
    ):
        whole = sum(replay["whole"] for replay in replays)
        what = f"{name}: replay of a finished answer of {tokens:,} tokens ({whole} of {len(replays)} whole)"
        yield (f"{what}, all of it", *spread([replay["last"] / 1000 for replay in replays], with_ms))
        yield (f"{what}, tokens a second", *spread([tokens / replay["last"] * 1e6 for replay in replays], whole_number))
    status = f"status {peers['resumable']}"
    yield (f"resumable-stream: what a finished answer of {peers['tokens']:,} tokens is answered with", status, "", "")


def _stop(raw: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    found = [each for each in raw.get("stop", ()) if each["status"] == 200]
    if raw.get("stop"):
        what = f"Holdfast: a stop ({len(found)} of {len(raw['stop'])} answered with 200)"
        yield (f"{what}, until it is stopped and saved", *spread([each["stopped"] / 1000 for each in found], with_ms))
        seen = [each["seen"] / 1000 for each in found if each["seen"] is not None]
        yield (f"{what}, until its viewer knows", *spread(seen, with_ms))


def _cold(raw: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    if found := raw.get("cold"):
        yield ("Holdfast: cold import of everything", *spread(found["import"], seconds))
        yield ("The same of the five packages at its core alone", *spread(found["core"], seconds))
        yield ("Holdfast: both functions started, to the first token", *spread(found["first"], seconds))


def _memory(figures: Figures) -> Iterator[tuple[str, ...]]:
    deployed, alone = figures.memory("deployed"), figures.memory("one")
    if deployed is None or alone is None:
        return
    raw = figures.raw["memory"]["deployed"]
    number = raw["generations"]
    for what, measured in (
        ("api, warm", raw["warm"]["api"]),
        ("worker, warm", raw["warm"]["worker"]),
        (f"worker, each of {number} live generations", deployed.generation),
        (f"api, each of their {number} viewers", deployed.viewer),
        ("the same with a listen stream for each, which the emulator needs", alone.viewer),
        *(
            (f"api, each of {viewers:,} idle viewers of one generation", each)
            for viewers, each in deployed.crowds.items()
        ),
    ):
        yield (f"Holdfast: {what}", size(measured), "", "")


def _cap(raw: dict[str, Any]) -> str:
    found = raw.get("cap")
    if not found:
        return ""
    rows = []
    for each in found:
        started = [start for start in each["during"] if start is not None]
        before = [start / 1000 for start in each["before"] if start is not None]
        rows.append(
            (
                {"one": "one, as against an emulator", "deployed": "as many as are deployed"}[each["how"]],
                f"{each['whole']:,} of {each['viewers']:,}",
                cell(ms, percentile(before, 0.5)),
                f"{len(started)} of {len(each['during'])}",
                cell(ms, percentile([start / 1000 for start in started], 0.5)),
                cell(ms, percentile([start / 1000 for start in started], 0.95)),
            )
        )
    heads = (
        "documents a listen stream",
        "viewers who read all",
        "a start before them, p50",
        "starts with them",
        "a start with them, p50",
        "p95",
    )
    words = (
        f"Both functions reach Firestore through nghttpx, which allows {found[0]['streams']} streams a connection. "
        "Each viewer watches an answer of its own on one api process; the further starts (in ms to the first token) "
        "commit over the same connections. With one document a listen stream, which the emulator needs, there are too "
        "few streams: who finds none free sees what is read every few seconds without a listener, which shows that the "
        "cap holds. With as many as are deployed there are enough. (The emulator may corrupt such a stream; it is "
        "opened again. Firestore does not.)"
    )
    return f"## The cap on streams\n\n{words}\n\n{table(heads, rows)}"


def _method(raw: dict[str, Any]) -> str:
    lines = [
        "The demo upstream notes the moment at which it writes each token, the client the moment of each read, both by "
        "the machine's monotonic clock. The notes are compared afterwards, token by token: what is missing or out of "
        "order is counted.",
        "The client is one thread that keeps what it reads and looks at it afterwards. All answers of a case are asked "
        "for at once. The systems take turns, in another order each round, and Firestore is emptied in between. "
        "Its emulator is started anew for each round.",
        "Holdfast is as deployed: gunicorn, both functions, the Cloud Tasks emulator with its signed tokens, Google's "
        "own client libraries. Its reader is the client that asked.",
        "Genkit: an Express server with `expressHandler` and `FirestoreStreamManager`. The client that asked reads the "
        "live path, which shows a token before it is saved; a subscriber attaches as soon as it knows the name.",
        "resumable-stream: an Express server and a Redis that saves nothing. The client that asked reads the live "
        "path; another resumes the stream as soon as it can.",
        "Holdfast's end comes when the message is saved, Genkit's when its document is. The others save nothing.",
        "Documents are counted in a pass of their own, Holdfast's shortest answer alone and its others at once. There "
        "is no document of the chat that is asked in: where there is one, an answer has one write more.",
        "Who attaches later has the tokens late that were written before. As set up here, neither peer has a queue or "
        "checks who asks.",
        f"An answer that has not ended {raw['patience']:.0f} s after its upstream's end is cut off, and what did not "
        "come counts as missing. Not everybody plays the longest and the largest cases, so that a run has an end.",
        "A distance is a TCP proxy, in which each direction of each connection is late by half of it. Firestore's is "
        "before both functions and before Genkit, Redis's before resumable-stream. The queue has none.",
        "All of it shares the machine's cores: the upstream, the client, the emulators and what is measured.",
    ]
    return "## How\n\n" + "\n".join(f"- {line}" for line in lines)
