"""What several folders of tests share: the local stack on free ports, started once, and a client of it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from local.ports import Ports
from local.stack import Stack


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """The whole local stack, as `make run` starts it."""
    environ = {name: value for name, value in os.environ.items() if not name.endswith("_PORT")}
    with Stack(Ports.free(), {"MAX_LIVE_GENERATIONS": "1000"}, environ) as running:
        yield running
