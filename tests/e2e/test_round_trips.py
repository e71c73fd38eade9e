"""How many Firestore round trips lie between a request and its first token, one after the other.

Each commit and each read is delayed by the same time, which is long against everything else, so that the time of the
first token counts them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest
import requests

from local.client import Client, question
from local.ports import Ports
from local.stack import Stack
from local.strict import Strict

DELAY = 1.5  # seconds
TRIES = 3
WAIT_SECONDS = 60.0
LATENCIES = ("commit_latency", "read_latency")


BUDGETS = {"BUDGET_USER_DAY_TOKENS": "1000000", "BUDGET_SERVICE_DAY_TOKENS": "1000000", "UPSTREAM_PRICES": "*=1/1"}


@pytest.fixture(scope="module", params=[{}, BUDGETS], ids=["", "with budgets"])
def far(request: pytest.FixtureRequest, stack: Stack) -> Iterator[Stack]:
    """A stack whose Firestore is far away, after a first answer that was not."""
    environ = {name: value for name, value in os.environ.items() if not name.endswith("_PORT")}
    with Stack(Ports.free(), request.param, environ, Strict(), stack) as far:
        assert Client(far.url, "alice").complete(question("warm", 3, rate=0)).status_code == 200
        each = {"p50": DELAY, "p99": DELAY}
        faults = {**dict.fromkeys(LATENCIES, each), "listen_latency": None, "budget": 0.0}
        requests.post(far.firestore_faults_url, json=faults, timeout=WAIT_SECONDS).raise_for_status()
        yield far


def trips_to_first_token(stack: Stack) -> float:
    began = time.monotonic()
    with Client(stack.url, "alice").stream(question("far", 3, rate=0)) as stream:
        next(stream.frames())
        return (time.monotonic() - began) / DELAY


def test_a_first_token_is_three_round_trips_away(far: Stack) -> None:
    least = min(trips_to_first_token(far) for _ in range(TRIES))
    assert 3 <= least < 4
