"""The fault matrix as a user runs it: a short run of every fault, in every dialect, and one that breaks a promise."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from chaos.dialects import DIALECTS
from chaos.faults import FAULTS, StoppedWhileMute

ROOT = Path(__file__).resolve().parents[2]
WAIT_SECONDS = 600.0
pytestmark = pytest.mark.timeout(700)  # the run's own end comes first


def run(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "chaos", "--short", "--rounds", "1", *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=WAIT_SECONDS, check=False)


def table(lines: list[str], heading: str, rows: int) -> dict[str, list[str]]:
    """The rows below a heading, by their first column. Numbers are without commas."""
    start = next(place for place, line in enumerate(lines) if line.startswith(heading)) + 2
    every = [re.split(r"\s{2,}", line.strip()) for line in lines[start : start + rows]]
    return {name: [each.replace(",", "") for each in row] for name, *row in every}


def test_every_fault_leaves_every_promise_kept() -> None:
    done = run()
    assert done.returncode == 0, done.stdout + done.stderr
    seed, *lines = done.stdout.splitlines()
    assert re.fullmatch(r"seed \d+", seed)
    faults = table(lines, "fault ", len(FAULTS))
    assert list(faults) == [fault.title for fault in FAULTS]
    for title, (rounds, sent, kept, *broken) in ((title, row[:8]) for title, row in faults.items()):
        assert (rounds, broken) == ("1", ["0"] * 5), title
        assert int(sent) >= int(kept)
        # An upstream that is mute sends nothing; every other fault's round must have had something to lose.
        assert (int(kept) == 0) is (title == StoppedWhileMute.title), title
    dialects = table(lines, "dialect ", len(DIALECTS))
    assert dialects.keys() == {dialect.name for dialect in DIALECTS}
    for name, (asked, sent, kept, *broken) in dialects.items():
        # Each round asks in each of its dialects.
        assert int(asked) >= sum(name in {its.name for its in fault.dialects} for fault in FAULTS), name
        assert int(sent) >= int(kept) > 0, name
        assert broken == ["0"] * 5, name
    assert lines[-1] == "Every promise was kept."


def test_a_promise_that_is_broken_is_named_and_the_run_fails() -> None:
    done = run("--seed", "7", "--load", "2", "--faults", "tasks-late", "--patience", "0.1")
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout.startswith("seed 7\n")
    named = re.findall(
        r"^tasks delivered late, round 1: generation [0-9a-f]{32} \(.+, \w+\): expected .+$", done.stdout, re.M
    )
    assert len(named) == 4, "each with its round, and once more in the end"
    assert len(set(named)) == 2
    assert all("in time, it took longer" in sentence for sentence in named)
    assert "What the functions logged as errors:" in done.stdout
