"""The bench's distances are kept, and what they cost, what a start takes and what a model API takes is judged."""

from __future__ import annotations

import re
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest
import requests

from bench.bar import Bar, bars
from bench.figures import Figures
from bench.plan import full
from bench.report import page

PLAN = full(5)
ROOT = Path(__file__).resolve().parents[3]
HOST = "127.0.0.1"
WAIT_SECONDS = 60.0
SECONDS = 0.2
SPENT = {"own": 0.3, "store": 0.1, "queue": 0.0, "upstream": 0.2, "client": 0.1, "wall": 2.0}


class Echo(socketserver.BaseRequestHandler):
    """Says what it hears, until the end of what it hears."""

    def handle(self) -> None:
        while said := self.request.recv(1 << 16):
            self.request.sendall(said)


class Distant:
    """`Echo` behind the proxy, which runs as the bench runs it."""

    def __init__(self) -> None:
        self._server = socketserver.ThreadingTCPServer((HOST, 0), Echo)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        target = f"{HOST}:{self._server.server_address[1]}"
        command = [sys.executable, "-m", "bench.distance", "--target", target, "--seconds", str(SECONDS)]
        self._process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        found = re.fullmatch(r"ready tcp=(\S+):(\d+) http=(\S+)\n", self._process.stdout.readline())
        assert found is not None
        self._address, self._url = (found[1], int(found[2])), found[3]
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        assert self._process.wait(WAIT_SECONDS) == 0
        assert self._process.stdout is not None
        self._process.stdout.close()
        self.close_server()

    def close_server(self) -> None:
        """Safe to call twice."""
        self._server.shutdown()
        self._server.server_close()

    def connected(self) -> socket.socket:
        return socket.create_connection(self._address, timeout=WAIT_SECONDS)

    def put(self, seconds: float) -> None:
        requests.post(self._url, json={"seconds": seconds}, timeout=WAIT_SECONDS).raise_for_status()


def heard(connection: socket.socket, size: int) -> bytes:
    said = b""
    while len(said) < size and (piece := connection.recv(1 << 16)):
        said += piece
    return said


@pytest.fixture(scope="module")
def distant() -> Iterator[Distant]:
    with Distant() as there:
        yield there


def test_a_distant_host_answers_after_a_round_trip_and_not_before(distant: Distant) -> None:
    with distant.connected() as connection:
        began = time.monotonic()
        connection.sendall(b"ping")
        assert heard(connection, 4) == b"ping"
        assert time.monotonic() - began >= SECONDS


def test_everything_arrives_in_order_also_when_the_distance_shrinks_meanwhile(distant: Distant) -> None:
    pieces = [b"%07d" % number for number in range(20_000)]
    try:
        with distant.connected() as connection:
            connection.sendall(b"".join(pieces[:10_000]))
            distant.put(0)
            connection.sendall(b"".join(pieces[10_000:]))
            assert heard(connection, 7 * len(pieces)) == b"".join(pieces)
    finally:
        distant.put(SECONDS)


def test_the_end_is_passed_on_after_what_was_under_way(distant: Distant) -> None:
    with distant.connected() as connection:
        connection.sendall(b"the last words")
        connection.shutdown(socket.SHUT_WR)
        assert heard(connection, 1 << 20) == b"the last words"


def test_a_host_that_is_not_there_ends_the_connection(distant: Distant) -> None:
    distant.close_server()
    with distant.connected() as connection:
        assert heard(connection, 1) == b""


def row(case: str, path: str, milliseconds: int, first: int = 20) -> dict[str, Any]:
    lags = [1_000 * milliseconds] * PLAN.far.tokens
    seen = {"whole": 1, "lost": 0, "disordered": 0, "ttft": [1_000 * first], "end": [5_000], "spent": SPENT}
    return {"case": case, "path": path, "round": 0, "pace": 0.02, "lags": [lags], **seen}


def far(*rows: dict[str, Any]) -> dict[str, Any]:
    known = {"streams": 1, "tokens": PLAN.far.tokens, "rate": 50.0, "token_bytes": 0}
    cases = {f"{place}-1": {"title": "1 × 300", **known} for place in ("near", "far")}
    return {"firestore": 0.04, "redis": 0.001, "streams": [1], "cases": cases, "lag": list(rows)}


