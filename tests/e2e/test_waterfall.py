"""`make waterfall` with a single start: what lies between a request and its first token is seen, written and drawn."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

from bench.waterfall import AWAY_SECONDS
from operations import generated

ROOT = Path(__file__).resolve().parents[2]
WAIT_SECONDS = 300.0


def test_a_start_is_shown_from_the_request_to_the_first_token(tmp_path: Path) -> None:
    shutil.copy(ROOT / "docs" / "performance.md", tmp_path)
    command = [sys.executable, "-m", "bench.waterfall", "--starts", "1", "--docs", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=WAIT_SECONDS, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert generated.part(tmp_path / "performance.md", "waterfall") == done.stdout.strip()
    assert ElementTree.parse(tmp_path / "waterfall.svg").getroot().tag.endswith("svg")

    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines() if line[:1] == "|"]
    begins: dict[tuple[str, str], float] = {}
    for who, what, begin, end in rows[2:]:
        begins.setdefault(
            (who, re.sub(r"^(?:Commit|BatchWrite), (?=1 )", "commit, ", what)), float(begin.replace(",", ""))
        )
        if who.endswith("Firestore") and what != "snapshot" and end != "later":
            # A millisecond less, for what is rounded.
            assert float(end.replace(",", "")) - float(begin.replace(",", "")) >= 1000 * AWAY_SECONDS - 1
    way = [
        ("client", "request to first token"),
        ("api, Firestore", "Commit, 3 documents"),
        ("api", "enqueue"),
        ("worker", "POST /"),
        ("worker", "attempt"),
        ("worker", "upstream"),
        ("worker, Firestore", "commit, 1 document"),
    ]
    assert [begins[step] for step in way] == sorted(begins[step] for step in way)
    assert (
        begins["worker", "POST /"] < begins["worker, Firestore", "Commit, 3 documents"] < begins["worker", "upstream"]
    )
    assert ("api, Firestore", "snapshot") in begins
