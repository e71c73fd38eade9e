"""What the bench counts, at its smallest. It runs alone: where a listener is late, Firestore is asked for more."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from bench.plan import QUICK

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / "build" / "bench" / "quick" / "measured.json"
WAIT_SECONDS = 250.0


def test_what_firestore_is_asked_to_do_is_counted_to_the_last_write() -> None:
    command = [sys.executable, "-m", "bench", "--quick", "--only", "cost"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=WAIT_SECONDS, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    counted = json.loads(KEPT.read_bytes())["cost"]
    costs = {(cost["system"], cost["how"], cost["tokens"]): cost for cost in counted}
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