def raw(**more: Any) -> dict[str, Any]:
    return {
        "full": True,
        "machine": {"processor": "one"},
        "patience": 20.0,
        "cases": {case.name: case.described() for case in PLAN.cases},
        "dialect_case": PLAN.dialects.described(),
        "seconds": {"far": 60.0},
        **more,
    }


def judged(what: str, **more: Any) -> Bar:
    (found,) = (bar for bar in bars(Figures(raw(**more))) if bar.what == what)
    return found


@pytest.mark.parametrize(("lag", "first", "reached"), [(185, 144, (True, True)), (186, 145, (False, False))])
def test_distance_is_judged_by_the_same_run_without_it(lag: int, first: int, reached: tuple[bool, bool]) -> None:
    found = far(row("near-1", "holdfast", 105), row("far-1", "holdfast", lag, first))
    for name, limit, verdict in zip(("lag p95", "first token"), (105 + 2 * 40, 20 + 3.1 * 40), reached, strict=True):
        bar = judged(f"{name}, 1 × 300, Firestore 40 ms away", far=found)
        assert bar.limit == pytest.approx(limit)
        assert bar.reached is verdict


def test_without_a_run_beside_it_distance_is_not_judged() -> None:
    bar = judged("lag p95, 1 × 300, Firestore 40 ms away", far=far(row("far-1", "holdfast", 185)))
    assert (bar.limit, bar.reached) == (None, None)


def test_what_queues_up_far_away_is_judged_by_the_first_and_the_last_tenth() -> None:
    growing = row("far-1", "holdfast", 100)
    growing["lags"][0][-PLAN.far.tokens // 10 :] = [131_000] * (PLAN.far.tokens // 10)
    line = "lag p95 of the last tenth over the first's, 1 × 300, Firestore 40 ms away"
    assert judged(line, far=far(growing)).reached is False
    assert judged(line, far=far(row("far-1", "holdfast", 100))).reached is True


def counted(*, slope: float = 3.0, start: float = 1.0) -> dict[str, Any]:
    trips = [{"seconds": seconds, "first": [1e6 * (0.03 + slope * seconds)] * 3} for seconds in (0.0, 0.05, 0.1)]
    return {"trips": trips, "cpu": {"starts": 100, "start": start, "models": 1_000, "list": 1.0}}


def test_round_trips_are_the_slope_of_the_first_token_over_the_distance() -> None:
    line = "Firestore round trips before the first token"
    assert judged(line, starts=counted(slope=3.05)).measured == pytest.approx(3.05)
    assert judged(line, starts=counted(slope=3.2)).reached is False
    assert judged(line).reached is None


def test_a_start_s_cpu_is_judged_by_that_of_a_list_of_models() -> None:
    line = "CPU of a start, over that of a list of models"
    assert judged(line, starts=counted(start=1.2)).measured == pytest.approx(12)
    assert judged(line, starts=counted(start=1.21)).reached is False


def test_a_burst_is_judged_by_genkit_s_live_path_in_the_same_run() -> None:
    line = "first token of 30 starts at once, over Genkit's live path"
    ours, theirs = row("30", "holdfast", 100, first=160), row("30", "genkit, live", 10, first=100)
    assert judged(line, lag=[ours, theirs]).measured == pytest.approx(1.6)
    assert judged(line, lag=[ours, theirs]).reached is False
    assert judged(line, lag=[ours]).reached is None


def test_the_page_has_a_row_for_each_distance_and_each_model_api() -> None:
    rounds = [{"dialect": name, "whole": 30, "own": own} for name in ("gemini", "messages") for own in (0.9, 1.8, 2.7)]
    rounds += [{"dialect": "responses", "whole": 29, "own": 3.6}]
    beside, away = row("near-1", "holdfast", 105), row("far-1", "holdfast", 150, 130)
    text = page(raw(far=far(beside, away), starts=counted(), dialects=rounds), [])
    assert "| 1 × 300 | **Holdfast** | beside it | 1 of 1 | 20 | 105 | 105 | 1.00 |" in text
    assert "| 1 × 300 | **Holdfast** | far away | 1 of 1 | 130 | 150 | 150 | 1.00 |" in text
    assert "comes 3.00 times" in text
    assert "takes 10.0 ms of CPU in both functions, which is 10.00 times a `GET /v1/models`" in text
    assert "| `gemini` | 90 of 90 | 0.20 | 1.00 |" in text  # 1.8 s for 30 × 300 tokens
    assert "| `responses` | 29 of 30 | 0.40 | 2.00 |" in text
