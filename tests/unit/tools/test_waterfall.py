"""The rows of a waterfall are what a start did, as its callers saw it."""

from __future__ import annotations

from pathlib import Path

from bench.watched import Seen
from bench.waterfall import Row, draw, rows, said

ASKED, AWAY = 1_000.0, 0.04


def seen(who: str, what: str, began: float, ended: float, trace: str = "") -> Seen:
    return Seen(who=who, what=what, began=ASKED + began, ended=ASKED + ended, trace=trace)


def test_calls_to_firestore_are_longer_by_the_way_there_and_back_and_snapshots_by_the_way_back() -> None:
    calls = [seen("api", "Commit, 3 documents", 0.05, 0.06), seen("api", "snapshot", 0.15, 0.15)]
    _, commit, snapshot = rows(ASKED, ASKED + 0.2, calls, "mine", AWAY)
    assert (commit.who, round(commit.begins), round(commit.ends)) == ("api, Firestore", 30, 80)
    assert (snapshot.what, round(snapshot.begins), round(snapshot.ends)) == ("snapshot", 150, 170)


def test_only_this_start_s_spans_and_what_was_begun_before_its_first_token_are_shown_in_order() -> None:
    there = [
        seen("worker", "attempt", 0.1, 0.5, "mine"),
        seen("worker", "attempt", 0.11, 0.5, "another"),
        seen("worker", "late", 0.3, 0.5, "mine"),
        seen("api", "Commit, 3 documents", -0.5, -0.4),
        seen("api", "enqueue", 0.01, 0.02, "mine"),
    ]
    found = rows(ASKED, ASKED + 0.2, there, "mine", AWAY)
    assert [row.what for row in found] == ["request to first token", "enqueue", "attempt"]
    assert [round(row.ends) for row in found] == [200, 20, 500]


def test_the_table_says_how_often_the_distance_is_in_the_first_token() -> None:
    found = [Row("client", "request to first token", 0.0, 150.0), Row("api", "enqueue", 45.0, 151.0)]
    text = said(found, 11, AWAY)
    assert "after 150 ms with Firestore 40 ms away, there and back: 3.8 times the distance" in text
    assert "| api | enqueue | 45 | later |" in text


def test_equal_rows_give_equal_pictures(tmp_path: Path) -> None:
    found = [Row("client", "request to first token", 0.0, 150.0), Row("worker", "attempt", 45.0, 1_510.0)]
    pictures = []
    for name in ("one.svg", "two.svg"):
        draw(found, tmp_path / name)
        pictures.append((tmp_path / name).read_bytes())
    assert pictures[0] == pictures[1]
    assert b"attempt" in pictures[0]
