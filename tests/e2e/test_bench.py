"""The bench as a user runs it, at its smallest: every part works and every count holds. No time is judged here."""

from __future__ import annotations

import json
import math
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bench.figures import PATHS
from bench.plan import QUICK

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / "build" / "bench" / "quick"
WAIT_SECONDS = 900.0
pytestmark = pytest.mark.timeout(1000)  # the bench's own end comes first


@pytest.fixture(scope="module")
def page() -> str:
    """What `make bench QUICK=1` writes."""
    environ = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL")}
    done = subprocess.run(
        ["make", "--silent", "bench", "QUICK=1"],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == str(KEPT / "results.md")
    return (KEPT / "results.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def raw(page: str) -> dict[str, Any]:
    assert page
    kept: dict[str, Any] = json.loads((KEPT / "measured.json").read_bytes())
    return kept


# Second readers of the peers' on a busy machine: resumable-stream gives nothing to one who comes after the answer's end
# or is not told within a second, and Genkit's writes may come too late for the bench's patience.
MISSABLE = {"resumable, resumed", "genkit, subscriber"}


def test_every_reader_of_every_system_reads_every_token_after_it_was_written(raw: dict[str, Any]) -> None:
    cases = {case.name: case for case in QUICK.cases}
    assert {row["path"] for row in raw["lag"]} == PATHS.keys()
    for row in raw["lag"]:
        case = cases[row["case"]]
        assert_read(row, case.streams)
        assert [len(lags) for lags in row["lags"]] == [case.tokens] * case.streams
    for path in MISSABLE:
        assert sum(row["whole"] for row in (*raw["lag"], *raw["far"]["lag"]) if row["path"] == path) > 0


def assert_read(row: dict[str, Any], streams: int) -> None:
    """Every answer of a row was read in order, after it was written, and whole, except where some may be missed."""
    assert row["disordered"] == 0, row["path"]
    assert row["path"] in MISSABLE or (row["whole"], row["lost"]) == (streams, 0), row["path"]
    assert row["whole"] < streams or row["lost"] == 0, row["path"]
    assert sum(lags.count(None) for lags in row["lags"]) <= row["lost"]
    for times in (row["ttft"], row["end"], *row["lags"]):
        assert all(time > 0 for time in times if time is not None)


def test_what_firestore_is_asked_to_do_is_counted_to_the_last_write(raw: dict[str, Any]) -> None:
    costs = {(cost["system"], cost["how"], cost["tokens"]): cost for cost in raw["cost"]}
    for cost in costs.values():
        assert cost["whole"], cost
    for tokens in QUICK.growth[0].genkit:
        theirs, ours = (costs[system, "one viewer", tokens] for system in ("genkit", "holdfast"))
        assert theirs["writes"] == theirs["commits"] == tokens + 2  # its opening and its end
        assert ours["commits"] < ours["writes"] < theirs["writes"]
        assert 0 < ours["reads"] <= ours["writes"]
    replayed = costs["holdfast", "replayed", QUICK.unwatched]
    assert (replayed["writes"], replayed["written"]) == (0, 0)
    assert replayed["reads"] > 0


def test_what_is_measured_once_came_about(raw: dict[str, Any]) -> None:
    assert all(replay["whole"] for replay in raw["replay"]["holdfast"] + raw["replay"]["peers"]["genkit"])
    assert raw["replay"]["peers"]["resumable"] == 422
    assert [stop["status"] for stop in raw["stop"]] == [200]
    assert all(stop["seen"] > 0 for stop in raw["stop"])
    assert all(seconds > 0 for kind in ("import", "first") for seconds in raw["cold"][kind])
    assert raw["memory"].keys() == {"one", "deployed"}
    for memory in raw["memory"].values():
        assert [each["viewers"] for each in memory["watched"]] == [QUICK.viewers, QUICK.crowd]
        assert all(
            each[name] > 0
            for each in (memory["warm"], memory["live"], *memory["watched"])
            for name in ("api", "worker")
        )


def test_the_cap_on_streams_holds_and_every_viewer_is_served_below_it(raw: dict[str, Any]) -> None:
    alone, deployed = raw["cap"]
    assert alone["viewers"] == deployed["viewers"] > alone["streams"]
    assert deployed["whole"] == deployed["viewers"]
    assert None not in deployed["before"] + deployed["during"]
    # Who finds no stream free sees the first token when the head is read without a listener.
    assert min(start or math.inf for start in alone["during"]) > max(deployed["during"])


def test_every_system_is_read_whole_with_its_store_far_away(raw: dict[str, Any]) -> None:
    far = raw["far"]
    assert {row["path"] for row in far["lag"]} == PATHS.keys() - {"direct", "instant"}
    for row in far["lag"]:
        assert_read(row, QUICK.far.streams[0])
    # Firestore can't be asked and answer in less than its distance: no first token comes before.
    distant = [row for row in far["lag"] if row["case"].startswith("far") and row["path"] == "holdfast"]
    assert all(first > 2 * 1e6 * far["firestore"] for row in distant for first in row["ttft"])


def test_starts_are_counted_for_each_distance_and_answers_are_whole_in_each_model_api(raw: dict[str, Any]) -> None:
    trips = raw["starts"]["trips"]
    assert [each["seconds"] for each in trips] == list(QUICK.one_by_one.distances)
    for each in trips:
        assert min(each["first"]) > 2 * 1e6 * each["seconds"]
    assert raw["starts"]["cpu"]["start"] > 0
    played = {row["dialect"]: row for row in raw["dialects"]}
    assert played.keys() == {"chat_completions", "messages", "responses", "gemini"}
    assert all(row["whole"] == QUICK.dialects.streams and row["own"] > 0 for row in played.values())


def test_the_page_shows_all_of_it_and_judges_nothing(page: str) -> None:
    headings = [line.removeprefix("## ") for line in page.splitlines() if line.startswith("## ")]
    assert headings == [
        "Summary",
        "Lag",
        "Lag p95 along an answer (ms)",
        "Stores far away",
        "Starts",
        "Model APIs",
        "Firestore",
        "Replay, stop, start, memory",
        "The cap on streams",
        "How",
    ]
    assert "its numbers say nothing" in page
    for plot in ("load.svg", "length.svg", "cost.svg"):
        assert f"]({plot})" in page
        assert (KEPT / plot).read_text(encoding="utf-8").startswith("<?xml")
