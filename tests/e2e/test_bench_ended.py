"""A run of the bench that is ended ends whole."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
WAIT_SECONDS = 120.0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGKILL, -9)])
def test_a_run_that_is_ended_leaves_nothing_behind(number: signal.Signals, code: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "bench", "--quick", "--only", "lag"], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    try:
        assert any(line.startswith("measuring ") for line in process.stderr)
        parts = psutil.Process(process.pid).children(recursive=True)
        assert {"java", "redis-server", "node"} <= {part.name() for part in parts}
        process.send_signal(number)
        assert process.wait(WAIT_SECONDS) == code
        _, alive = psutil.wait_procs(parts, timeout=WAIT_SECONDS)
        assert not alive
    finally:
        process.kill()
        process.stderr.close()
        process.wait()
