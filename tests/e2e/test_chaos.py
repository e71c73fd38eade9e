"""The fault matrix as a user runs it: a short run of every fault, and one in which a promise is broken."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from chaos.faults import FAULTS, StoppedWhileMute

ROOT = Path(__file__).resolve().parents[2]
WAIT_SECONDS = 600.0


def run(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "chaos", "--short", "--rounds", "1", *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=WAIT_SECONDS, check=False)


def test_every_fault_leaves_every_promise_kept() -> None:
    done = run()
    assert done.returncode == 0, done.stdout + done.stderr
    seed, *lines = done.stdout.splitlines()
    assert re.fullmatch(r"seed \d+", seed)
    start = next(place for place, line in enumerate(lines) if line.startswith("fault "))
    rows = [re.split(r"\s{2,}", line.strip()) for line in lines[start + 2 : start + 2 + len(FAULTS)]]
    assert [row[0] for row in rows] == [fault.title for fault in FAULTS]
    for title, rounds, sent, kept, *broken in (row[:8] for row in rows):
        assert (rounds, broken) == ("1", ["0", "0", "0", "0"]), title
        assert int(sent.replace(",", "")) >= int(kept.replace(",", ""))
        # An upstream that is mute sends nothing; every other fault's round must have had something to lose.
        assert (int(kept.replace(",", "")) == 0) is (title == StoppedWhileMute.title), title
    assert lines[-1] == "Every promise was kept."


def test_a_promise_that_is_broken_is_named_and_the_run_fails() -> None:
    done = run("--seed", "7", "--load", "2", "--faults", "tasks-late", "--patience", "0.1")
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout.startswith("seed 7\n")
    named = re.findall(
        r"^tasks delivered late, round 1: generation [0-9a-f]{32} \(.+\): expected .+$", done.stdout, re.M
    )
    assert len(named) == 4, "each with its round, and once more in the end"
    assert len(set(named)) == 2
    assert all("in time, it took longer" in sentence for sentence in named)
    assert "What the functions logged as errors:" in done.stdout
